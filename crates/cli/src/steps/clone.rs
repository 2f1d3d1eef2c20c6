//! Steps that make an instance of another one's disk. Touches `FC_ROOT/ID/images`, and through the disks the folder where bases
//! are kept; of the other instance everything is only read.

use std::collections::BTreeSet;

use fireclaw_core::{
    error::{Error, Result},
    guest::renewal::Renewal,
    id::vmm_uid,
    spec::DiskKind,
    state::InstanceRecord,
};
use fireclaw_host::{
    disk::{BaseCopy, WrittenCopy},
    keys::{self, SystemEntropy},
    lock::Lock,
};

use super::{Steps, disk::pin};

/// The instance that is copied.
pub struct Origin {
    record: InstanceRecord,
    /// Held until its disk is copied.
    lock: Option<Lock>,
    without_channels: bool,
    /// The channels that the copy lost.
    pub(super) lost: BTreeSet<String>,
}

impl Origin {
    /// The lock is the instance's own: while it is held nobody starts it.
    pub const fn new(record: InstanceRecord, lock: Lock, without_channels: bool) -> Self {
        Self { record, lock: Some(lock), without_channels, lost: BTreeSet::new() }
    }
}

impl Steps<'_> {
    pub(super) fn copy_disk(&mut self) -> Result<()> {
        let to = self.paths()?;
        let origin = self.origin.as_mut().ok_or_else(no_origin)?;
        let from = self.app.settings.layout.instance(&origin.record.id)?;
        pin(&from.kernel, &to.kernel)?;
        if from.initrd.exists() {
            pin(&from.initrd, &to.initrd)?;
        }
        let disks = origin.record.disks;
        self.app.host.disks.copy_written(&WrittenCopy {
            source: from.written_disk(disks).clone(),
            target: to.written_disk(disks).clone(),
            base: (disks == DiskKind::Shared).then_some(BaseCopy {
                base: from.base,
                link: to.base,
                pin: to.base_pin,
            }),
        })?;
        // From here on the source may be started again.
        origin.lock = None;
        Ok(())
    }

    pub(super) fn renew_identity(&mut self) -> Result<()> {
        let record = self.known()?.clone();
        let paths = self.paths()?;
        let origin = self.origin.as_mut().ok_or_else(no_origin)?;
        let host_key = keys::generate_host_key(&SystemEntropy, record.id.as_str())?;
        let renewal = Renewal {
            from: origin.record.id.clone(),
            to: record.id.clone(),
            disks: record.disks,
            machine_id: keys::machine_id(&SystemEntropy)?,
            host_key: host_key.clone(),
            token: record.gateway_token.clone(),
            old_login: old_login(&origin.record, &record)?,
            without_channels: origin.without_channels,
        };
        let disk = paths.written_disk(record.disks);
        origin.lost = self.app.host.disks.renew(disk, &renewal, vmm_uid(record.vm_ip))?;
        // The seed says the same.
        self.host_key = Some(host_key);
        Ok(())
    }

    /// The channels that a clone lost.
    pub fn lost_channels(&self) -> &BTreeSet<String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        self.origin.as_ref().map_or(&NONE, |origin| &origin.lost)
    }
}

/// The public half of the key that opens the source, where the clone is opened by another one.
fn old_login(source: &InstanceRecord, clone: &InstanceRecord) -> Result<Option<String>> {
    if source.ssh_key_path == clone.ssh_key_path || source.ssh_key_path.as_os_str().is_empty() {
        return Ok(None);
    }
    let new = keys::ensure_user_key(&clone.ssh_key_path, &SystemEntropy)?.public;
    Ok(keys::read_user_key(&source.ssh_key_path)?.filter(|old| *old != new))
}

fn no_origin() -> Error {
    Error::new("copy", "a disk").because("no instance was named")
}
