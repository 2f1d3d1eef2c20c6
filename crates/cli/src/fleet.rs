//! What `list` and `status` show: records, supervisor and gateways put together. Starts no program: with hundreds of
//! instances it must stay a glance.

mod disks;

pub use disks::runs_from_image;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use fireclaw_core::{
    error::{Error, Result},
    id::InstanceId,
    plan::Operation,
    report::{AllocationReport, Health, InstanceRow, StatusCheck, StatusReport, UnitState},
    spec::{DiskKind, Rates, SupervisorKind},
    state::InstanceRecord,
};
use fireclaw_host::{
    lock,
    supervisor::{Service, ServiceStatus, State},
};

use crate::{app::App, containment, deadlines, engine::Past, hibernate, store::Found};

/// The rows of all instances, by name.
pub fn rows(app: &App) -> Result<Vec<InstanceRow>> {
    let found = app.store().all()?;
    let states = states(app, &found);
    let mut rows: Vec<InstanceRow> = found.iter().map(|found| row(app, found, &states)).collect();
    let asked: Vec<(usize, SocketAddr)> = rows
        .iter()
        .enumerate()
        // A question to a sleeping instance would wake it.
        .filter(|(_, row)| row.proxy == UnitState::Active && row.vm != UnitState::Hibernated)
        .filter_map(|(index, _)| match &found[index] {
            Found::Instance(record) => Some((index, asked_at(record))),
            Found::Damaged { .. } => None,
        })
        .collect();
    let addresses: Vec<SocketAddr> = asked.iter().map(|(_, address)| *address).collect();
    let health = app.host.gateway.health(&addresses, deadlines::glance())?;
    for ((index, _), health) in asked.into_iter().zip(health) {
        set_health(&mut rows[index], health);
    }
    Ok(rows)
}

/// Where a gateway is asked how it is: through its proxy, but for one that sleeps when nobody connects, for whose proxy a
/// question would be somebody.
fn asked_at(record: &InstanceRecord) -> SocketAddr {
    if record.idle.is_watched() { inside(record) } else { (Ipv4Addr::LOCALHOST, record.host_port).into() }
}

fn inside(record: &InstanceRecord) -> SocketAddr {
    (record.vm_ip, fireclaw_core::guest::GATEWAY_PORT).into()
}

/// The gateway's own state is told by its answers: asking the guest's systemd would cost a login.
fn set_health(row: &mut InstanceRow, health: Health) {
    row.health = health;
    row.guest = match health {
        Health::Up | Health::Degraded => UnitState::Active,
        Health::Starting => UnitState::Activating,
        Health::Down if row.vm == UnitState::Active => UnitState::Unknown,
        Health::Down => UnitState::Inactive,
    };
}

type States = BTreeMap<InstanceId, [State; 2]>;

/// The services of all instances: each supervisor is asked once.
fn states(app: &App, found: &[Found]) -> States {
    let supervisors = &app.host.supervisors;
    let mut states = States::new();
    for kind in [SupervisorKind::Systemd, SupervisorKind::Embedded] {
        let ids: Vec<&InstanceId> = found
            .iter()
            .filter_map(|found| if let Found::Instance(record) = found { Some(record) } else { None })
            .filter(|record| supervisors.kind_for(record.supervisor) == kind)
            .map(|record| &record.id)
            .collect();
        if ids.is_empty() {
            continue;
        }
        let known = supervisors.of(kind).states(&ids).unwrap_or_else(|error| {
            app.ui.warn(&error.one_line());
            vec![[State::Unknown; 2]; ids.len()]
        });
        states.extend(ids.into_iter().cloned().zip(known));
    }
    states
}

