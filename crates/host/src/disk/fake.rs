//! [`Disks`] that makes empty sparse files and fails when told to. Touches the targets.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    guest::renewal::{Renewal, has_channels},
};
use nix::errno::Errno;

use super::{BaseCopy, DiskOrigin, Disks, RootDisk, WrittenCopy};
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
    channels: BTreeSet<String>,
    renewed: Vec<Renewal>,
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

    /// The channels that guests have from now on.
    pub fn set_channels(&self, channels: &[&str]) {
        self.state().channels = channels.iter().map(|name| (*name).to_owned()).collect();
    }

    /// What disks were renewed with, in order.
    pub fn renewed(&self) -> Vec<Renewal> {
        self.state().renewed.clone()
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

    fn copy_written(&self, copy: &WrittenCopy) -> Result<DiskOrigin> {
        let WrittenCopy { source, target, base } = copy;
        if target.exists() {
            return Ok(DiskOrigin::Present);
        }
        if let Some(errno) = self.state().failures.pop_front() {
            return Err(Error::new("write", target.display().to_string()).source(errno));
        }
        if let Some(BaseCopy { base, link, pin }) = base {
            super::pin::keep(base, link, pin)?;
        }
        let length = std::fs::metadata(source).context("look at", source.display())?.len();
        File::create(target).and_then(|file| file.set_len(length)).context("create", target.display())?;
        Ok(DiskOrigin::SparseCopy { bytes: 0 })
    }

    fn renew(&self, disk: &Path, renewal: &Renewal, _: u32) -> Result<BTreeSet<String>> {
        let mut state = self.state();
        if let Some(errno) = state.failures.pop_front() {
            fs::remove_file(disk)?;
            return Err(Error::new("change", disk.display().to_string()).source(errno));
        }
        let channels = state.channels.clone();
        if !channels.is_empty() && !renewal.without_channels {
            let names: Vec<&str> = channels.iter().map(String::as_str).collect();
            return Err(has_channels(&renewal.from, &names));
        }
        state.renewed.push(renewal.clone());
        Ok(channels)
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
