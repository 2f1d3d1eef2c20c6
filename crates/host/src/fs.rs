//! Durable files: written beside, synced, renamed, the folder synced. Touches only the paths it is given.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use fireclaw_core::error::{Context, Error, Kind, Result};

/// Makes a folder (and its parents) that only root can enter. An existing one keeps its mode.
pub fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).context("create folder", path.display())
}

/// Makes one folder 0700, tightening it when it is there already.
pub fn ensure_private_dir(path: &Path) -> Result<()> {
    make_private_dir(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).context("set the mode of", path.display())
}

/// Writes a file so that a crash leaves the old one or the new one, never a part. `mode` such as `0o600`.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .context("write", path.display())?;
    temporary.write_all(content).context("write", path.display())?;
    temporary
        .as_file()
        .set_permissions(Permissions::from_mode(mode))
        .context("set the mode of", path.display())?;
    temporary.as_file().sync_all().context("sync", path.display())?;
    temporary
        .persist(path)
        .map_err(|error| Error::new("write", path.display().to_string()).source(error.error))?;
    sync_dir(folder)
}

/// Makes a rename or removal in a folder durable.
pub fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|dir| dir.sync_all()).context("sync folder", folder.display())
}

/// Reads a whole text file; `None` when it is not there.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable("read", path, error)),
    }
}

/// What only root may see is nothing that is wrong with it.
fn unreadable(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    let denied = error.kind() == ErrorKind::PermissionDenied;
    let error = Error::new(operation, path.display().to_string()).source(error);
    if denied { error.kind(Kind::HostNotReady).hint("run it with sudo") } else { error }
}

/// The last bytes of a file as text; `None` when it is not there. What is not UTF-8 is replaced.
pub fn tail(path: &Path, bytes: u64) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::new("read", path.display().to_string()).source(error)),
    };
    let length = file.metadata().context("read", path.display())?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))
        .and_then(|_| file.read_to_end(&mut end))
        .context("read", path.display())?;
    Ok(Some(String::from_utf8_lossy(&end).into_owned()))
}

/// Removes a file; one that is not there is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::new("remove", path.display().to_string()).source(error))
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all in it; one that is not there is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::new("remove", path.display().to_string()).source(error))
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all in it so that no power cut brings it back.
pub fn remove_for_good(path: &Path) -> Result<()> {
    let there = path.exists();
    remove_tree(path)?;
    match path.parent() {
        Some(folder) if there => sync_dir(folder),
        _ => Ok(()),
    }
}

/// Removes whatever is at a path; nothing there is fine.
pub fn remove_any(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => remove_tree(path),
        _ => remove_file(path),
    }
}

/// Gives each of two the other's place, in one step.
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(std::io::Error::from)
        .context("exchange", format!("{} and {}", one.display(), other.display()))
}

/// The names in a folder, sorted; none when it is not there.
pub fn names(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.context("list", path.display())?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;
    use crate::exec::{Cmd, Exec, SystemExec};

    #[test]
    fn a_written_file_has_its_content_and_mode_and_no_sibling() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(dir.path()).unwrap(), ["x"]);
    }

    /// What a disk holds at one moment is what a power cut leaves of it.
    #[test]
    fn what_is_removed_for_good_stays_away_after_a_power_cut() {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (disk, point) = (dir.path().join("disk"), dir.path().join("point"));
        let run = |program: &str, args: &[&Path]| {
            SystemExec::default().check(Cmd::new(program).args(args)).unwrap();
        };
        std::fs::create_dir(&point).unwrap();
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &[Path::new("-q"), &disk]);
        run("mount", &[Path::new("-oloop"), &disk, &point]);
        std::fs::create_dir_all(point.join("one/more")).unwrap();
        File::open(&point).and_then(|dir| rustix::fs::syncfs(dir).map_err(Into::into)).unwrap();
        remove_for_good(&point.join("one")).unwrap();
        let after = dir.path().join("after");
        std::fs::copy(&disk, &after).unwrap();
        run("umount", &[&point]);
        run("mount", &[Path::new("-oloop"), &after, &point]);
        assert_eq!(names(&point).unwrap(), ["lost+found"]);
        run("umount", &[&point]);
        remove_for_good(&point.join("one")).unwrap();
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        remove_file(&dir.path().join("x")).unwrap();
        remove_tree(&dir.path().join("y")).unwrap();
        assert_eq!(read_if_there(&dir.path().join("x")).unwrap(), None);
    }
}
