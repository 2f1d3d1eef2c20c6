//! Processes of an instance as they run: none leaves its memory on a disk (the proxy, the supervisor, and the VMM that `run`
//! becomes, each started by its verb with a limit that would allow cores), and the VM is in a group with limits.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use fireclaw_core::{id::InstanceId, layout::Layout};
use fireclaw_host::{
    cgroup::Controllers,
    embedded::EmbeddedSupervisor,
    exec::{Cmd, Exec as _, SystemExec},
    supervisor::{Service, Supervisor as _},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{lab::Namespace, stage::comes};

struct Host {
    id: &'static str,
    namespace: Namespace,
    root: tempfile::TempDir,
}

/// Ends with the test, whatever becomes of that.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    /// An instance with all its files; its kernel waits for a power button.
    fn new() -> Self {
        Self::named("a")
    }

    fn named(id: &'static str) -> Self {
        let this = Self { id, namespace: Namespace::make(), root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(this.at(&format!("state/.vm-{id}"))).unwrap();
        for dir in ["images", "config", "logs", "supervisor"] {
            fs::create_dir_all(this.at(&format!("fc/{id}/{dir}"))).unwrap();
        }
        let env = "FIRECLAW_STATE_FORMAT=plain-v2\nHOST_PORT=18891\nVM_IP=172.16.0.2\nVM_TAP=ta2\n\
                   GATEWAY_TOKEN=abc\nMODEL=anthropic/claude-opus-4-6\nRUNTIME=native\nVMM=qemu\nSUPERVISOR=embedded\n\
                   PROVISIONED=true\nNET_MBIT=10\nVM_MEM_MIB=128\nVM_VCPU=1\n";
        fs::write(this.at(&format!("state/.vm-{id}/.env")), format!("{env}INSTANCE_ID={id}\n")).unwrap();
        for file in ["vmlinux", "rootfs.ext4", "seed.img"] {
            fs::write(this.at(&format!("fc/{id}/images")).join(file), crate::machine::guest()).unwrap();
        }
        this
    }

    fn at(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Starts both services by the supervisor of hosts without systemd.
    fn serve(&self) -> EmbeddedSupervisor {
        let layout = Layout { state_root: self.at("state"), fc_root: self.at("fc"), ..Layout::default() };
        let environment = [("STATE_ROOT", "state"), ("FC_ROOT", "fc")]
            .map(|(name, below)| (name.to_owned(), self.at(below).display().to_string()));
        let program = env!("CARGO_BIN_EXE_fireclaw").into();
        let supervisor = EmbeddedSupervisor::new(layout, program, environment.into());
        let id: InstanceId = self.id.parse().unwrap();
        self.namespace.run(|| {
            for service in Service::ALL {
                supervisor.start(&id, service).unwrap();
            }
        });
        supervisor
    }

    fn audit(&self) -> serde_json::Value {
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_fireclaw"))
            .args(["audit", "--json"])
            .env("STATE_ROOT", self.at("state"))
            .env("FC_ROOT", self.at("fc"));
        let output = self.namespace.run(|| SystemExec::default().run(cmd).unwrap());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.code(), i32::from(report["ok"] == false), "{report}");
        report
    }

    #[expect(clippy::disallowed_methods, reason = "the test ends it by itself")]
    fn start(&self, verb: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fireclaw"));
        command
            .args([verb, self.id])
            .env_clear()
            .env("STATE_ROOT", self.at("state"))
            .env("FC_ROOT", self.at("fc"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec only getrlimit(2) and setrlimit(2) are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
                setrlimit(Resource::RLIMIT_CORE, hard, hard)?;
                Ok(())
            });
        }
        Process(self.namespace.run(|| command.spawn().unwrap()))
    }
}

