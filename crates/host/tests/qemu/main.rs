//! A real QEMU, with a guest of forty bytes: it greets on the console, waits for its power button and powers off. Shows
//! that our command line is taken, that QEMU runs as the VM's user in its sandbox, and that its control socket works.
//! Needs root, `ip` and the Debian package `qemu-system-x86`. Emulated, so it runs anywhere.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod guest;

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::Arc,
    time::Duration,
};

use fireclaw_core::{id::MacAddr, spec::Rates};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec, handover},
    interrupt::Interrupt,
    qemu::{Qemu, qmp::Qmp},
    vmm::{self, VmSpec, Vmm},
    wait::{Probed, Requirement, until},
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sched::{CloneFlags, unshare},
};

use guest::{HELLO, guest};

const UID: u32 = 64_000;

struct Machine {
    dir: tempfile::TempDir,
    spec: VmSpec,
    vmm: Qemu,
    child: Child,
}

/// Boots the guest in a network namespace of this thread's own.
fn boot() -> Machine {
    let dir = tempfile::tempdir().unwrap();
    // Closed to QEMU's user, as an instance's folder is.
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("vmlinux"), guest()).unwrap();
    for name in ["rootfs.ext4", "seed.img"] {
        fs::write(at(name), [0; 4096]).unwrap();
        fs::set_permissions(at(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    File::options().write(true).open(at("rootfs.ext4")).unwrap().set_len(16 << 20).unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    SystemExec::default().check(Cmd::new("ip").args(["tuntap", "add", "ttest2", "mode", "tap"])).unwrap();
    let ip = Ipv4Addr::new(172, 16, 0, 2);
    let spec = VmSpec {
        id: "my-bot_2".parse().unwrap(),
        kernel: at("vmlinux"),
        initrd: None,
        cmdline: "root=/dev/vda".to_owned(),
        base: None,
        disk: at("rootfs.ext4"),
        seed: at("seed.img"),
        vcpu: 2,
        mem_mib: 128,
        tap: "ttest2".parse().unwrap(),
        mac: MacAddr::for_ip(ip),
        ip,
        api_sock: at("api.sock"),
        uid: UID,
        gid: UID,
        vmm_config: at("vm.json"),
        vmm_log: at("vmm.log"),
        jail_dir: at("jail"),
        kvm: false,
        rates: Rates::default(),
        resume: None,
        start: vmm::Start::Becoming,
    };
    let vmm = Qemu::new(Arc::new(SystemExec::default())).unwrap();
    let launch = vmm.prepare(&spec).unwrap();
    for fd in &launch.keep {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let log = File::create(at("console.log")).unwrap();
    let child = handover::spawn(&launch.cmd, Some(&log)).unwrap();
    Machine { dir, spec, vmm, child }
}

impl Machine {
    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console.log")).unwrap()
    }

    fn wait_for_hello(&mut self) {
        self.wait("the guest's greeting", |this| this.console().contains(HELLO).then_some(()));
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        self.wait("the end of QEMU", |this| this.child.try_wait().unwrap())
    }

    fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&mut Self) -> Option<T>) -> T {
        let requirement = Requirement {
            description: what.to_owned(),
            deadline: Duration::from_mins(1),
            hint: "is the machine very busy?".to_owned(),
        };
        until(&requirement, &Interrupt::default(), || {
            probe(self).map_or_else(|| Probed::NotYet(self.console()), Probed::Ready)
        })
        .unwrap_or_else(|error| panic!("{}", error.one_line()))
    }

    fn status_field(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_guest_boots_unprivileged_pauses_and_ends_by_its_power_button() {
    let mut machine = boot();
    machine.wait_for_hello();
    assert_eq!(machine.status_field("Uid:"), "64000 64000 64000 64000");
    assert_eq!(machine.status_field("Gid:"), "64000 64000 64000 64000");
    assert_eq!(machine.status_field("Groups:"), "");
    assert_eq!(machine.status_field("CapEff:"), "0000000000000000");
    assert_eq!(machine.status_field("Seccomp:"), "2");
    assert_eq!(machine.status_field("Name:"), "my-bot_2");

    let sock = machine.spec.api_sock.clone();
    let state = |machine: &Machine| machine.vmm.info(&sock).unwrap().state;
    assert_eq!(state(&machine), "running");
    assert!(!machine.vmm.info(&sock).unwrap().version.is_empty());
    machine.vmm.pause(&sock).unwrap();
    assert_eq!(state(&machine), "paused");
    machine.vmm.resume(&sock).unwrap();
    assert_eq!(state(&machine), "running");
    // A second VMM of the instance is refused before it opens the disk.
    assert!(machine.vmm.prepare(&machine.spec).is_err());

    machine.vmm.press_power_button(&sock).unwrap();
    assert_eq!(machine.wait_for_end().code(), Some(0));
    assert!(machine.vmm.info(&sock).is_err());
    vmm::clean(&sock, &machine.spec.jail_dir).unwrap();
    assert_eq!(left(machine.dir.path()), ["console.log", "rootfs.ext4", "seed.img", "vmlinux"]);
}

#[test]
fn a_killed_vmm_ends_by_the_signal_and_a_new_one_takes_its_place() {
    let mut machine = boot();
    machine.wait_for_hello();
    machine.child.kill().unwrap();
    assert_eq!(machine.wait_for_end().signal(), Some(9));
    assert!(machine.spec.api_sock.exists(), "nobody cleaned up");
    // The tap is free again, and the dead socket is replaced.
    let launch = machine.vmm.prepare(&machine.spec).unwrap();
    assert_eq!(launch.keep.len(), 5);
}

#[test]
fn a_vmm_can_be_told_to_end_at_once() {
    let mut machine = boot();
    machine.wait_for_hello();
    Qmp::connect(&machine.spec.api_sock, Duration::from_secs(2)).unwrap().quit().unwrap();
    assert_eq!(machine.wait_for_end().code(), Some(0));
}

/// The limits of the disk, set, changed and lifted while the guest runs, by what QEMU's own reader takes for four megabytes.
#[test]
fn the_disks_rate_is_kept_and_changes_live() {
    let mut machine = boot();
    machine.wait_for_hello();
    let sock = machine.spec.api_sock.clone();
    let reading = || {
        let mut qmp = Qmp::connect(&sock, Duration::from_secs(30)).unwrap();
        let command = serde_json::json!({"command-line": "qemu-io limited \"read 0 4M\""});
        let begun = std::time::Instant::now();
        qmp.execute_with("human-monitor-command", Some(&command)).unwrap();
        begun.elapsed()
    };
    let free = reading();
    assert!(free < Duration::from_secs(2), "{free:?}");
    let rates = |disk_mbyte| Rates { disk_mbyte, ..Rates::default() };
    machine.vmm.set_rates(&sock, &rates(Some(1))).unwrap();
    // One request passes whatever its size, and the next one waits for it.
    reading();
    let slow = reading();
    assert!((Duration::from_secs(3)..Duration::from_secs(30)).contains(&slow), "{slow:?}");
    machine.vmm.set_rates(&sock, &rates(None)).unwrap();
    let free = reading();
    assert!(free < Duration::from_secs(2), "{free:?}");
}

fn left(dir: &Path) -> Vec<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}
