//! Firecracker's machine configuration and the jailer's command line, and where things lie inside a jail. Touches
//! nothing.
//!
//! Keys and values are those of Firecracker's API description (1.16; the same in 1.17), options those of its jailer.

mod rates;

use std::path::{Path, PathBuf};

pub use rates::RateChange;
use rates::{CARD, DISK, Limiter};
use serde::Serialize;

use crate::{
    error::{Context, Result},
    id::{InstanceId, MacAddr, TapName},
    spec::Rates,
};

/// What lies in the root of a jail under which name. Firecracker sees these with a leading `/`.
pub mod jail_file {
    /// The kernel.
    pub const KERNEL: &str = "vmlinux";
    /// The initial ramdisk.
    pub const INITRD: &str = "initrd.img";
    /// The disk that the guest writes to.
    pub const DISK: &str = "rootfs.ext4";
    /// The read-only base, where the disk is only what was written over it.
    pub const BASE: &str = "base.ext4";
    /// The seed disk.
    pub const SEED: &str = "seed.img";
    /// A snapshot's devices and registers.
    pub const STATE: &str = "snapshot.state";
    /// A snapshot's memory.
    pub const MEMORY: &str = "snapshot.memory";
    /// The machine configuration.
    pub const CONFIG: &str = "vm.json";
    /// The API's socket, in a folder that the jailer makes and gives to Firecracker's user.
    pub const SOCKET: &str = "run/firecracker.socket";
}

/// What one VM's machine configuration is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineArgs<'a> {
    /// Kernel command line, without console, reboot method and panic behaviour.
    pub cmdline: &'a str,
    /// Whether there is an initial ramdisk.
    pub initrd: bool,
    /// Whether there is a read-only base: then it is the first disk.
    pub base: bool,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// The tap.
    pub tap: &'a TapName,
    /// The card's address.
    pub mac: MacAddr,
    /// How fast it may use network and disk.
    pub rates: Rates,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::struct_field_names, reason = "the keys are Firecracker's")]
struct Machine {
    boot_source: BootSource,
    drives: Vec<Drive>,
    machine_config: MachineConfig,
    network_interfaces: [NetworkInterface; 1],
    logger: Logger,
    entropy: Entropy,
}

#[derive(Serialize)]
struct BootSource {
    kernel_image_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<String>,
    boot_args: String,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys are Firecracker's")]
struct Drive {
    drive_id: &'static str,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
    io_engine: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limiter: Option<Limiter>,
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u32,
    smt: bool,
    track_dirty_pages: bool,
}

#[derive(Serialize)]
struct NetworkInterface {
    iface_id: &'static str,
    host_dev_name: String,
    guest_mac: MacAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_rate_limiter: Option<Limiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_rate_limiter: Option<Limiter>,
}

#[derive(Serialize)]
struct Logger {
    level: &'static str,
    show_level: bool,
    show_log_origin: bool,
}

/// An entropy device with no limit.
#[derive(Serialize)]
struct Entropy {}

/// The file for `--config-file`, pretty and with a newline at its end. All its paths are inside the jail.
pub fn machine_config(vm: &MachineArgs<'_>) -> Result<String> {
    let machine = Machine {
        boot_source: BootSource {
            kernel_image_path: inside(jail_file::KERNEL),
            initrd_path: vm.initrd.then(|| inside(jail_file::INITRD)),
            // Firecracker ends when the guest resets itself by the keyboard controller, and the supervisor starts it
            // again: that is a reboot.
            boot_args: format!("{} console=ttyS0 reboot=k panic=1", vm.cmdline).trim_start().to_owned(),
        },
        drives: vm
            .base
            .then(|| drive("base", jail_file::BASE, true))
            .into_iter()
            .chain([
                Drive {
                    rate_limiter: Limiter::at_start(vm.rates.disk_bytes(), vm.rates.disk_iops.map(u64::from)),
                    ..drive(DISK, jail_file::DISK, false)
                },
                drive("seed", jail_file::SEED, true),
            ])
            .collect(),
        machine_config: MachineConfig {
            vcpu_count: vm.vcpu,
            mem_size_mib: vm.mem_mib,
            smt: false,
            track_dirty_pages: false,
        },
        network_interfaces: [NetworkInterface {
            iface_id: CARD,
            host_dev_name: vm.tap.to_string(),
            guest_mac: vm.mac,
            rx_rate_limiter: Limiter::at_start(vm.rates.net_bytes(), None),
            tx_rate_limiter: Limiter::at_start(vm.rates.net_bytes(), None),
        }],
        // A guest can make Firecracker log without end. Without a file of its own the log goes to standard output, with
        // the console, and what bounds the one bounds the other.
        logger: Logger { level: "Warning", show_level: true, show_log_origin: false },
        entropy: Entropy {},
    };
    let mut text = serde_json::to_string_pretty(&machine).context("render", "the machine configuration")?;
    text.push('\n');
    Ok(text)
}

/// No drive is the root device: for one that is, Firecracker appends its own `root=`, which would win over the command
/// line's. The guest numbers the disks in this order. The default cache type ignores the guest's flushes; `Writeback`
/// makes each an fsync.
fn drive(id: &'static str, file: &str, read_only: bool) -> Drive {
    Drive {
        drive_id: id,
        path_on_host: inside(file),
        is_root_device: false,
        is_read_only: read_only,
        cache_type: "Writeback",
        io_engine: "Sync",
        rate_limiter: None,
    }
}

/// A file of the jail as Firecracker names it.
pub fn inside(file: &str) -> String {
    format!("/{file}")
}

/// What one VM's jailer command line is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JailerArgs<'a> {
    /// Whose VM it is.
    pub id: &'a InstanceId,
    /// Firecracker's program file, absolute.
    pub exec_file: &'a Path,
    /// The unprivileged user of this VM alone.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The folder that jails are made in, absolute.
    pub chroot_base: &'a Path,
    /// The largest file that Firecracker may write, in bytes: not below the size of its disks.
    pub fsize: u64,
    /// Whether the jailer forks Firecracker into a PID namespace of its own and ends. What supervises must then follow
    /// the pid in the jail's pid file; without, the jailer becomes Firecracker.
    pub new_pid_ns: bool,
    /// Whether it waits for a snapshot instead of booting the machine of its configuration.
    pub resumes: bool,
}

