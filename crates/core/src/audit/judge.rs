//! Facts in, findings out. Touches nothing.

use std::net::{IpAddr, SocketAddr};

use super::{
    FileFact, FileKind, Finding, HostFacts, InstanceFacts, ProcessFacts, Program, Protocol, Role, Weight,
    known,
};
use crate::{
    id::{proxy_uid, vmm_uid},
    spec::{EgressMode, KeyMode, SupervisorKind, VmmKind},
    state::InstanceRecord,
};

/// What systemd itself calls exposed begins at 5; the units that fireclaw writes are below 3.8.
const EXPOSED: u32 = 50;

/// Collects the findings of one instance, or of the host.
struct Findings<'a> {
    instance: Option<&'a str>,
    all: Vec<Finding>,
}

impl Findings<'_> {
    fn add(
        &mut self,
        weight: Weight,
        check: &'static str,
        detail: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let instance = self.instance.map(str::to_owned);
        self.all.push(Finding { instance, weight, check, detail: detail.into(), hint: hint.into() });
    }
}

/// What is wrong with the host.
pub(super) fn host(facts: &HostFacts) -> Vec<Finding> {
    let mut findings = Findings { instance: None, all: Vec::new() };
    for root in &facts.roots {
        file(&mut findings, root);
    }
    if let Some((weight, detail)) = &facts.firewall {
        findings.add(*weight, "firewall", detail, "fireclaw doctor --fix".to_owned());
    }
    for (program, version) in &facts.versions {
        versions(&mut findings, *program, version);
    }
    for name in &facts.damaged {
        let hint = format!("fireclaw status {name}");
        findings.add(
            Weight::Medium,
            "record",
            format!("`{name}` cannot be read, so it was not looked at"),
            hint,
        );
    }
    for what in &facts.unseen {
        findings.add(Weight::Low, "record", format!("not looked at: {what}"), None);
    }
    findings.all
}

/// What is wrong with an instance.
pub(super) fn instance(facts: &InstanceFacts) -> Vec<Finding> {
    let record = &facts.record;
    let mut findings = Findings { instance: Some(record.id.as_str()), all: Vec::new() };
    for fact in &facts.files {
        file(&mut findings, fact);
    }
    for process in &facts.processes {
        confinement(&mut findings, record, process);
        sockets(&mut findings, record, process);
    }
    for (pid, secret) in &facts.told {
        let detail = format!(
            "{secret} is in the command line of process {pid}, which every user of the host can read"
        );
        findings.add(
            Weight::High,
            "secrets",
            detail,
            "give it as a file or a variable, and make a new one".to_owned(),
        );
    }
    units(&mut findings, facts);
    choices(&mut findings, record);
    for (program, version) in facts.versions() {
        versions(&mut findings, program, version);
    }
    findings.all
}

/// Folders are closed, secrets are for their owner alone, and the owner is root or who is meant to have it.
fn file(findings: &mut Findings<'_>, fact: &FileFact) {
    let path = fact.path.display();
    let (allowed, wanted) = match fact.kind {
        FileKind::Dir => (0o700, "0700"),
        FileKind::Secret => (0o600, "0600"),
        FileKind::Root => (0o755, "0755"),
    };
    // A secret that may be executed as well tells nobody more.
    let mut loose = fact.mode & 0o777 & !allowed & !0o100;
    if fact.reader == Some(fact.gid) {
        loose &= !0o040;
    }
    if loose != 0 {
        let readable = loose & 0o066 != 0;
        let weight = if readable { Weight::High } else { Weight::Medium };
        let detail = format!("{path} has mode {:04o} and should have {wanted}", fact.mode & 0o7777);
        findings.add(weight, "files", detail, format!("chmod {wanted} {path}"));
    }
    if fact.uid != 0 && !fact.owners.contains(&fact.uid) {
        let detail = format!("{path} belongs to user {}, who can change it", fact.uid);
        findings.add(Weight::High, "files", detail, format!("chown root: {path}"));
    }
}

