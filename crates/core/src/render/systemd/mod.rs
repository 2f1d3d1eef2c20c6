//! The two units of an instance as text. Touches nothing.
//!
//! The VM's unit is a chain of fireclaw's own verbs: `clean`, `run` (which becomes the VMM), `halt`, `clean`. It is
//! started again with a pause when the VMM fails, gives up after some failures in a row, and stays down when the VMM
//! ends with 0. The proxy's user may enter no folder of ours: systemd hands it the record and the keys as credentials, and
//! gives it a folder for its socket and one for its counters.
//!
//! The meaning of each property is in systemd.unit(5), systemd.service(5), systemd.exec(5) and
//! systemd.resource-control(5). The text is for systemd 247 and later; a property that is newer is written only where
//! [`Features`] says that it is known.

mod sandbox;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use text::Unit;

use crate::{
    id::{InstanceId, UnitName},
    layout::{Layout, request},
    spec::{ServiceSpec, VmmKind},
};

/// The first line of every unit of ours. One without it is somebody else's (the Bash fireclaw's) and stays as it is.
pub const MARK: &str = "# Written by fireclaw:";

/// The credential that holds the record.
pub const CREDENTIAL_RECORD: &str = "record";
/// The credential that holds the provider keys, where they stay on the host.
pub const CREDENTIAL_KEYS: &str = "keys";

/// Whether a unit file is one that we may rewrite.
pub fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Whether it is one that the Bash fireclaw 0.2 wrote: its VM's starts the instance's script, its proxy is socat.
pub fn is_of_bash(text: &str, start_script: &Path) -> bool {
    text.lines().filter_map(|line| line.strip_prefix("ExecStart=")).any(|command| {
        Path::new(command) == start_script || command.starts_with("/usr/bin/socat TCP-LISTEN:")
    })
}

/// What the systemd at hand knows beyond the oldest that we write for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `RestartSteps=`: a pause that grows. Since 254.
    pub growing_pause: bool,
}

impl Features {
    /// From the manager's `Version`, which begins with the number: `252.38-1~deb12u1`, `v257`.
    pub fn of_version(version: &str) -> Self {
        let digits: String =
            version.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        Self { growing_pause: digits.parse::<u32>().is_ok_and(|number| number >= 254) }
    }
}

/// What all units of a host share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// The fireclaw that the units start, absolute.
    pub program: &'a Path,
    /// Variables of every command, those of roots that are not the default among them.
    pub environment: &'a [(String, String)],
    /// What this systemd knows.
    pub features: Features,
}

/// How often a service may fail within [`WINDOW`] until systemd gives up.
const BURST: u32 = 8;
/// Seconds. A service that ran for longer than its share of it never meets the limit.
const WINDOW: u32 = 300;
/// The seconds that `halt` gives the guest: OpenClaw drains for 315 at most.
const HALT: u32 = 330;
/// The seconds until systemd cuts the VM off: those and what the guest's own shutdown takes.
const STOP: u32 = HALT + 30;
/// The unit of the VM.
pub fn vm_unit(host: &Host<'_>, id: &InstanceId, spec: &ServiceSpec) -> String {
    let name = id.vm_unit();
    let paths = Needs::of_vm(host, id, spec);
    let mut unit = begin(&name);
    unit.section("Unit");
    unit.set("Description", format!("fireclaw: the VM of {id}"));
    // Whatever loads a firewall at boot may flush ours: the VM comes after it and loads ours anew. At shutdown the order
    // is the reverse, so the guest is still reached while it is asked to stop.
    unit.set("After", "network.target nftables.service firewalld.service ufw.service docker.service");
    unit.words("RequiresMountsFor", [&host.layout.state_root, &paths.dir].map(|path| utf8(path)));
    limit_starts(&mut unit);

    unit.section("Service");
    let jailed = spec.vmm == Some(VmmKind::Firecracker);
    if jailed {
        unit.note(
            "The jailer leaves Firecracker in a PID namespace of its own, as the one process of this unit.",
        );
    }
    unit.set("Type", if jailed { "forking" } else { "exec" });
    unit.set("SyslogIdentifier", stem(&name));
    environment(&mut unit, host);
    let halt = HALT.to_string();
    let forking = jailed.then_some("--forking");
    unit.command("ExecStart", host.program, ["run", id.as_str()].into_iter().chain(forking));
    unit.command("ExecStop", host.program, ["halt", id.as_str(), "--timeout", &halt]);
    if jailed {
        unit.note("Its VMM ends with 0 also when the guest restarts. `clean` sees which, and fails to have it started again.");
        unit.command("ExecStopPost", host.program, ["clean", id.as_str(), "--ended"]);
    } else {
        unit.command("ExecStopPost", host.program, ["clean", id.as_str()]);
    }
    unit.note("A guest that powered itself off ends with 0 and stays off.");
    restart(&mut unit, host);
    unit.note("What `halt` could not end is hung: there is nothing left to ask it.");
    unit.set("KillSignal", "SIGKILL");
    if jailed {
        unit.note("To look through the memory of a VM that was hibernated takes as long as reading it.");
    }
    unit.set("TimeoutStartSec", if jailed { 300 } else { 120 });
    unit.set("TimeoutStopSec", STOP);
    limits(&mut unit, &paths.dir, spec);
    unit.note("A core would hold the guest's memory; its console must not fill the journal.");
    unit.set("LimitCORE", 0);
    unit.set("LogRateLimitIntervalSec", 30);
    unit.set("LogRateLimitBurst", 2000);
    sandbox::of_vm(&mut unit, &paths, spec);
    install(&mut unit);
    unit.finish()
}