/// The most descriptors that Firecracker may hold: its devices take a few dozen.
const NO_FILE: u32 = 1024;

/// The group that the jailer is told to move to and that nobody makes: it then stays in the control group where the
/// supervisor started it, with the supervisor's limits. Its default, the program's name, might exist.
const PARENT_CGROUP: &str = "fireclaw-none";

/// The arguments after `jailer`.
pub fn jailer_argv(vm: &JailerArgs<'_>) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("--id", vm.id.jail());
    option("--exec-file", vm.exec_file.display().to_string());
    option("--uid", vm.uid.to_string());
    option("--gid", vm.gid.to_string());
    option("--chroot-base-dir", vm.chroot_base.display().to_string());
    option("--cgroup-version", "2".to_owned());
    option("--parent-cgroup", PARENT_CGROUP.to_owned());
    option("--resource-limit", format!("no-file={NO_FILE}"));
    option("--resource-limit", format!("fsize={}", vm.fsize));
    if vm.new_pid_ns {
        args.push("--new-pid-ns".to_owned());
    }
    // What follows goes to Firecracker; the id is passed on by the jailer itself.
    args.push("--".to_owned());
    if vm.resumes {
        // A snapshot holds the machine and not the logger: the level is that of the configuration.
        args.extend(["--level".to_owned(), "Warning".to_owned(), "--show-level".to_owned()]);
    } else {
        args.extend(["--config-file".to_owned(), inside(jail_file::CONFIG)]);
    }
    args.extend(["--api-sock".to_owned(), inside(jail_file::SOCKET)]);
    args
}

