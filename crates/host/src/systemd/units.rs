//! Unit files on the disk: written so that a crash leaves the old one or the new one. Touches the units' folder.

use std::path::{Path, PathBuf};

use fireclaw_core::{
    error::Result,
    id::InstanceId,
    layout::Layout,
    render::systemd::{is_of_bash, is_ours},
};

use crate::{fs, supervisor::Service};

/// How a unit file is, compared with what it should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It says what it should.
    Current,
    /// It is ours and says something else.
    Outdated,
    /// It is not ours: the Bash fireclaw's, or one that an administrator replaced or masked.
    Foreign,
    /// It is not there.
    Missing,
}

/// The file of a service's unit.
pub(super) fn path(layout: &Layout, id: &InstanceId, service: Service) -> PathBuf {
    layout.unit(&service.unit(id))
}

/// Looks at a unit file.
pub(super) fn look(path: &Path, wanted: &str) -> Result<Found> {
    if std::fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink()) {
        return Ok(Found::Foreign);
    }
    Ok(match fs::read_if_there(path)? {
        None => Found::Missing,
        Some(text) if text == wanted => Found::Current,
        // A file that was cut short by an older writer is ours to mend.
        Some(text) if text.is_empty() || is_ours(&text) => Found::Outdated,
        Some(_) => Found::Foreign,
    })
}

/// Whether the unit of a service is still the Bash fireclaw's.
pub(super) fn is_older(layout: &Layout, id: &InstanceId, service: Service) -> Result<bool> {
    let path = path(layout, id, service);
    if std::fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_symlink()) {
        return Ok(false);
    }
    let script = layout.instance(id)?.start_script;
    Ok(fs::read_if_there(&path)?.is_some_and(|text| is_of_bash(&text, &script)))
}

/// Puts ours in the place of one that is still the Bash fireclaw's.
pub(super) fn adopt(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text.as_bytes(), 0o644)
}

/// Writes a unit file that is missing or outdated. True when it wrote.
pub(super) fn write(path: &Path, text: &str) -> Result<bool> {
    match look(path, text)? {
        Found::Current | Found::Foreign => Ok(false),
        Found::Outdated | Found::Missing => fs::write(path, text.as_bytes(), 0o644).map(|()| true),
    }
}

/// Removes a unit file and what was added to it with `systemctl edit`. True when there was one.
pub(super) fn remove(path: &Path) -> Result<bool> {
    let additions = PathBuf::from(format!("{}.d", path.display()));
    let there = [path, &additions].iter().any(|path| std::fs::symlink_metadata(path).is_ok());
    if there {
        fs::remove_file(path)?;
        fs::remove_tree(&additions)?;
        if let Some(folder) = path.parent() {
            fs::sync_dir(folder)?;
        }
    }
    Ok(there)
}

/// Removes the units that put an instance to sleep and wake it, where they are ours. True when there was one.
pub(super) fn remove_wake(layout: &Layout, id: &InstanceId) -> Result<bool> {
    let mut removed = false;
    for unit in [id.wake_path_unit(), id.wake_unit()] {
        let path = layout.unit(&unit);
        if matches!(look(&path, "")?, Found::Current | Found::Outdated) {
            removed |= remove(&path)?;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "# Written by fireclaw: x\n[Unit]\n";

    #[test]
    fn only_ours_are_written_and_only_when_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.service");
        assert!(write(&path, OURS).unwrap());
        assert!(!write(&path, OURS).unwrap());
        let newer = format!("{OURS}Description=new\n");
        assert_eq!(look(&path, &newer).unwrap(), Found::Outdated);
        assert!(write(&path, &newer).unwrap());
        std::fs::write(&path, "[Unit]\nDescription=Firecracker\n").unwrap();
        assert!(!write(&path, OURS).unwrap());
        assert_eq!(look(&path, OURS).unwrap(), Found::Foreign);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(!write(&path, OURS).unwrap(), "a masked unit was unmasked");
    }

    #[test]
    fn a_unit_goes_with_its_additions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.service");
        write(&path, OURS).unwrap();
        std::fs::create_dir(dir.path().join("a.service.d")).unwrap();
        std::fs::write(dir.path().join("a.service.d/override.conf"), "").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(fs::names(dir.path()).unwrap().is_empty());
    }
}