/// The unit of the proxy.
pub fn proxy_unit(host: &Host<'_>, id: &InstanceId, spec: &ServiceSpec) -> String {
    let name = id.proxy_unit();
    let mut unit = begin(&name);
    unit.section("Unit");
    unit.set("Description", format!("fireclaw: the proxy of {id}, 127.0.0.1:{}", spec.host_port));
    unit.set("After", format!("network.target {}", id.vm_unit()));
    if spec.wakes {
        unit.note(
            "Whoever connects to an instance that sleeps has it woken; it sleeps again when nobody does.",
        );
        unit.set("Wants", id.wake_path_unit());
    }
    limit_starts(&mut unit);

    unit.section("Service");
    unit.set("Type", "exec");
    unit.set("SyslogIdentifier", stem(&name));
    unit.command("ExecStart", host.program, ["proxy", id.as_str()]);
    let paths = host.layout.instance_unchecked(id);
    unit.credential(CREDENTIAL_RECORD, &paths.env);
    if spec.broker {
        unit.credential(CREDENTIAL_KEYS, &paths.keys);
    }
    restart(&mut unit, host);
    unit.set("TimeoutStopSec", 10);
    unit.set("MemoryMax", "256M");
    unit.set("TasksMax", 16);
    // Two descriptors a connection: 1,024 of the proxy, as many of the sidecar.
    unit.set("LimitNOFILE", 8192);
    unit.set("LimitCORE", 0);
    sandbox::of_proxy(&mut unit, &Needs::of_proxy(host, id), spec);
    install(&mut unit);
    unit.finish()
}

/// The unit that watches for what the proxy asks: a file in the folder that systemd gives to the proxy's user and to nobody else.
/// It comes and goes with the proxy.
pub fn wake_path_unit(host: &Host<'_>, id: &InstanceId) -> String {
    let mut unit = begin(&id.wake_path_unit());
    unit.section("Unit");
    unit.set("Description", format!("fireclaw: what the proxy of {id} asks for"));
    unit.set("PartOf", id.proxy_unit());
    unit.section("Path");
    let folder = host.layout.instance_unchecked(id).requests_dir_of_unit;
    for name in [request::WAKE, request::SLEEP] {
        unit.path("PathExists", &folder.join(name));
    }
    unit.set("Unit", id.wake_unit());
    unit.finish()
}

