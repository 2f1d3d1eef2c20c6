//! The tree of a root filesystem while it is made: writes entries into it, runs its programs inside it. Touches only what
//! lies below the root that it is given.

use std::{
    ffi::OsString,
    fs::{DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use fireclaw_core::error::{Context, Error, Result};

use super::customise::{Entry, Owner};
use crate::{exec::Cmd, fs};

/// A tree under `root`.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree at a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a path of the guest lies on the host. Refuses one that leads through a symbolic link: an absolute link in
    /// the tree would lead out of it.
    pub fn path(&self, guest: &str) -> Result<PathBuf> {
        let mut path = self.root.clone();
        let mut parts = guest.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if part == ".." {
                return Err(Error::new("write", guest).because("leads up"));
            }
            path.push(part);
            if parts.peek().is_some() && path.is_symlink() {
                return Err(
                    Error::new("write", guest).because(format!("{} is a symbolic link", path.display()))
                );
            }
        }
        Ok(path)
    }

    /// Writes entries. Doing it twice is the same as doing it once.
    pub fn apply(&self, entries: &[Entry]) -> Result<()> {
        entries.iter().try_for_each(|entry| self.put(entry))
    }

    fn put(&self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::File { path, mode, content } => {
                let path = self.cleared(path)?;
                std::fs::write(&path, content).context("write", path.display())?;
                set_mode(&path, *mode)
            }
            Entry::Dir { path, mode, owner } => self.dir(path, *mode, *owner),
            Entry::Link { path, target } => {
                let path = self.cleared(path)?;
                symlink(target, &path).context("link", path.display())
            }
            Entry::Absent { path } => remove(&self.path(path)?),
            Entry::Without { path, word } => {
                let path = self.path(path)?;
                let Some(text) = fs::read_if_there(&path)? else { return Ok(()) };
                let kept: String =
                    text.split_inclusive('\n').filter(|line| !line.contains(word.as_str())).collect();
                // In place: its mode and owner stay.
                std::fs::write(&path, kept).context("write", path.display())
            }
        }
    }

    /// Puts a program of the host into the tree by two names, of which the second may be replaced without the first.
    pub fn install(&self, program: &Path, first: &str, second: &str) -> Result<()> {
        let (first, second) = (self.cleared(first)?, self.cleared(second)?);
        std::fs::copy(program, &first).context("copy", program.display())?;
        set_mode(&first, 0o755)?;
        std::fs::hard_link(&first, &second).context("link", second.display())
    }

    fn dir(&self, guest: &str, mode: u32, owner: Owner) -> Result<()> {
        let path = self.path(guest)?;
        make_parents(&path)?;
        match DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::new("create folder", path.display().to_string()).source(error));
            }
            _ => {}
        }
        let (uid, gid) = owner.ids();
        chown(&path, Some(uid), Some(gid)).context("own", path.display())?;
        set_mode(&path, mode)
    }

    /// The place of a new file: its folder is there and it is not.
    fn cleared(&self, guest: &str) -> Result<PathBuf> {
        let path = self.path(guest)?;
        make_parents(&path)?;
        remove(&path)?;
        Ok(path)
    }

    /// A program of the tree, run in the tree: processes, mounts and network of its own, so that nothing of it reaches the
    /// host's programs or the internet, and nothing of it outlives the run. `ids` are the uid and gid that it runs as.
    pub fn inside(&self, ids: (u32, u32), program: &str) -> Cmd {
        let mut mount = OsString::from("--mount-proc=");
        mount.push(self.root.join("proc"));
        let (uid, gid) = ids;
        Cmd::new("unshare")
            .args(["--fork", "--pid", "--kill-child", "--mount", "--net", "--uts", "--ipc"])
            .arg(mount)
            // Stays root and the first process of the namespace, which ends with it: who changes its user is no longer told of its
            // parent's end.
            .args(["sh", "-c", "\"$@\" & wait $!", "sh", "chroot"])
            .arg(format!("--userspec={uid}:{gid}"))
            .arg(&self.root)
            .arg(program)
            .dies_at_once()
            .about("the new root filesystem")
    }
}

fn make_parents(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o755).create(parent).context("create folder", parent.display())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).context("set the mode of", path.display())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::new("look at", path.display().to_string()).source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().join("root"));
        (dir, tree)
    }

    #[test]
    fn entries_replace_what_is_there_and_can_be_written_twice() {
        let (_dir, tree) = tree();
        let entries = [
            Entry::File { path: "/etc/a".into(), mode: 0o440, content: "x".into() },
            Entry::Link { path: "/etc/b".into(), target: "/dev/null".into() },
            Entry::File {
                path: "/etc/pam".into(),
                mode: 0o644,
                content: "one\n-two pam_x.so\nthree\n".into(),
            },
            Entry::Without { path: "/etc/pam".into(), word: "pam_x.so".into() },
            Entry::Absent { path: "/etc/none".into() },
        ];
        tree.apply(&entries).unwrap();
        tree.apply(&entries).unwrap();
        let a = tree.root.join("etc/a");
        assert_eq!(std::fs::read_to_string(&a).unwrap(), "x");
        assert_eq!(std::fs::metadata(&a).unwrap().permissions().mode() & 0o7777, 0o440);
        assert_eq!(std::fs::read_link(tree.root.join("etc/b")).unwrap(), Path::new("/dev/null"));
        assert_eq!(std::fs::read_to_string(tree.root.join("etc/pam")).unwrap(), "one\nthree\n");
    }

    #[test]
    fn a_link_in_the_tree_does_not_lead_out_of_it() {
        let (dir, tree) = tree();
        std::fs::create_dir_all(&tree.root).unwrap();
        symlink(dir.path(), tree.root.join("etc")).unwrap();
        let error = tree
            .apply(&[Entry::File { path: "/etc/a".into(), mode: 0o644, content: String::new() }])
            .unwrap_err();
        assert!(error.one_line().contains("symbolic link"), "{}", error.one_line());
        assert!(!dir.path().join("a").exists());
        assert!(tree.path("/a/../../b").is_err());
    }

    #[test]
    fn a_file_that_is_itself_a_link_is_replaced_and_not_followed() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        std::fs::create_dir_all(&tree.root).unwrap();
        symlink(&outside, tree.root.join("a")).unwrap();
        tree.apply(&[Entry::File { path: "/a".into(), mode: 0o644, content: "new".into() }]).unwrap();
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "kept");
    }
}