fn row(app: &App, found: &Found, states: &States) -> InstanceRow {
    match found {
        Found::Damaged { name, error } => damaged(app, name, error.one_line()),
        Found::Instance(record) => {
            let [vm, proxy] =
                states.get(&record.id).map_or([UnitState::Unknown; 2], |states| states.map(unit_state));
            let mut row = InstanceRow {
                id: record.id.to_string(),
                vm_ip: Some(record.vm_ip.to_string()),
                host_port: Some(record.host_port),
                vm,
                proxy,
                guest: UnitState::Inactive,
                health: Health::Down,
                vmm: Some(record.vmm.to_string()),
                supervisor: Some(app.supervised_by(record).to_string()),
                runtime: Some(record.runtime.to_string()),
                image: Some(record.image.clone()),
                model: Some(record.model.clone()),
                created_at: Some(record.created_at.clone()).filter(|text| !text.is_empty()),
                snapshot_bytes: None,
                error: interrupted(app, &record.id),
            };
            if row.vm == UnitState::Active {
                row.guest = UnitState::Unknown;
            } else if row.vm == UnitState::Inactive {
                row.snapshot_bytes = hibernate::bytes(app, &record.id);
            }
            if row.snapshot_bytes.is_some() {
                row.vm = UnitState::Hibernated;
            }
            row
        }
    }
}

fn damaged(app: &App, name: &str, error: String) -> InstanceRow {
    let error = name.parse().ok().and_then(|id| interrupted(app, &id)).unwrap_or(error);
    InstanceRow {
        id: name.to_owned(),
        vm_ip: None,
        host_port: None,
        vm: UnitState::Unknown,
        proxy: UnitState::Unknown,
        guest: UnitState::Unknown,
        health: Health::Down,
        vmm: None,
        supervisor: None,
        runtime: None,
        image: None,
        model: None,
        created_at: None,
        snapshot_bytes: None,
        error: Some(error),
    }
}

/// What is left of an operation that nobody is working on any more.
fn interrupted(app: &App, id: &InstanceId) -> Option<String> {
    let paths = app.settings.layout.instance(id).ok()?;
    let past = match Past::read(&paths.journal) {
        Ok(past) => past?,
        Err(error) => {
            return Some(format!("{}; `fireclaw destroy {id} --force` clears it", error.one_line()));
        }
    };
    if lock::last_holder(&paths.lock).is_some() {
        return None;
    }
    let operation = past.plan.operation;
    if past.is_committed() && matches!(operation, Operation::Setup | Operation::Clone) {
        return Some(format!(
            "its {operation} was interrupted at its end; `fireclaw provision {id}` finishes it"
        ));
    }
    // The others name it by a flag, or beside another one.
    let of = match operation {
        Operation::Setup | Operation::Clone => String::new(),
        _ => format!(" {id}"),
    };
    Some(format!(
        "its last {operation} was interrupted; run `fireclaw {operation}{of}` again, or `fireclaw destroy {id} --force`"
    ))
}

/// A service's status; an error of the supervisor is a state like another here.
pub fn service_status(app: &App, record: &InstanceRecord, service: Service) -> ServiceStatus {
    app.supervisor_of(record).status(&record.id, service).unwrap_or_else(|error| ServiceStatus {
        detail: Some(error.one_line()),
        ..ServiceStatus::of(State::Unknown)
    })
}

const fn unit_state(state: State) -> UnitState {
    match state {
        State::Active => UnitState::Active,
        State::Inactive => UnitState::Inactive,
        State::Activating => UnitState::Activating,
        State::Deactivating => UnitState::Deactivating,
        State::Failed => UnitState::Failed,
        State::Unknown => UnitState::Unknown,
    }
}

/// What can be said of an instance whose record cannot be read.
pub fn status_of_damaged(app: &App, id: &InstanceId, error: &Error) -> StatusReport {
    let hint = error.get_hint().map(str::to_owned);
    StatusReport {
        row: damaged(app, id.as_str(), error.one_line()),
        url: None,
        uptime_s: None,
        vcpu: None,
        mem_mib: None,
        disk: None,
        paths: BTreeMap::from([("env", app.settings.layout.record_named(id.as_str()))]),
        checks: vec![StatusCheck { name: "record", ok: false, detail: error.one_line(), hint }],
        allocation: None,
        containment: None,
        rates: Rates::default(),
        idle_after_s: None,
        sleeps: None,
    }
}