/// The unit that does it, as root: it starts and stops the VM's unit. All that comes from the proxy is that a file is there.
pub fn wake_unit(host: &Host<'_>, id: &InstanceId) -> String {
    let name = id.wake_unit();
    let mut unit = begin(&name);
    unit.section("Unit");
    unit.set("Description", format!("fireclaw: wakes {id}, or puts it to sleep"));
    unit.note("As often as a client comes.");
    unit.set("StartLimitIntervalSec", 0);
    unit.section("Service");
    unit.set("Type", "oneshot");
    unit.set("SyslogIdentifier", stem(&name));
    environment(&mut unit, host);
    unit.command("ExecStart", host.program, ["attend", id.as_str()]);
    unit.set("TimeoutStartSec", 1800);
    unit.set("LimitCORE", 0);
    sandbox::of_wake(&mut unit);
    unit.finish()
}

fn begin(name: &UnitName) -> Unit {
    Unit::beginning_with(&format!(
        "{} changes here are lost. Make your own with `systemctl edit {name}`.",
        MARK.trim_start_matches("# ")
    ))
}

fn stem(name: &UnitName) -> &str {
    name.as_str().trim_end_matches(".service")
}

fn limit_starts(unit: &mut Unit) {
    unit.set("StartLimitIntervalSec", WINDOW);
    unit.set("StartLimitBurst", BURST);
}

fn restart(unit: &mut Unit, host: &Host<'_>) {
    unit.set("Restart", "on-failure");
    // For systemd these signals are a clean end. Nobody who wants a service down sends them past systemd.
    unit.set("RestartForceExitStatus", "SIGHUP SIGINT SIGTERM SIGPIPE");
    if host.features.growing_pause {
        unit.set("RestartSec", 1);
        unit.set("RestartSteps", 5);
        unit.set("RestartMaxDelaySec", 30);
    } else {
        unit.set("RestartSec", 5);
    }
}

fn environment(unit: &mut Unit, host: &Host<'_>) {
    for (name, value) in host.environment {
        unit.words("Environment", [format!("{name}={value}").as_str()]);
    }
}

fn install(unit: &mut Unit) {
    unit.section("Install");
    unit.set("WantedBy", "multi-user.target");
}

fn limits(unit: &mut Unit, dir: &Path, spec: &ServiceSpec) {
    let limits = &spec.limits;
    if let Some(bytes) = limits.memory_bytes(spec.mem_mib, spec.vmm) {
        unit.set("MemoryMax", bytes);
    }
    if let Some(percent) = limits.cpu_percent(spec.vcpu) {
        unit.set("CPUQuota", format!("{percent}%"));
    }
    unit.set("TasksMax", limits.tasks_max().map_or("infinity".to_owned(), |tasks| tasks.to_string()));
    if let Some(weight) = limits.io_weight {
        unit.set("IOWeight", weight);
    }
    for (name, rate) in [("IOReadBandwidthMax", limits.io_read), ("IOWriteBandwidthMax", limits.io_write)] {
        if let Some(rate) = rate {
            // A path that is no device stands for the one below its filesystem.
            unit.words(name, [utf8(dir), rate.to_string().as_str()]);
        }
    }
}

/// Settings refuse what is not UTF-8.
fn utf8(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The paths that a unit works with: its sandbox is built around them.
#[derive(Debug)]
struct Needs {
    /// `FC_ROOT/ID`.
    dir: PathBuf,
    /// What it reads and a sandbox might hide.
    read: Vec<PathBuf>,
    /// What it writes.
    write: Vec<PathBuf>,
    /// The folder of sockets below /run.
    run: PathBuf,
}

impl Needs {
    fn of_vm(host: &Host<'_>, id: &InstanceId, spec: &ServiceSpec) -> Self {
        let paths = host.layout.instance_unchecked(id);
        let mut write = vec![host.layout.locks(), paths.state_dir, paths.dir.clone()];
        let elsewhere = spec.api_sock.as_deref().and_then(Path::parent);
        write.extend(elsewhere.filter(|dir| !dir.starts_with(&paths.dir)).map(Path::to_owned));
        let mut read = vec![host.program.to_owned(), host.layout.state_root.clone()];
        read.push(host.layout.images_root.clone());
        read.extend(spec.ssh_key_path.clone());
        Self { dir: paths.dir, read, write, run: host.layout.run_root.clone() }
    }

    fn of_proxy(host: &Host<'_>, id: &InstanceId) -> Self {
        Self {
            dir: Layout::unit_state(id),
            read: vec![host.program.to_owned()],
            write: Vec::new(),
            run: Layout::unit_run(id),
        }
    }
}
