//! The folder that Firecracker sees as its root. Makes folders, links and, where a link is impossible, bind mounts under
//! the jail's base; removes all of them.
//!
//! Base and jail belong to root. The jailer adds the devices, its copy of the program and a `run` folder, and gives the
//! root of the jail to the VM's user.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::ErrorKind,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
    render::firecracker::jail_root,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The root of one VM's jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    root: PathBuf,
}

/// Whose a file in the jail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The VM's user owns it and may write it.
    Own,
    /// Root keeps it; the VM's group may read it.
    Read,
    /// Owner and mode stay: other VMs use it too.
    AsItIs,
}

impl Jail {
    /// Makes an empty jail. `exec_file` is Firecracker's program file without symlinks.
    pub fn make(base: &Path, exec_file: &Path, id: &InstanceId) -> Result<Self> {
        let root = jail_root(base, exec_file, id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .context("make the jail", root.display())?;
        Ok(Self { root })
    }

    /// A path in the jail as the host sees it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Puts a file into the jail under a name: a hard link, which needs no cleaning beyond its removal, or a bind mount
    /// where the file lies on another filesystem. Folders in the name are made. `owner` is the VM's user and group.
    pub fn share(&self, source: &Path, name: impl AsRef<Path>, how: Share, owner: (u32, u32)) -> Result<()> {
        // A hard link of a symlink would be a symlink, and lead nowhere inside the jail.
        let source = std::fs::canonicalize(source).context("find", source.display())?;
        give(&source, how, owner).context("give to the VM's user", source.display())?;
        let target = self.path(&name);
        self.open_folders(name.as_ref()).context("make the folders of", target.display())?;
        let linked = match std::fs::hard_link(&source, &target) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => bind(&source, &target),
            other => other,
        };
        linked.map_err(|error| {
            Error::new("put into the jail", format!("{} as {}", source.display(), target.display()))
                .source(error)
        })
    }

    /// Makes the folders in which a name lies: root's, and open to the VM's user whatever our umask is.
    fn open_folders(&self, name: &Path) -> std::io::Result<()> {
        let mut folder = self.root.clone();
        for part in name.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !folder.is_dir() {
                std::fs::create_dir(&folder)?;
                std::fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
            }
        }
        Ok(())
    }
}

fn give(file: &Path, how: Share, (uid, gid): (u32, u32)) -> std::io::Result<()> {
    let (owner, mode) = match how {
        Share::AsItIs => return Ok(()),
        Share::Own => (uid, 0o600),
        Share::Read => (0, 0o640),
    };
    // Closed before it changes hands, so that no wrong user gets in between.
    std::fs::set_permissions(file, Permissions::from_mode(0o600))?;
    chown(file, Some(owner), Some(gid))?;
    std::fs::set_permissions(file, Permissions::from_mode(mode))
}