/// Soft and hard limit of a core.
fn limits(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap_or_default();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Files of a process that is not dumpable belong to root, whoever it runs as: proc(5).
fn is_dumpable(pid: u32) -> bool {
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    owner == uid(pid) && owner != 0
}

fn uid(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|uid| uid.parse().ok()).unwrap_or_default()
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn the_proxy_leaves_no_core() {
    let host = Host::new();
    let proxy = host.start("proxy");
    let pid = proxy.0.id();
    assert!(comes(|| uid(pid) != 0 && limits(pid) == "0 0"), "{} as {}", limits(pid), uid(pid));
    assert!(comes(|| !is_dumpable(pid)), "what it was root for is in its memory");
}

#[test]
fn the_supervisor_leaves_no_core() {
    let host = Host::new();
    let supervisor = host.start("supervise");
    let pid = supervisor.0.id();
    assert!(comes(|| Path::new(&host.at("fc/a/supervisor/control.sock")).exists()));
    assert_eq!(limits(pid), "0 0");
}

/// A real QEMU, emulating a guest that does nothing.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_vmm_that_run_becomes_leaves_no_core() {
    let host = Host::new();
    let vmm = host.start("run");
    let pid = vmm.0.id();
    // QEMU calls itself by the instance's name.
    assert!(comes(|| name(pid) == "a"), "it is {} still", name(pid));
    assert_eq!((limits(pid).as_str(), uid(pid)), ("0 0", fireclaw_core::id::vmm_uid([172, 16, 0, 2].into())));
    // And its tap has the rate of the record.
    let shaped = host.namespace.run(|| crate::lab::json("tc -j qdisc show dev ta2"));
    assert_eq!(shaped[0]["options"]["rate"], 1_250_000, "{shaped}");
    let rules = host.namespace.run(|| crate::lab::run("nft list chain bridge fireclaw rates"));
    assert!(rules.contains("limit rate over"), "{rules}");
    // Its supervisor would do this: without it the control group stays.
    drop(vmm);
    assert!(host.start("clean").0.wait().unwrap().success());
}

/// Ends what the supervisor keeps running, whatever becomes of the test.
struct Served<'a>(&'a Host, EmbeddedSupervisor);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = self.0.namespace.run(|| self.1.uninstall(&self.0.id.parse().unwrap()));
    }
}

/// A whole instance on a host without systemd, with a real VMM, looked at by the real `audit`: nothing is found, and what is
/// shown is so.
#[test]
#[cfg(target_arch = "x86_64")]
fn an_audit_of_a_running_instance_finds_nothing() {
    let host = Host::new();
    for (below, mode) in [("state", 0o700), ("fc", 0o700), ("state/.vm-a", 0o700), ("fc/a", 0o700)] {
        fs::set_permissions(host.at(below), PermissionsExt::from_mode(mode)).unwrap();
    }
    for secret in ["state/.vm-a/.env", "fc/a/images/rootfs.ext4", "fc/a/images/seed.img"] {
        fs::set_permissions(host.at(secret), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let _served = Served(&host, host.serve());
    let whole = |report: &serde_json::Value| {
        let processes = report["instances"][0]["processes"].as_array().unwrap();
        processes.len() == 3
            && processes.iter().all(|one| one["no_core"] == true)
            && report["instances"][0]["versions"][0]
                .as_str()
                .is_some_and(|version| version.starts_with("QEMU "))
    };
    assert!(comes(|| whole(&host.audit())), "{}", host.audit());
    let report = host.audit();
    let of_a: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|one| one["instance"] == "a").collect();
    assert!(of_a.is_empty(), "{of_a:?}");
    let shown = &report["instances"][0];
    let vm = &shown["processes"][0];
    assert_eq!(vm["role"], "vm");
    for field in ["seccomp", "no_new_privileges", "no_capabilities"] {
        assert_eq!(vm[field], true, "{field} of {vm}");
    }
    assert_eq!(shown["sockets"], serde_json::json!(["tcp 127.0.0.1:18891", "tcp [::1]:18891"]));
}

/// The group of a VM is there while the VM runs, and goes with it.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_vm_without_systemd_is_held_by_a_group() {
    let controllers = Controllers::find().unwrap().expect("this test needs a kernel with control groups");
    let host = Host::named("grouped");
    let id: InstanceId = host.id.parse().unwrap();
    let served = Served(&host, host.serve());
    let groups = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
        // QEMU calls itself by the instance's name.
        let vmm = pids.find(|pid| name(*pid) == "grouped");
        vmm.map(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
    };
    assert!(
        comes(|| groups().is_some_and(|groups| groups.contains("/fireclaw/grouped\n"))),
        "{:?}",
        groups()
    );
    assert!(controllers.has(&id));
    drop(served);
    assert!(!controllers.has(&id), "the group outlived its VM");
}