/// The root of an instance's jail: `BASE/PROGRAM/ID/root`. `exec_file` is Firecracker's program file without symlinks,
/// since the jailer names the folder after what it finds at the end of them.
pub fn jail_root(chroot_base: &Path, exec_file: &Path, id: &InstanceId) -> PathBuf {
    let program = exec_file.file_name().unwrap_or(exec_file.as_os_str());
    chroot_base.join(program).join(id.jail()).join("root")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn machine(change: impl FnOnce(&mut MachineArgs<'_>)) -> String {
        let tap: TapName = "tmybot2".parse().unwrap();
        let mut vm = MachineArgs {
            cmdline: "root=/dev/vda rw quiet",
            initrd: true,
            base: false,
            vcpu: 2,
            mem_mib: 2048,
            tap: &tap,
            mac: MacAddr::for_ip(Ipv4Addr::new(172, 16, 0, 2)),
            rates: Rates::default(),
        };
        change(&mut vm);
        machine_config(&vm).unwrap()
    }

    #[test]
    fn the_machine() {
        insta::assert_snapshot!(machine(|_| {}));
    }

    #[test]
    fn a_machine_with_a_shared_base() {
        insta::assert_snapshot!(machine(|vm| {
            vm.base = true;
            vm.cmdline = "root=/dev/vda ro fireclaw.state=/dev/vdb quiet";
        }));
    }

    #[test]
    fn a_machine_without_an_initrd_whose_command_line_needs_escapes() {
        let text = machine(|vm| {
            vm.initrd = false;
            vm.cmdline = "init=\"/a \\ b\"";
        });
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["boot-source"].get("initrd_path"), None);
        assert_eq!(read["boot-source"]["boot_args"], "init=\"/a \\ b\" console=ttyS0 reboot=k panic=1");
    }

    const RATES: Rates = Rates { net_mbit: Some(50), disk_iops: Some(1000), disk_mbyte: Some(20) };

    #[test]
    fn a_machine_with_rates() {
        insta::assert_snapshot!(machine(|vm| vm.rates = RATES));
        let one = machine(|vm| vm.rates = Rates { disk_iops: Some(100), ..Rates::default() });
        let read: serde_json::Value = serde_json::from_str(&one).unwrap();
        assert_eq!(
            read["drives"][0]["rate_limiter"],
            serde_json::json!({ "ops": { "size": 100, "refill_time": 1000 } })
        );
        assert!(!one.contains("rx_rate_limiter"));
    }

    #[test]
    fn rates_of_a_running_machine_are_set_and_lifted() {
        let text = |rates: &Rates| {
            let line =
                |change: RateChange| format!("{} {}", change.path(), serde_json::to_string(&change).unwrap());
            RateChange::all(rates).map(line).join("\n")
        };
        insta::assert_snapshot!(format!("{}\n{}", text(&RATES), text(&Rates::default())));
    }

    #[test]
    fn a_firecracker_that_goes_on_from_a_memory_boots_nothing() {
        let id = "my-bot".parse().unwrap();
        let path = Path::new("/x/firecracker");
        let vm = JailerArgs {
            id: &id,
            exec_file: path,
            uid: 1,
            gid: 1,
            chroot_base: path,
            fsize: 1,
            new_pid_ns: false,
            resumes: true,
        };
        let line = jailer_argv(&vm).join(" ");
        let (_, own) = line.split_once(" -- ").unwrap();
        assert_eq!(own, "--level Warning --show-level --api-sock /run/firecracker.socket");
    }

    fn jailer(id: &str, new_pid_ns: bool) -> Vec<String> {
        jailer_argv(&JailerArgs {
            id: &id.parse().unwrap(),
            exec_file: Path::new("/usr/local/bin/firecracker"),
            uid: 64_000,
            gid: 64_001,
            chroot_base: Path::new("/srv/firecracker/vm-demo/my-bot_2/jail"),
            fsize: 40 << 30,
            new_pid_ns,
            resumes: false,
        })
    }

    #[test]
    fn the_jailer() {
        insta::assert_snapshot!(jailer("my-bot_2", false).join(" ").replace(" --", "\n--"));
    }

    #[test]
    fn a_pid_namespace_is_one_more_flag_before_firecrackers_own() {
        let args = jailer("my-bot", true);
        let flag = args.iter().position(|arg| arg == "--new-pid-ns").unwrap();
        let end = args.iter().position(|arg| arg == "--").unwrap();
        assert!(flag < end);
        assert_eq!(args.len(), jailer("my-bot", false).len() + 1);
    }

    #[test]
    fn the_jail_is_named_after_the_program_and_the_escaped_id() {
        let root = jail_root(
            Path::new("/base"),
            Path::new("/opt/firecracker-v1.16.1-x86_64"),
            &"my-bot_2".parse().unwrap(),
        );
        assert_eq!(root, Path::new("/base/firecracker-v1.16.1-x86_64/my--bot-u2/root"));
    }
}
