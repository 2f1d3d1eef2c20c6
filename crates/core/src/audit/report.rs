//! What `audit` says: findings, and what every instance shows to the outside. Field names and words are a contract; a snapshot pins
//! them. Touches nothing.

use serde::Serialize;

use super::{InstanceFacts, ProcessFacts, Program, Role, UnitFacts, judge};
use crate::{
    id::InstanceId,
    spec::{EgressMode, KeyMode, VmmKind},
};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// A wall is open.
    High,
    /// A wall is thinner than fireclaw builds it.
    Medium,
    /// A choice or a circumstance that leaves more open than need be.
    Low,
}

impl Weight {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// One thing that an outsider could use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whose; null where it is the host's.
    pub instance: Option<String>,
    /// How much it weighs.
    pub weight: Weight,
    /// What was looked at: `files`, `sockets`, `process`, `secrets`, `units`, `firewall`, `egress`, `keys`, `versions`, `record`.
    pub check: &'static str,
    /// What was seen.
    pub detail: String,
    /// What mends it.
    pub hint: Option<String>,
}

/// `audit --json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was found.
    pub ok: bool,
    /// What was found, the heaviest first.
    pub findings: Vec<Finding>,
    /// What every instance shows to the outside, found fault with or not.
    pub instances: Vec<Exposure>,
}

/// What one instance shows to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// The id.
    pub id: String,
    /// The egress policy.
    pub egress: EgressMode,
    /// Where provider keys are.
    pub keys: KeyMode,
    /// What its processes listen on: `tcp 127.0.0.1:18891`.
    pub sockets: Vec<String>,
    /// Its processes.
    pub processes: Vec<ProcessReport>,
    /// Its units with what `systemd-analyze security` says.
    pub units: Vec<UnitReport>,
    /// VMM and OpenClaw as far as known: `Firecracker 1.16.1`.
    pub versions: Vec<String>,
}

/// How a process is confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ProcessReport {
    /// Which.
    pub role: Role,
    /// Its number.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// No program that it execs gains privileges.
    pub no_new_privileges: bool,
    /// Its system calls are filtered.
    pub seccomp: bool,
    /// It has no capability.
    pub no_capabilities: bool,
    /// Its root folder is a jail.
    pub jailed: bool,
    /// A crash leaves nothing on a disk.
    pub no_core: bool,
}

/// A unit and its score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitReport {
    /// Its name.
    pub name: String,
    /// The exposure, 0 to 10, as text with one decimal; null where nobody can tell.
    pub exposure: Option<String>,
}

impl InstanceFacts {
    /// Whose they are.
    pub const fn id(&self) -> &InstanceId {
        &self.record.id
    }

    pub(super) fn versions(&self) -> Vec<(Program, &str)> {
        let vmm = self.vmm.as_ref().map(|(kind, version)| {
            let program = match kind {
                VmmKind::Firecracker => Program::Firecracker,
                VmmKind::Qemu => Program::Qemu,
            };
            (program, version.as_str())
        });
        vmm.into_iter().chain(self.openclaw.as_deref().map(|version| (Program::OpenClaw, version))).collect()
    }

    pub(super) fn exposure(&self) -> Exposure {
        let sockets = self.processes.iter().flat_map(|process| &process.sockets);
        Exposure {
            id: self.record.id.to_string(),
            egress: self.record.containment.egress.mode,
            keys: self.record.containment.keys,
            sockets: sockets.map(|socket| judge::socket(*socket)).collect(),
            processes: self.processes.iter().map(ProcessFacts::report).collect(),
            units: self.units.iter().map(UnitFacts::report).collect(),
            versions: self
                .versions()
                .iter()
                .map(|(program, version)| format!("{} {version}", program.as_str()))
                .collect(),
        }
    }
}

impl ProcessFacts {
    const fn report(&self) -> ProcessReport {
        ProcessReport {
            role: self.role,
            pid: self.pid,
            uid: self.uid,
            no_new_privileges: self.no_new_privileges,
            seccomp: self.seccomp,
            no_capabilities: self.capabilities == 0,
            jailed: self.jailed,
            no_core: !self.dumps_core,
        }
    }
}

impl UnitFacts {
    fn report(&self) -> UnitReport {
        UnitReport { name: self.name.clone(), exposure: self.score.map(judge::tenths) }
    }
}
