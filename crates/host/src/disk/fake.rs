//! [`Disks`] that makes empty sparse files and fails when told to. Touches the targets.

use std::{
    collections::VecDeque,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use fireclaw_core::error::{Context, Error, Result};
use nix::errno::Errno;

use super::{DiskOrigin, Disks, RootDisk};
use crate::fs;

/// Disks without content.
#[derive(Debug, Clone, Default)]
pub struct FakeDisks {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    failures: VecDeque<Errno>,
    free: Option<u64>,
    made: Vec<RootDisk>,
}

impl FakeDisks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Lets the next creation fail, `Errno::ENOSPC` for a full disk.
    pub fn fail_next(&self, errno: Errno) {
        self.state().failures.push_back(errno);
    }

    /// What [`Disks::free_bytes`] answers from now on.
    pub fn set_free(&self, bytes: u64) {
        self.state().free = Some(bytes);
    }

    /// The disks that were made, in order.
    pub fn made(&self) -> Vec<RootDisk> {
        self.state().made.clone()
    }
}

impl Disks for FakeDisks {
    fn create_root(&self, disk: &RootDisk) -> Result<DiskOrigin> {
        let target = disk.target();
        if target.exists() {
            return Ok(DiskOrigin::Present);
        }
        if let Some(errno) = self.state().failures.pop_front() {
            return Err(Error::new("write", target.display().to_string()).source(errno));
        }
        let (size, origin) = match disk {
            RootDisk::Copy { size, .. } => (size, DiskOrigin::SparseCopy { bytes: 0 }),
            RootDisk::Layered { base, link, pin, size, .. } => {
                (size, DiskOrigin::Layered(super::pin::keep(base, link, pin)?))
            }
        };
        File::create(target)
            .and_then(|file| file.set_len(size.bytes()))
            .context("create", target.display())?;
        self.state().made.push(disk.clone());
        Ok(origin)
    }

    fn remove_root(&self, disk: &RootDisk) -> Result<()> {
        if let RootDisk::Layered { link, pin, .. } = disk {
            fs::remove_file(link)?;
            fs::remove_file(pin)?;
        }
        fs::remove_file(disk.target())
    }

    fn allocated_bytes(&self, path: &Path) -> Result<u64> {
        super::space::allocated_bytes(path)
    }

    fn free_bytes(&self, _: &Path) -> Result<u64> {
        Ok(self.state().free.unwrap_or(1 << 40))
    }
}
