//! The `--json` of every command that reports. Field names and words are a contract; snapshots pin them. Touches nothing.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{sidecar::Usage, spec::Rates};

/// How a unit or the guest's service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Runs.
    Active,
    /// Does not run.
    Inactive,
    /// Comes up.
    Activating,
    /// Goes down.
    Deactivating,
    /// Gave up.
    Failed,
    /// Does not run, and goes on where it was when it is started.
    Hibernated,
    /// Cannot be told from here.
    Unknown,
}

impl UnitState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
            Self::Failed => "failed",
            Self::Hibernated => "hibernated",
            Self::Unknown => "unknown",
        }
    }
}

/// How the gateway is, seen through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The start gate passed and it is ready.
    Up,
    /// It answers and is not through its start gate.
    Starting,
    /// Through its start gate, with a channel that does not work.
    Degraded,
    /// No answer.
    Down,
}

impl Health {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// One row of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceRow {
    /// The id, or the folder's name behind `.vm-` when it is none.
    pub id: String,
    /// The guest's address.
    pub vm_ip: Option<String>,
    /// The proxy's port.
    pub host_port: Option<u16>,
    /// The VM's service.
    pub vm: UnitState,
    /// The proxy's service.
    pub proxy: UnitState,
    /// The gateway's service in the guest.
    pub guest: UnitState,
    /// The gateway.
    pub health: Health,
    /// `firecracker` or `qemu`.
    pub vmm: Option<String>,
    /// `systemd` or `embedded`.
    pub supervisor: Option<String>,
    /// `native` or `docker`.
    pub runtime: Option<String>,
    /// The base image.
    pub image: Option<String>,
    /// `provider/name`
    pub model: Option<String>,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// What the memory of a hibernated VM takes on the host's disk; null when there is none.
    pub snapshot_bytes: Option<u64>,
    /// Why the row is damaged.
    pub error: Option<String>,
}

/// One check of `status` and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusCheck {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// The next command.
    pub hint: Option<String>,
}

/// The disks of an instance. Sizes are those of what it writes to: its copy of the base, or its state disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// `copy` or `shared`.
    pub kind: String,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// What it takes on the host.
    pub allocated_bytes: u64,
    /// The base that it shares with others.
    pub base: Option<BaseReport>,
}

/// A read-only base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseReport {
    /// Its size; `null` when it is missing.
    pub size_bytes: Option<u64>,
    /// What it takes on the host, once for all that share it.
    pub allocated_bytes: u64,
    /// The image still is what it was when the instance was made.
    pub current: bool,
}

/// What was given to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AllocationReport {
    /// The tap.
    pub vm_tap: String,
    /// The card's address.
    pub vm_mac: String,
    /// The bridge.
    pub bridge: String,
    /// The subnet.
    pub subnet: String,
    /// The gateway.
    pub gateway: String,
}

/// One instance in depth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// The row of `list`.
    #[serde(flatten)]
    pub row: InstanceRow,
    /// The UI's address.
    pub url: Option<String>,
    /// Seconds since the VMM started.
    pub uptime_s: Option<u64>,
    /// Virtual CPUs.
    pub vcpu: Option<u32>,
    /// Memory.
    pub mem_mib: Option<u32>,
    /// The root disk.
    pub disk: Option<DiskReport>,
    /// Files worth knowing.
    pub paths: BTreeMap<&'static str, PathBuf>,
    /// What was looked at.
    pub checks: Vec<StatusCheck>,
    /// Addresses.
    pub allocation: Option<AllocationReport>,
    /// What keeps the instance in, and what was used and refused.
    pub containment: Option<ContainmentReport>,
    /// How fast it may use network and disk; null is without a limit.
    pub rates: Rates,
    /// Seconds without a connection after which it sleeps; null is never.
    pub idle_after_s: Option<u64>,
    /// The same for people, with what keeps it awake; null is never.
    pub sleeps: Option<String>,
}

