//! What an outsider could reach of the instances and of the host that runs them: facts in, findings out. An outsider is another
//! user of the host, another machine, or an agent that took its VMM over. Touches nothing.

mod judge;
pub mod known;
mod report;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

pub use report::{Exposure, Finding, ProcessReport, Report, UnitReport, Weight};
use serde::Serialize;

use crate::{secret::Secret, spec::VmmKind, state::InstanceRecord};

/// What was seen of the host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The roots of folders.
    pub roots: Vec<FileFact>,
    /// What is wrong with the firewall: how much it weighs, and what it is.
    pub firewall: Option<(Weight, String)>,
    /// Programs that are installed.
    pub versions: Vec<(Program, String)>,
    /// Records that cannot be read, by name.
    pub damaged: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// What was seen of one instance.
#[derive(Debug, Clone)]
pub struct InstanceFacts {
    /// As it should be.
    pub record: InstanceRecord,
    /// Its folders and the files in them that hold secrets.
    pub files: Vec<FileFact>,
    /// Its processes.
    pub processes: Vec<ProcessFacts>,
    /// Processes whose command line, which every user of the host can read, holds one of its secrets: pid and the secret's name.
    pub told: Vec<(i32, &'static str)>,
    /// Its units, under systemd.
    pub units: Vec<UnitFacts>,
    /// The version of its VMM, while that runs.
    pub vmm: Option<(VmmKind, String)>,
    /// OpenClaw's version, as far as the host knows it.
    pub openclaw: Option<String>,
}

/// A file's type as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder, 0700.
    Dir,
    /// A file or a socket with secrets, 0600.
    Secret,
    /// A folder of many instances: others may look, but not change.
    Root,
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// Where it lies.
    pub path: PathBuf,
    /// What it should be like.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// The owners besides root that it may have.
    pub owners: Vec<u32>,
    /// Its group.
    pub gid: u32,
    /// The group that may read it: that of the one VM which has to.
    pub reader: Option<u32>,
}

/// Which process of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The VMM.
    Vm,
    /// The proxy with its sidecar.
    Proxy,
    /// The embedded supervisor.
    Supervisor,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A listening TCP socket.
    Tcp,
    /// A UDP socket that takes packets from anybody.
    Udp,
}

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ProcessFacts {
    /// Which.
    pub role: Role,
    /// Its number.
    pub pid: i32,
    /// Real, effective, saved and filesystem user: the least of them.
    pub uid: u32,
    /// Whether no program that it execs gains privileges.
    pub no_new_privileges: bool,
    /// Whether its system calls are filtered.
    pub seccomp: bool,
    /// Effective capabilities.
    pub capabilities: u64,
    /// Whether its root folder is another than the host's.
    pub jailed: bool,
    /// Whether a crash may leave its memory on a disk.
    pub dumps_core: bool,
    /// Pages of its memory that the kernel has merged with equal ones of others (KSM).
    pub merged_pages: u64,
    /// What it listens on.
    pub sockets: Vec<(Protocol, SocketAddr)>,
    /// Secrets in its environment, by name.
    pub environment: Vec<&'static str>,
}

/// A unit of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its name.
    pub name: String,
    /// What `systemd-analyze security` says, in tenths; the lower the tighter. Without the program `None`.
    pub score: Option<u32>,
    /// Properties that fireclaw gives it and that are not in its file.
    pub missing: Vec<&'static str>,
    /// How it differs from what fireclaw writes.
    pub drift: Vec<String>,
}

/// A program with versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Firecracker and its jailer.
    Firecracker,
    /// QEMU.
    Qemu,
    /// The gateway.
    OpenClaw,
}

impl Program {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "Firecracker",
            Self::Qemu => "QEMU",
            Self::OpenClaw => "OpenClaw",
        }
    }
}

/// The secrets of an instance by name, for those who look where they lie about. Short ones are left out: they would be found
/// by chance.
pub fn secrets_of(record: &InstanceRecord) -> Vec<(&'static str, &Secret)> {
    let all = [
        ("the gateway token", Some(&record.gateway_token)),
        ("the Telegram token", record.telegram_token.as_ref()),
        ("the Anthropic key", record.keys.anthropic.as_ref()),
        ("the OpenAI key", record.keys.openai.as_ref()),
        ("the MiniMax key", record.keys.minimax.as_ref()),
        ("the broker's token", record.containment.broker_token.as_ref()),
    ];
    all.into_iter()
        .filter_map(|(name, secret)| Some((name, secret.filter(|it| it.expose().len() >= 8)?)))
        .collect()
}

/// The secrets that these bytes hold.
pub fn secrets_in(bytes: &[u8], secrets: &[(&'static str, &Secret)]) -> Vec<&'static str> {
    let holds = |secret: &Secret| {
        let needle = secret.expose().as_bytes();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    secrets.iter().filter(|(_, secret)| holds(secret)).map(|(name, _)| *name).collect()
}

/// The exposure that `systemd-analyze security` ends with, in tenths.
pub fn exposure(said: &str) -> Option<u32> {
    let rest = said.lines().find_map(|line| line.split_once("exposure level for")?.1.rsplit_once(": "))?.1;
    let (whole, tenth) = rest.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 10 + tenth.parse::<u32>().ok()?)
}

/// Properties that every unit of ours has.
const PROPERTIES: [&str; 7] = [
    "NoNewPrivileges=yes",
    "LimitCORE=0",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectHome=tmpfs",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
];

/// Those that the text of a unit lacks, for hosts without `systemd-analyze`.
pub fn missing_properties(unit: &str) -> Vec<&'static str> {
    PROPERTIES.into_iter().filter(|property| !unit.lines().any(|line| line.trim() == *property)).collect()
}

/// Judges everything that was seen.
pub fn judge(host: &HostFacts, instances: &[InstanceFacts]) -> Report {
    let mut findings = judge::host(host);
    for instance in instances {
        findings.extend(judge::instance(instance));
    }
    findings.sort_by_key(|finding| finding.weight);
    Report {
        ok: findings.is_empty(),
        findings,
        instances: instances.iter().map(InstanceFacts::exposure).collect(),
    }
}
