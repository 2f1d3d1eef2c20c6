//! `clone`

use std::collections::BTreeSet;

use fireclaw_core::{
    alloc::Allocation,
    broker::Provider,
    error::{Error, Result},
    guest::renewal::{has_channels, provision_first},
    id::InstanceId,
    plan::{Action, Direction, Plan, Step},
    spec::{DiskKind, KeyMode, value, vmm_choice::choose},
    state::{Format, InstanceRecord},
};
use fireclaw_host::{
    keys, lock,
    supervisor::{Service, State},
    vmm::socket,
};

use super::{
    clean::by_hand,
    lifecycle,
    run::api_sock,
    setup::{ALLOCATION, made},
    show_plan,
};
use crate::{
    app::App,
    args::CloneArgs,
    clock, containment,
    doctor::{self, Need, Purpose},
    draft::free_addresses,
    fleet,
    setup_checks::{self as checks, MayInstall},
    steps::{Origin, Steps},
};

/// What was asked for, checked for itself.
struct Request {
    from: InstanceId,
    to: InstanceId,
    host_port: Option<u16>,
    vcpu: Option<u32>,
    mem_mib: Option<u32>,
    without_channels: bool,
}

/// Copies a stopped instance and makes the copy an instance of its own.
pub fn run(app: &App, args: &CloneArgs) -> Result<()> {
    let request = Request::of(args)?;
    if args.dry_run {
        return dry_run(app, args, &request);
    }
    app.need_root()?;
    app.store().load(&request.from)?;
    let mut progress = app.ui.progress();
    let held_source = app.hold_existing(&request.from, &mut progress)?;
    let _held = app.hold(&request.to)?;
    app.recover(&request.to, &mut progress)?;
    // Read again: recovery may have changed the record.
    let source = app.store().load(&request.from)?;
    request.may_be_carried_out(app, &source)?;
    let mem_mib = request.mem_mib.unwrap_or(source.mem_mib);
    checks::memory(app, mem_mib)?;
    let needs = Need::to_run(source.vmm);
    let purpose = Purpose { supervisor: app.supervised_by(&source), ..Purpose::of_settings(app, needs) };
    doctor::must_be_ready(&doctor::examine(app, &purpose))?;
    choose(Some(source.vmm), &checks::vmm_facts(app, MayInstall::default())?)?;
    let allocation_lock =
        lock::wait_for(&app.settings.layout.allocation_lock(), "addresses", ALLOCATION, &app.interrupt)?;
    let allocation = free_addresses(app, &request.to, request.host_port)?;
    let record = renewed(app, &request, &source, allocation)?;
    let origin = Origin::new(source.clone(), held_source, request.without_channels);
    let mut steps = Steps::of_clone(app, record, origin, allocation_lock);
    let times = app.carry_out(&Plan::clone_to(&request.to), &mut steps, &mut progress)?;
    tell(app, &source, steps.lost_channels());
    let record = app.store().load(&request.to)?;
    lifecycle::finish(app, &record, args.output, times)
}

impl Request {
    fn of(args: &CloneArgs) -> Result<Self> {
        if args.id == args.new {
            return Err(Error::refused("NEW", &args.new, "exists already: it is the source")
                .hint("choose another id for the clone"));
        }
        Ok(Self {
            from: args.id.parse()?,
            to: args.new.parse()?,
            host_port: args.host_port.map(value::host_port).transpose()?,
            vcpu: args.vm_vcpu.map(value::vcpu).transpose()?,
            mem_mib: args.vm_mem_mib.map(value::mem_mib).transpose()?,
            without_channels: args.without_channels,
        })
    }

    /// Refuses what can be seen without the disk. What its own files say is looked at when it was copied.
    fn may_be_carried_out(&self, app: &App, source: &InstanceRecord) -> Result<()> {
        checks::must_be_new(app, &self.to, "NEW")?;
        must_be_at_rest(app, source)?;
        if !source.provisioned || source.format != Format::PlainV2 {
            let id = &source.id;
            return Err(Error::refused("instance", id, "was never provisioned by this fireclaw")
                .hint(provision_first(id)));
        }
        if source.telegram_token.is_some() && !self.without_channels {
            return Err(has_channels(&source.id, &["telegram"]));
        }
        Ok(())
    }
}

