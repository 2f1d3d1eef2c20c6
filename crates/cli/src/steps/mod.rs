//! What each step of a plan does, on the host's effects. One file a group of steps; this one dispatches.

mod clone;
mod disk;
mod guest;
mod hibernate;
mod network;
mod record;
mod services;

pub use clone::Origin;
pub use guest::guest_of;
pub use network::{attach, limit_network, reinstall_firewall, rules};
pub use services::install as install_services;

use std::path::PathBuf;

use fireclaw_core::{
    error::{Error, Result},
    id::InstanceId,
    layout::InstancePaths,
    plan::Step,
    render::cloud_init::GuestHostKey,
    state::InstanceRecord,
};
use fireclaw_host::lock::Lock;

use crate::{
    app::App,
    engine::{Effects, Observer},
};

/// Where a new instance's kernel and disks are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFiles {
    /// ELF or bzImage.
    pub kernel: PathBuf,
    /// ext4.
    pub rootfs: PathBuf,
    /// Initial ramdisk.
    pub initrd: Option<PathBuf>,
}

/// The steps of one instance.
pub struct Steps<'a> {
    app: &'a App,
    id: InstanceId,
    /// As it is or, at setup, is going to be. `None` for an instance whose record cannot be read.
    record: Option<InstanceRecord>,
    /// What `provision` changes the record to.
    changed: Option<InstanceRecord>,
    /// At setup only.
    base: Option<BaseFiles>,
    /// At clone only.
    origin: Option<Origin>,
    /// The guest's host key, where it was made before the seed is.
    host_key: Option<GuestHostKey>,
    /// Held from the allocation until the record is on the disk.
    allocation: Option<Lock>,
    /// How long a gateway may take to finish; zero cuts it off.
    patience: std::time::Duration,
    /// What the guest reported as changed by the last provisioning.
    guest_changes: Vec<String>,
    /// How often a gateway that the machine was too slow for was started again.
    retries: std::cell::Cell<u32>,
    /// How often its services had been restarted by themselves before: VM, proxy.
    restarts: [std::cell::Cell<Option<u32>>; 2],
    /// The VM was started from a snapshot.
    resumed: bool,
}

/// The seconds that OpenClaw drains for at most, and some.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(330);

impl<'a> Steps<'a> {
    /// For an instance that is there, readable or not.
    pub fn of_existing(app: &'a App, id: &InstanceId) -> Self {
        Self { record: app.store().load(id).ok(), ..Self::knowing_nothing(app, id) }
    }

    /// For an instance that is being made. The lock is that of the allocation.
    pub fn of_new(app: &'a App, record: InstanceRecord, base: BaseFiles, allocation: Lock) -> Self {
        let nothing = Self::knowing_nothing(app, &record.id);
        Self { record: Some(record), base: Some(base), allocation: Some(allocation), ..nothing }
    }

    /// For an instance that is being made of another one.
    pub fn of_clone(app: &'a App, record: InstanceRecord, origin: Origin, allocation: Lock) -> Self {
        let nothing = Self::knowing_nothing(app, &record.id);
        Self { record: Some(record), origin: Some(origin), allocation: Some(allocation), ..nothing }
    }

    fn knowing_nothing(app: &'a App, id: &InstanceId) -> Self {
        Self {
            app,
            id: id.clone(),
            record: None,
            changed: None,
            base: None,
            origin: None,
            host_key: None,
            allocation: None,
            patience: PATIENCE,
            guest_changes: Vec::new(),
            retries: std::cell::Cell::new(0),
            restarts: Default::default(),
            resumed: false,
        }
    }

    /// For `provision`.
    #[must_use]
    pub fn changing_to(mut self, changed: InstanceRecord) -> Self {
        self.changed = Some(changed);
        self
    }

    /// For `stop`.
    #[must_use]
    pub const fn patient_for(mut self, patience: std::time::Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the guest changed in the last provisioning.
    pub fn guest_changes(&self) -> &[String] {
        &self.guest_changes
    }

    /// The record as it is after the plan.
    pub const fn record(&self) -> Option<&InstanceRecord> {
        self.record.as_ref()
    }

    fn paths(&self) -> Result<InstancePaths> {
        self.app.settings.layout.instance(&self.id)
    }

    fn known(&self) -> Result<&InstanceRecord> {
        match &self.record {
            Some(record) => Ok(record),
            // Reading again gives the error that says why.
            None => self
                .app
                .store()
                .load(&self.id)
                .and_then(|_| Err(Error::new("use", format!("instance `{}`", self.id)))),
        }
    }
}

impl Effects for Steps<'_> {
    fn apply(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()> {
        match step {
            Step::SaveRecord => self.save_record(),
            Step::MakeFolders => self.make_folders(),
            Step::CreateDisk => self.create_disk(),
            Step::WriteSeed => self.write_seed(),
            Step::InstallServices => self.install_services(),
            Step::JoinNetwork => self.join_network(),
            Step::StartVm => self.start_vm(watch),
            Step::AwaitLogin => self.await_login(watch),
            Step::InstallAgent => self.install_agent(watch),
            Step::ProvisionGuest => self.provision_guest(watch),
            Step::MarkProvisioned => self.mark_provisioned(),
            Step::StartProxy => self.start_proxy(),
            Step::AwaitGates => self.await_gates(watch),
            Step::StageSettings => self.stage_settings(),
            Step::CommitSettings => self.commit_settings(),
            Step::StopProxy => self.stop_proxy(),
            Step::StopGateway => self.stop_gateway(watch),
            Step::CopyDisk => self.copy_disk(),
            Step::RenewIdentity => self.renew_identity(),
            Step::StopVm => self.stop_vm(watch),
            Step::SyncGuest => self.sync_guest(watch),
            Step::SaveMemory => self.save_memory(watch),
            Step::EndVm => self.end_vm(),
            Step::SettleProxy => self.settle_proxy(),
        }
    }

    fn undo(&mut self, step: Step, _watch: &mut dyn Observer) -> Result<()> {
        match step {
            Step::SaveRecord => self.remove_record(),
            Step::MakeFolders => self.remove_folders(),
            Step::InstallServices => self.remove_services(),
            Step::JoinNetwork => self.leave_network(),
            Step::StartVm => self.cut_vm_off(),
            Step::StartProxy => self.stop_proxy(),
            Step::StageSettings => self.app.store().drop_staged(&self.id),
            Step::SaveMemory => self.let_run_on(),
            _ => Ok(()),
        }
    }
}

impl Steps<'_> {
    /// Ends what the steps keep open: the SSH connection to the guest.
    pub fn close(&self) {
        // Nothing depends on it: a connection that is left ends by itself.
        let _ = self.guest().and_then(|guest| self.app.host.shell.close(&guest));
    }
}