fn confinement(findings: &mut Findings<'_>, record: &InstanceRecord, process: &ProcessFacts) {
    let who = format!("the {} (process {})", name(process.role), process.pid);
    let restart = format!("fireclaw restart {}", record.id);
    let mut wrong =
        |weight, what: String| findings.add(weight, "process", format!("{who} {what}"), restart.clone());
    let systemd = record.supervisor == SupervisorKind::Systemd;
    match process.role {
        Role::Vm | Role::Proxy => {
            let meant =
                if process.role == Role::Vm { vmm_uid(record.vm_ip) } else { proxy_uid(record.vm_ip) };
            if process.uid == 0 {
                wrong(Weight::High, "runs as root".to_owned());
            // Under systemd the proxy's user is one that systemd makes.
            } else if process.uid != meant && !(process.role == Role::Proxy && systemd) {
                wrong(Weight::Medium, format!("runs as user {} and not as {meant}, its own", process.uid));
            }
            if process.capabilities != 0 {
                wrong(Weight::High, format!("has capabilities: {:016x}", process.capabilities));
            }
            if !process.no_new_privileges {
                wrong(Weight::Medium, "may gain privileges by exec".to_owned());
            }
        }
        // It starts what gives root up.
        Role::Supervisor => {}
    }
    if process.role == Role::Vm && !process.seccomp {
        wrong(Weight::High, "makes any system call: no filter is in force".to_owned());
    }
    if process.role == Role::Vm && record.vmm == VmmKind::Firecracker && !process.jailed {
        wrong(Weight::High, "is not in its jail".to_owned());
    }
    if process.dumps_core {
        wrong(Weight::Medium, "leaves its memory on a disk when it crashes".to_owned());
    }
    for secret in &process.environment {
        wrong(Weight::Medium, format!("has {secret} in its environment"));
    }
    // Which pages of it a neighbour has too can be told by the time that a write takes.
    if process.role == Role::Vm && process.merged_pages > 0 {
        let detail = format!("shares {} pages of its memory with others by KSM", process.merged_pages);
        let hint = "echo 2 > /sys/kernel/mm/ksm/run".to_owned();
        findings.add(Weight::Medium, "process", format!("{who} {detail}"), hint);
    }
}

/// The proxy is on loopback at its port, its sidecar on the bridge at the same; nothing else of ours listens anywhere.
fn sockets(findings: &mut Findings<'_>, record: &InstanceRecord, process: &ProcessFacts) {
    for (protocol, address) in &process.sockets {
        let own_port = process.role == Role::Proxy && address.port() == record.host_port;
        let proxy = *protocol == Protocol::Tcp && address.ip().is_loopback();
        let sidecar =
            address.ip() == IpAddr::V4(record.network.gateway_ip()) && record.containment.needs_sidecar();
        if own_port && (proxy || sidecar) {
            continue;
        }
        let weight = if address.ip().is_loopback() { Weight::Medium } else { Weight::High };
        let detail = format!("the {} listens on {}", name(process.role), socket((*protocol, *address)));
        findings.add(weight, "sockets", detail, format!("fireclaw restart {}", record.id));
    }
}

fn units(findings: &mut Findings<'_>, facts: &InstanceFacts) {
    for unit in &facts.units {
        let mend = || "fireclaw doctor --fix".to_owned();
        if let Some(score) = unit.score.filter(|score| *score >= EXPOSED) {
            let detail =
                format!("{} is exposed: {} of 10 by `systemd-analyze security`", unit.name, tenths(score));
            findings.add(Weight::Medium, "units", detail, mend());
        }
        if !unit.missing.is_empty() {
            let detail = format!("{} lacks {}", unit.name, unit.missing.join(", "));
            findings.add(Weight::Medium, "units", detail, mend());
        }
        for drift in &unit.drift {
            findings.add(Weight::Low, "units", drift, mend());
        }
    }
}

fn choices(findings: &mut Findings<'_>, record: &InstanceRecord) {
    let (id, containment) = (&record.id, &record.containment);
    if containment.egress.mode == EgressMode::Open {
        let detail = "egress `open` lets the agent into private networks";
        findings.add(Weight::Medium, "egress", detail, format!("fireclaw egress {id} set public"));
    }
    let keys = &record.keys;
    let has_keys = [&keys.anthropic, &keys.openai, &keys.minimax].into_iter().any(Option::is_some);
    if containment.keys == KeyMode::Guest && has_keys {
        let detail = "provider keys are in the guest, where the agent can read them";
        findings.add(Weight::Low, "keys", detail, format!("fireclaw provision {id} --keys broker"));
    }
}

fn versions(findings: &mut Findings<'_>, program: Program, version: &str) {
    for problem in known::problems(program, version) {
        let detail = format!("{} {version} has {}: {}", program.as_str(), problem.name, problem.what);
        let hint = match program {
            Program::Firecracker => Some("fireclaw doctor --fix, then restart the instances".to_owned()),
            Program::OpenClaw => Some("build a new image, and set the instance up anew from it".to_owned()),
            Program::Qemu => None,
        };
        findings.add(problem.weight, "versions", detail, hint);
    }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Vm => "VMM",
        Role::Proxy => "proxy",
        Role::Supervisor => "supervisor",
    }
}

/// `tcp 127.0.0.1:18891`
pub(super) fn socket((protocol, address): (Protocol, SocketAddr)) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{protocol} {address}")
}

/// `37` as `3.7`.
pub(super) fn tenths(score: u32) -> String {
    format!("{}.{}", score / 10, score % 10)
}