/// The one place that says whether a disk may be copied: nothing may run from it. A disk whose VM left a snapshot behind is as
/// good as a stopped one's; the snapshot is the source's alone and is not copied.
fn must_be_at_rest(app: &App, source: &InstanceRecord) -> Result<()> {
    let id = &source.id;
    let status = fleet::service_status(app, source, Service::Vm);
    match status.state {
        State::Inactive | State::Failed => {}
        State::Unknown => {
            return Err(Error::new("clone", format!("instance `{id}`"))
                .because(status.detail.unwrap_or_else(|| "it is not known whether its VM runs".to_owned()))
                .hint(format!("see `fireclaw status {id}`")));
        }
        State::Active | State::Activating | State::Deactivating => {
            return Err(Error::refused("instance", id, "is running, and its disk changes all the time")
                .hint(format!("`fireclaw stop {id}` or `fireclaw hibernate {id}` first")));
        }
    }
    if socket::is_listening(&api_sock(app, source)?) {
        return Err(by_hand(id, "copy"));
    }
    checks::disk_is_there(id, app.settings.layout.instance(id)?.written_disk(source.disks))
}

/// The record of the clone: what it may do and how large it is come from its source; who it is does not.
fn renewed(
    app: &App,
    request: &Request,
    source: &InstanceRecord,
    allocation: Allocation,
) -> Result<InstanceRecord> {
    let mut record = InstanceRecord {
        id: request.to.clone(),
        host_port: allocation.host_port,
        vm_ip: allocation.vm_ip,
        vm_tap: allocation.vm_tap,
        vm_mac: allocation.vm_mac,
        gateway_token: keys::random_token(&keys::SystemEntropy)?,
        telegram_token: None,
        telegram_users: Vec::new(),
        odd_users: Vec::new(),
        vcpu: request.vcpu.unwrap_or(source.vcpu),
        mem_mib: request.mem_mib.unwrap_or(source.mem_mib),
        api_sock: app.settings.layout.instance(&request.to)?.api_sock,
        ssh_key_path: app.settings.ssh_key_path.clone(),
        created_at: clock::now_rfc3339(),
        network: app.settings.network.clone(),
        provisioned: false,
        ..source.clone()
    };
    record.containment.broker_token = None;
    containment::completed(record, false)
}

/// What the owner of both should know.
fn tell(app: &App, source: &InstanceRecord, lost: &BTreeSet<String>) {
    let names: Vec<String> = Provider::ALL
        .into_iter()
        .filter(|provider| provider.key(&source.keys).is_some())
        .map(|provider| provider.to_string())
        .collect();
    if !names.is_empty() {
        let place = match source.containment.keys {
            KeyMode::Broker => "on the host",
            KeyMode::Guest => "and are in its guest",
        };
        app.ui.note(&format!("the keys of `{}` were copied, {place}: {}", source.id, names.join(", ")));
    }
    if !lost.is_empty() {
        let lost: Vec<&str> = lost.iter().map(String::as_str).collect();
        app.ui.note(&format!("channels that the clone has not: {}", lost.join(", ")));
    }
}

fn dry_run(app: &App, args: &CloneArgs, request: &Request) -> Result<()> {
    let source = app.store().load(&request.from)?;
    request.may_be_carried_out(app, &source)?;
    let allocation = free_addresses(app, &request.to, request.host_port)?;
    let paths = app.settings.layout.instance(&request.to)?;
    let of = app.settings.layout.instance(&source.id)?;
    let base = if source.disks == DiskKind::Shared { "; the base is shared" } else { "" };
    show_plan(app.ui, args.output, &Plan::clone_to(&request.to), |action: &Action| {
        match (action.step, action.direction) {
            (Step::CopyDisk, Direction::Apply) => format!(
                "{} to {}{base}",
                of.written_disk(source.disks).display(),
                paths.written_disk(source.disks).display()
            ),
            (Step::RenewIdentity, Direction::Apply) => {
                "machine-id, SSH host key, gateway token, names with the ID".to_owned()
            }
            _ => made(*action, &paths, &allocation),
        }
    })
}