/// Egress policy, where the keys are, and counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainmentReport {
    /// `public`, `open`, `none` or `allow`.
    pub egress: String,
    /// The rules of `allow`; without effect in other modes.
    pub allow: Vec<String>,
    /// `broker` or `guest`.
    pub keys: String,
    /// Providers whose key is there.
    pub providers: Vec<String>,
    /// Requests an hour; null is without end.
    pub budget_requests_per_hour: Option<u32>,
    /// Requests in the last hour; null when no sidecar runs.
    pub requests_last_hour: Option<u32>,
    /// What the sidecar refused since it started; null when none runs. What the firewall refused is in `egress ID log`.
    pub refused: Option<u64>,
    /// Use of the brokered keys, by provider.
    pub usage: BTreeMap<String, Usage>,
}

/// A step and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepTime {
    /// The step.
    pub name: String,
    /// Milliseconds.
    pub ms: u64,
}

/// `setup --json`, and what other changing commands say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetupReport {
    /// The instance.
    #[serde(flatten)]
    pub status: StatusReport,
    /// Where the time went.
    pub steps: Vec<StepTime>,
}

/// One line of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorCheck {
    /// What was looked at.
    pub name: String,
    /// Whether fireclaw works without it.
    pub required: bool,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// The command that mends it.
    pub fix: Option<String>,
}

/// `doctor --json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// Every required check passes.
    pub ok: bool,
    /// All checks.
    pub checks: Vec<DoctorCheck>,
}

/// `--dry-run --json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanReport {
    /// The command.
    pub operation: String,
    /// The instance.
    pub id: String,
    /// What would be done, in order.
    pub steps: Vec<PlannedStep>,
}

/// One step of a plan, with what it would touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// The step.
    pub name: String,
    /// Its object.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_status_is_pinned() {
        let report = SetupReport {
            status: StatusReport {
                row: InstanceRow {
                    id: "my-bot".into(),
                    vm_ip: Some("172.16.0.2".into()),
                    host_port: Some(18891),
                    vm: UnitState::Active,
                    proxy: UnitState::Active,
                    guest: UnitState::Active,
                    health: Health::Up,
                    vmm: Some("qemu".into()),
                    supervisor: Some("embedded".into()),
                    runtime: Some("native".into()),
                    image: Some("default".into()),
                    model: Some("anthropic/claude-opus-4-6".into()),
                    created_at: Some("2026-11-22T00:00:00Z".into()),
                    snapshot_bytes: None,
                    error: None,
                },
                url: Some("http://127.0.0.1:18891/".into()),
                uptime_s: Some(1),
                vcpu: Some(4),
                mem_mib: Some(8192),
                disk: Some(DiskReport {
                    kind: "shared".into(),
                    size_bytes: 1,
                    allocated_bytes: 1,
                    base: Some(BaseReport { size_bytes: Some(2), allocated_bytes: 2, current: true }),
                }),
                paths: [("env", PathBuf::from("/x"))].into(),
                checks: vec![StatusCheck { name: "vm", ok: true, detail: "runs".into(), hint: None }],
                allocation: Some(AllocationReport {
                    vm_tap: "tmybot2".into(),
                    vm_mac: "06:fc:00:10:00:02".into(),
                    bridge: "fc-br0".into(),
                    subnet: "172.16.0.0/24".into(),
                    gateway: "172.16.0.1/24".into(),
                }),
                containment: Some(ContainmentReport {
                    egress: "allow".into(),
                    allow: vec!["anthropic".into()],
                    keys: "broker".into(),
                    providers: vec!["anthropic".into()],
                    budget_requests_per_hour: None,
                    requests_last_hour: Some(1),
                    refused: Some(0),
                    usage: [("anthropic".into(), Usage { requests: 1, ..Usage::default() })].into(),
                }),
                rates: Rates { net_mbit: Some(100), ..Rates::default() },
                idle_after_s: Some(1800),
                sleeps: Some("after 30 min without use".into()),
            },
            steps: vec![StepTime { name: "save record".into(), ms: 3 }],
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
    }
}
