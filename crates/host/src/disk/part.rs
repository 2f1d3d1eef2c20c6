//! A file that is under way. It is removed when it is dropped, unless it was published.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fireclaw_core::error::{Context, Result};

use crate::fs;

/// `.NAME.part` beside the target. The name is fixed, so that what a killed run left is found by the next.
pub(super) fn path_for(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".part");
    target.with_file_name(name)
}

pub(super) struct Part {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Part {
    /// An empty file, mode 0600, in place of whatever an earlier run left.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let path = path_for(target);
        fs::remove_file(&path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context("create", path.display())?;
        Ok(Self { path, file, published: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable and gives it its name.
    pub(super) fn publish(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().context("sync", self.path.display())?;
        std::fs::rename(&self.path, target).context("create", target.display())?;
        self.published = true;
        fs::sync_dir(target.parent().unwrap_or_else(|| Path::new(".")))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}