fn bind(source: &Path, target: &Path) -> std::io::Result<()> {
    File::create_new(target)?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Unmounts all that is mounted under the base of a jail and removes the base. One that is not there is fine. Must not be
/// called while the VM runs.
pub fn clean(base: &Path) -> Result<()> {
    let base = match std::fs::canonicalize(base) {
        Ok(base) => base,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::new("find", base.display().to_string()).source(error)),
    };
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo")
        .context("read", "/proc/thread-self/mountinfo")?;
    // The last mount first: a later one may lie on an earlier one.
    for mounted in mount_points(&mounts, &base).into_iter().rev() {
        umount2(&mounted, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .context("unmount", mounted.display())?;
    }
    // Should one be left, its file cannot be unlinked, and this fails before it could reach what is mounted.
    crate::fs::remove_tree(&base)
}

/// The mount points strictly under a folder, in the order in which they were mounted.
fn mount_points(mountinfo: &str, base: &Path) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field))))
        .filter(|point| point.starts_with(base) && point != base)
        .collect()
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(value) = value {
            bytes.push(value);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn jail(base: &Path) -> Jail {
        Jail::make(base, Path::new("/usr/local/bin/firecracker"), &"my-bot".parse().unwrap()).unwrap()
    }

    #[test]
    fn folders_in_a_name_are_open_to_the_vms_user() {
        let dir = tempfile::tempdir().unwrap();
        let jail = jail(&dir.path().join("jail"));
        let source = dir.path().join("libc.so");
        std::fs::write(&source, "lib").unwrap();
        for name in ["lib64/libc.so", "lib/x86/libc.so", "lib/x86/other.so"] {
            jail.share(&source, name, Share::AsItIs, (64_000, 64_001)).unwrap();
        }
        for (folder, mode) in [("", 0o700), ("lib64", 0o755), ("lib", 0o755), ("lib/x86", 0o755)] {
            assert_eq!(jail.path(folder).metadata().unwrap().mode() & 0o777, mode, "{folder}");
        }
    }

    #[test]
    fn files_on_the_same_filesystem_are_linked_with_the_right_owner() {
        let dir = tempfile::tempdir().unwrap();
        let jail = jail(&dir.path().join("jail"));
        for (name, how, owner, group, mode) in [
            ("disk", Share::Own, 64_000, 64_001, 0o600),
            ("seed", Share::Read, 0, 64_001, 0o640),
            ("kernel", Share::AsItIs, 0, 0, 0o644),
        ] {
            let source = dir.path().join(name);
            std::fs::write(&source, name).unwrap();
            std::fs::set_permissions(&source, Permissions::from_mode(0o644)).unwrap();
            jail.share(&source, name, how, (64_000, 64_001)).unwrap();
            let there = jail.path(name).metadata().unwrap();
            assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (owner, group, mode), "{name}");
            assert_eq!(there.ino(), source.metadata().unwrap().ino());
        }
        clean(&dir.path().join("jail")).unwrap();
        assert!(!dir.path().join("jail").exists());
        assert_eq!(std::fs::read(dir.path().join("disk")).unwrap(), b"disk");
        clean(&dir.path().join("jail")).unwrap();
    }

    #[test]
    fn a_symlink_is_followed_before_it_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("real"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let jail = jail(&dir.path().join("jail"));
        jail.share(&dir.path().join("link"), "kernel", Share::AsItIs, (1, 1)).unwrap();
        assert!(jail.path("kernel").symlink_metadata().unwrap().is_file());
        let error = jail.share(&dir.path().join("none"), "x", Share::AsItIs, (1, 1)).unwrap_err();
        assert!(error.one_line().contains("none"), "{}", error.one_line());
    }

    /// A file of another filesystem is mounted, twice over even, and cleaning takes the mounts away and leaves the file.
    #[test]
    fn a_file_of_another_filesystem_is_mounted_and_survives_the_cleaning() {
        // A mount namespace of this thread's own: whatever goes wrong, the machine keeps no mount.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other disk");
        std::fs::create_dir(&other).unwrap();
        mount(Some("tmpfs"), &other, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write(other.join("kernel"), "kept").unwrap();
        let base = dir.path().join("jail base");
        let jail = jail(&base);
        jail.share(&other.join("kernel"), "kernel", Share::AsItIs, (1, 1)).unwrap();
        mount(
            Some(&other.join("kernel")),
            &jail.path("kernel"),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        assert_eq!(std::fs::read(jail.path("kernel")).unwrap(), b"kept");
        // /proc/self is the process; the mounts are those of this thread.
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mount_points(&mounts(), &base).len(), 2);
        clean(&base).unwrap();
        assert_eq!(mount_points(&mounts(), &base).len(), 0);
        assert!(!base.exists());
        assert_eq!(std::fs::read(other.join("kernel")).unwrap(), b"kept");
        umount2(&other, MntFlags::MNT_DETACH).unwrap();
    }

    #[test]
    fn mount_points_are_those_strictly_below_and_unescaped() {
        let mountinfo = "\
            21 1 8:1 / / rw - ext4 /dev/vda rw\n\
            30 21 8:1 /x /jails/a rw - ext4 /dev/vda rw\n\
            31 21 8:1 /x /jails/a/b\\040c rw shared:1 - ext4 /dev/vda rw\n\
            32 21 8:1 /x /jails/ab rw - ext4 /dev/vda rw\n\
            33 21 8:1 /x /jails/a/b\\040c/d\\134e rw - ext4 /dev/vda rw\n";
        assert_eq!(
            mount_points(mountinfo, Path::new("/jails/a")),
            [PathBuf::from("/jails/a/b c"), PathBuf::from("/jails/a/b c/d\\e")]
        );
    }
}