/// One instance in depth.
pub fn status(app: &App, record: &InstanceRecord) -> Result<StatusReport> {
    let [vm, proxy] = Service::ALL.map(|service| service_status(app, record, service));
    let states = States::from([(record.id.clone(), [vm.state, proxy.state])]);
    let mut row = row(app, &Found::Instance(Box::new(record.clone())), &states);
    let health = if vm.state == State::Active {
        app.host.gateway.health(&[asked_at(record), inside(record)], deadlines::look())?
    } else {
        vec![Health::Down; 2]
    };
    set_health(&mut row, health[0]);
    if health[0] == Health::Down && health[1] != Health::Down {
        row.guest = UnitState::Active;
    }
    let paths = app.settings.layout.instance(&record.id)?;
    let disk = disks::report(app, record, &paths);
    let mut known = BTreeMap::from([
        ("config", paths.vmm_config.clone()),
        ("console_log", paths.console_log.clone()),
        ("disk", paths.written_disk(record.disks).clone()),
        ("env", paths.env.clone()),
        ("fc_dir", paths.dir.clone()),
        ("proxy_log", paths.proxy_log.clone()),
        ("state_dir", paths.state_dir.clone()),
        ("token", paths.token.clone()),
    ]);
    if record.disks == DiskKind::Shared {
        known.insert("base", paths.base.clone());
    }
    let mut checks = checks(record, &row, &vm, &proxy, &health);
    if row.snapshot_bytes.is_some() {
        hibernate::explain(record, &mut checks);
    }
    Ok(StatusReport {
        url: Some(format!("http://127.0.0.1:{}/", record.host_port)),
        uptime_s: vm.process.and_then(fireclaw_host::proc::ProcessId::uptime),
        vcpu: Some(record.vcpu),
        mem_mib: Some(record.mem_mib),
        disk,
        paths: known,
        checks,
        allocation: Some(AllocationReport {
            vm_tap: record.vm_tap.to_string(),
            vm_mac: record.vm_mac.to_string(),
            bridge: record.network.bridge.to_string(),
            subnet: record.network.subnet.to_string(),
            gateway: record.network.gateway.to_string(),
        }),
        containment: Some(containment::report(app, record)?),
        rates: record.rates,
        idle_after_s: record.idle.after.map(|after| after.as_secs()),
        sleeps: record.idle.is_watched().then(|| record.idle.describe(record.has_channel())),
        row,
    })
}

fn checks(
    record: &InstanceRecord,
    row: &InstanceRow,
    vm: &ServiceStatus,
    proxy: &ServiceStatus,
    health: &[Health],
) -> Vec<StatusCheck> {
    let id = &record.id;
    let service = |name, status: &ServiceStatus| StatusCheck {
        name,
        ok: status.state == State::Active,
        detail: status.detail.clone().unwrap_or_else(|| {
            let times = if status.restarts > 0 {
                format!(", restarted {} times", status.restarts)
            } else {
                String::new()
            };
            format!("{}{times}", unit_state(status.state).as_str())
        }),
        hint: (status.state != State::Active).then(|| match status.state {
            State::Failed => {
                format!("see `fireclaw logs {id} host --no-follow`, then `fireclaw restart {id}`")
            }
            _ => format!("`fireclaw start {id}`"),
        }),
    };
    let gate = |name, health: Health| StatusCheck {
        name,
        ok: matches!(health, Health::Up | Health::Degraded),
        detail: health.as_str().to_owned(),
        hint: match health {
            Health::Up => None,
            Health::Degraded => {
                Some(format!("a channel does not work: see `fireclaw logs {id} --no-follow`"))
            }
            Health::Starting => Some("wait a little".to_owned()),
            Health::Down => Some(format!("see `fireclaw logs {id} --no-follow`")),
        },
    };
    let mut checks = vec![
        service("vm", vm),
        service("proxy", proxy),
        gate("gateway in the guest", health[1]),
        gate("gateway through the proxy", health[0]),
    ];
    if record.idle.is_watched() {
        // Not asked: that would be a client.
        checks.pop();
    }
    if let Some(error) = &row.error {
        checks.push(StatusCheck { name: "last operation", ok: false, detail: error.clone(), hint: None });
    }
    if !record.provisioned {
        checks.push(StatusCheck {
            name: "provisioned",
            ok: false,
            detail: "the guest was never provisioned".to_owned(),
            hint: Some(format!("`fireclaw provision {id}`")),
        });
    }
    for key in record.unknown_keys() {
        checks.push(StatusCheck {
            name: "record",
            ok: true,
            detail: format!("unknown key {key} is kept"),
            hint: None,
        });
    }
    checks
}
