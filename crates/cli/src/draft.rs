//! The record of an instance that is to be made: what was asked for, what the host decides, and addresses that are free. Looks at
//! the host and the other records, and changes nothing.

use fireclaw_core::{
    alloc::{Allocation, allocate},
    error::{Error, Result},
    id::InstanceId,
    spec::{Idle, InstanceSpec, Rates, VmmKind, request::check_bot_is_free, value},
    state::{Containment, Format, InstanceRecord, ProviderKeys, record_defaults as defaults},
};
use fireclaw_host::{keys, vmm::socket};

use crate::{
    app::App,
    clock, containment,
    setup_checks::{self as checks, Boot},
};

/// What a new instance would get. Under the allocation's lock where it is to be kept.
pub fn free_addresses(app: &App, id: &InstanceId, host_port: Option<u16>) -> Result<Allocation> {
    let mut taken = app.store().taken()?;
    taken.links.extend(app.host.network.links()?);
    taken.listening = app.host.network.listening_ports()?;
    allocate(id, &app.settings.network, app.settings.base_port, host_port, &taken)
}

/// Two VMs at one API socket would be taken for each other.
fn socket_is_free(record: &InstanceRecord, others: &[InstanceRecord]) -> Result<()> {
    let path = &record.api_sock;
    let refused = |why: String| {
        Error::refused("--api-sock", path.display(), why)
            .hint("name another path, or leave it (and API_SOCK) out")
    };
    if let Some(other) = others.iter().find(|other| other.id != record.id && other.api_sock == *path) {
        return Err(refused(format!("is that of instance `{}`", other.id)));
    }
    if socket::is_listening(path) {
        return Err(refused("is somebody's: a process listens there".to_owned()));
    }
    Ok(())
}

/// The record, with secrets of its own. Refuses what cannot be.
pub fn of(
    app: &App,
    spec: &InstanceSpec,
    vmm: VmmKind,
    boot: &Boot,
    allocation: &Allocation,
) -> Result<InstanceRecord> {
    let runtime = checks::runtime(spec, boot)?;
    let supervisor = checks::supervisor(app, spec)?;
    let fresh = InstanceRecord {
        format: Format::PlainV2,
        id: spec.id.clone(),
        host_port: allocation.host_port,
        vm_ip: allocation.vm_ip,
        vm_tap: allocation.vm_tap.clone(),
        vm_mac: allocation.vm_mac,
        gateway_token: keys::random_token(&keys::SystemEntropy)?,
        model: defaults::MODEL.to_owned(),
        skills: value::skills(defaults::SKILLS)?,
        telegram_token: None,
        telegram_users: Vec::new(),
        odd_users: Vec::new(),
        openclaw_image: app.settings.openclaw_image.clone(),
        vcpu: spec.vcpu,
        mem_mib: spec.mem_mib,
        disk_size: spec.disk_size.clone(),
        api_sock: match &spec.api_sock {
            Some(path) => path.clone(),
            None => app.settings.layout.instance(&spec.id)?.api_sock,
        },
        ssh_key_path: app.settings.ssh_key_path.clone(),
        skip_browser_install: false,
        keys: ProviderKeys::default(),
        vmm,
        vmm_is_chosen: true,
        supervisor,
        runtime,
        image: boot.image.clone(),
        disks: boot.disks,
        cmdline: boot.cmdline.clone(),
        dns: checks::resolvers(spec, &checks::host_resolv_conf(), &app.host.network.own_addresses()?),
        created_at: clock::now_rfc3339(),
        network: app.settings.network.clone(),
        provisioned: false,
        containment: Containment::default(),
        rates: Rates::default(),
        idle: Idle::default(),
        unknown: Vec::new(),
        unknown_vars: Vec::new(),
    };
    let record = containment::completed(spec.changes.apply(&fresh)?, spec.changes.key_mode().is_none())?;
    let others = app.store().records()?;
    check_bot_is_free(&record, &others)?;
    socket_is_free(&record, &others)?;
    Ok(record)
}
