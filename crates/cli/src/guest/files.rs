//! Files of the guest under its root. Some lie in a folder of the gateway's user, who could put anything in their place: these
//! are opened and replaced without following links. Touches only the paths it is given.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    guest::{paths::GuestPaths, system::Account},
};
use fireclaw_host::fs as durable;

/// The largest file that is read.
const SIZE_MAX: u64 = 4 << 20;

/// The guest's files.
pub(super) struct Files {
    paths: GuestPaths,
}

impl Files {
    pub(super) fn new(paths: GuestPaths) -> Self {
        Self { paths }
    }

    /// The root of them all, as this process has it.
    pub(super) fn root(&self) -> PathBuf {
        self.paths.on_disk(Path::new("/"))
    }

    /// Whether something is at a path, links followed.
    pub(super) fn exists(&self, path: &Path) -> bool {
        self.paths.on_disk(path).exists()
    }

    /// A text file; `None` when it is not there. A link, a pipe or a device in its place is an error.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>> {
        self.open(path, nix::libc::O_NOFOLLOW)
    }

    /// A text file of the system, whose links are the administrator's.
    pub(super) fn read_system(&self, path: &Path) -> Result<Option<String>> {
        self.open(path, 0)
    }

    fn open(&self, path: &Path, flags: i32) -> Result<Option<String>> {
        let flags = flags | nix::libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(self.paths.on_disk(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new("read", path.display().to_string()).source(error)),
        };
        let refused = |why: &str| Error::new("read", path.display().to_string()).because(why);
        if !file.metadata().context("read", path.display())?.is_file() {
            return Err(refused("it is not a file"));
        }
        let mut text = String::new();
        file.take(SIZE_MAX + 1).read_to_string(&mut text).context("read", path.display())?;
        if text.len() as u64 > SIZE_MAX {
            return Err(refused("it is larger than 4 MiB"));
        }
        Ok(Some(text))
    }

    /// Writes a file of root's unless it is so already; says whether it wrote.
    pub(super) fn write(&self, path: &Path, content: &str, mode: u32) -> Result<bool> {
        let disk = self.paths.on_disk(path);
        let same = fs::symlink_metadata(&disk)
            .is_ok_and(|found| found.is_file() && found.mode() & 0o7777 == mode)
            && self.read(path)?.as_deref() == Some(content);
        if !same {
            durable::write(&disk, content.as_bytes(), mode)?;
        }
        Ok(!same)
    }

    /// Writes to what the kernel shows as a file, which cannot be replaced.
    pub(super) fn write_in_place(&self, path: &Path, content: &str) -> Result<()> {
        fs::write(self.paths.on_disk(path), content).context("write", path.display())
    }

    /// Writes a 0600 file of a user's by way of `beside`, in the same folder, so that it has its owner from its first moment.
    pub(super) fn write_owned(
        &self,
        path: &Path,
        beside: &Path,
        content: &str,
        owner: &Account,
    ) -> Result<()> {
        self.prepare_owned(beside, content, owner)?;
        self.replace(beside, path)
    }

    /// Writes a 0600 file of a user's that is not yet in its place.
    pub(super) fn prepare_owned(&self, path: &Path, content: &str, owner: &Account) -> Result<()> {
        let disk = self.paths.on_disk(path);
        durable::write(&disk, content.as_bytes(), 0o600)?;
        lchown(&disk, Some(owner.uid), Some(owner.gid)).context("hand over", path.display())
    }

    /// Puts a prepared file in its place.
    pub(super) fn replace(&self, from: &Path, to: &Path) -> Result<()> {
        let disk = self.paths.on_disk(to);
        fs::rename(self.paths.on_disk(from), &disk).context("write", to.display())?;
        durable::sync_dir(disk.parent().unwrap_or(Path::new("/")))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        durable::remove_file(&self.paths.on_disk(path))
    }

    /// Makes a folder of root's, 0700.
    pub(super) fn private_dir(&self, path: &Path) -> Result<()> {
        durable::ensure_private_dir(&self.paths.on_disk(path))
    }

    /// Makes a folder for a system file to lie in.
    pub(super) fn system_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(self.paths.on_disk(path)).context("create folder", path.display())
    }

    /// Gives a folder another place where there is none yet, and leaves a link to it: a unit that names the old place finds it there,
    /// running or started anew. One step, so that there is never neither. False when there is nothing to do.
    pub(super) fn adopt_dir(&self, from: &Path, to: &Path) -> Result<bool> {
        let (old, new) = (self.paths.on_disk(from), self.paths.on_disk(to));
        if !fs::symlink_metadata(&old).is_ok_and(|facts| facts.is_dir()) {
            return Ok(false);
        }
        match fs::symlink_metadata(&new) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // What a run left that was cut off here: a link that leads to itself.
            Ok(facts) if facts.is_symlink() && fs::read_link(&new).is_ok_and(|target| target == to) => {
                durable::remove_file(&new)?;
            }
            _ => return Ok(false),
        }
        std::os::unix::fs::symlink(to, &new).context("link", to.display())?;
        durable::exchange(&old, &new)?;
        for path in [&old, &new] {
            durable::sync_dir(path.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(true)
    }

    /// Makes a user's folder 0700; says what has to be done about its owner.
    pub(super) fn owned_dir(&self, path: &Path, owner: &Account) -> Result<Ownership> {
        let disk = self.paths.on_disk(path);
        match fs::symlink_metadata(&disk) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir(&disk).context("create folder", path.display())?;
                lchown(&disk, Some(owner.uid), Some(owner.gid)).context("hand over", path.display())?;
            }
            Err(error) => return Err(Error::new("read", path.display().to_string()).source(error)),
            Ok(found) if !found.is_dir() => {
                return Err(Error::new("use", path.display().to_string())
                    .because("it is not a folder")
                    .hint("a link is not followed here: bind-mount the folder instead, or remove the link"));
            }
            Ok(found) if found.uid() != owner.uid => return Ok(Ownership::AnotherUsers),
            Ok(_) => {}
        }
        fs::set_permissions(&disk, Permissions::from_mode(0o700))
            .context("set the mode of", path.display())?;
        Ok(Ownership::Right)
    }
}

/// Whose a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The user's.
    Right,
    /// Somebody else's, with all in it, perhaps.
    AnotherUsers,
}
