//! QEMU's command line. Every file and socket is a descriptor that was opened before QEMU starts, because QEMU runs as a
//! user that may open none of them. Touches nothing.
//!
//! Written for QEMU 7.2 (Debian 12) and later. The machine is `microvm` on `x86_64`: virtio-mmio devices that the guest
//! finds by ACPI, a serial port, no PCI. `aarch64` has no `microvm`; its `virt` takes the same devices.

use serde::Serialize;

use crate::{
    id::{InstanceId, MacAddr},
    spec::{Arch, Rates},
};

/// Descriptors by number, as QEMU inherits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fds {
    /// Kernel, for reading.
    pub kernel: i32,
    /// Initial ramdisk, for reading.
    pub initrd: Option<i32>,
    /// The read-only base, for reading; where there is one it is the first disk.
    pub base: Option<i32>,
    /// The disk that the guest writes to, for reading and writing.
    pub disk: i32,
    /// Seed disk, for reading.
    pub seed: i32,
    /// The tap, attached.
    pub tap: i32,
    /// The listening socket of QMP.
    pub qmp: i32,
}

/// What one VM's command line is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QemuArgs<'a> {
    /// Whose VM it is; shown in `ps`.
    pub id: &'a InstanceId,
    /// The machine's architecture, which is the guest's.
    pub arch: Arch,
    /// KVM, or else emulation.
    pub kvm: bool,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// Kernel command line, without console and panic behaviour.
    pub cmdline: &'a str,
    /// The card's address.
    pub mac: MacAddr,
    /// How fast the processor's time stamp counter runs, in kHz: what an emulated `x86_64` guest must be told.
    pub tsc_khz: Option<u64>,
    /// How fast it may use its disk. The network has no limiter in QEMU.
    pub rates: Rates,
    /// The open descriptors.
    pub fds: Fds,
}

impl QemuArgs<'_> {
    /// The number of the first device behind the base.
    const fn first_after_base(&self) -> u32 {
        if self.fds.base.is_some() { 1 } else { 0 }
    }
}

/// The name of the program for an architecture.
pub const fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86_64",
        Arch::Aarch64 => "qemu-system-aarch64",
    }
}

/// The numbers of the descriptor sets; any numbers do, as long as they differ.
const DISK_SET: u32 = 1;
const SEED_SET: u32 = 2;
const BASE_SET: u32 = 3;

/// The arguments after the program's name.
pub fn argv(vm: &QemuArgs<'_>) -> Vec<String> {
    let mut args = Args::default();
    args.option("-name", format!("guest={id},process={id},debug-threads=on", id = vm.id));
    machine(vm, &mut args);
    args.flag("-nodefaults").flag("-no-user-config");
    args.option("-display", "none");
    // No new programs, no new privileges, no system calls that only old programs make.
    args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    args.option("-msg", "timestamp=on");
    boot(vm, &mut args);
    disks(vm, &mut args);
    args.option("-netdev", format!("tap,id=net0,fd={}", vm.fds.tap));
    args.option(
        "-device",
        format!("virtio-net-device,netdev=net0,mac={},{}", vm.mac, bus(vm, vm.first_after_base() + 2)),
    );
    // The random numbers are QEMU's own: no file to open, and a guest never waits for entropy while it boots.
    args.option("-object", "rng-builtin,id=rng0");
    args.option("-device", format!("virtio-rng-device,rng=rng0,{}", bus(vm, vm.first_after_base() + 3)));
    // Nobody inflates the balloon; through it the guest tells which pages it freed, and the host gets them back.
    args.option(
        "-device",
        format!(
            "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on,{}",
            bus(vm, vm.first_after_base() + 4)
        ),
    );
    // The console is standard output. Ctrl-C stays a signal, and there is no monitor to switch to in it.
    args.option("-chardev", "stdio,id=console,signal=on,mux=off");
    args.option("-serial", "chardev:console");
    args.option("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", vm.fds.qmp));
    args.option("-mon", "chardev=qmp,mode=control");
    args.0
}

fn machine(vm: &QemuArgs<'_>, args: &mut Args) {
    // The guest's memory is left out of a core of QEMU, should there ever be one, and none of it is merged with a neighbour's.
    match vm.arch {
        // Without option ROMs the small boot firmware (qboot) hands over to the kernel directly. ACPI carries the devices,
        // the power button, power-off and reset. PIT and PIC stay on: without KVM a kernel does not boot without them.
        Arch::X86_64 => args.option(
            "-M",
            "microvm,acpi=on,x-option-roms=off,isa-serial=on,rtc=on,pit=on,pic=on,pcie=off,usb=off,dump-guest-core=off,mem-merge=off",
        ),
        Arch::Aarch64 => args.option("-M", "virt,gic-version=max,acpi=off,dump-guest-core=off,mem-merge=off"),
    };
    if vm.kvm {
        args.option("-accel", "kvm").option("-cpu", "host");
    } else {
        args.option("-accel", "tcg,thread=multi").option("-cpu", emulated_cpu(vm.arch));
    }
    args.option("-smp", vm.vcpu.to_string());
    args.option("-m", format!("{}M", vm.mem_mib));
}

/// Everything that QEMU can emulate, without what it emulates badly: programs choose AVX for speed when it is there, and
/// emulated a SHA-256 with it took three times as long as without. ERMS and FSRM have the guest's kernel copy byte by byte, one
/// emulated step each: 300 MiB out of the page cache took 1.6 to 1.9 s with them and 0.5 to 0.9 s without.
fn emulated_cpu(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "max,-avx,-avx2,-fma,-erms,-fsrm",
        Arch::Aarch64 => "max",
    }
}

fn boot(vm: &QemuArgs<'_>, args: &mut Args) {
    // QEMU reads these by path, and only while it starts. The path through /proc leads to the file without passing its
    // folders, which are closed to QEMU's user; the file itself must be readable.
    args.option("-kernel", format!("/proc/self/fd/{}", vm.fds.kernel));
    if let Some(initrd) = vm.fds.initrd {
        args.option("-initrd", format!("/proc/self/fd/{initrd}"));
    }
    args.option("-append", cmdline(vm));
}

/// The kernel command line with what this machine needs.
fn cmdline(vm: &QemuArgs<'_>) -> String {
    let console = match vm.arch {
        Arch::X86_64 => "ttyS0",
        Arch::Aarch64 => "ttyAMA0",
    };
    // An emulated microvm has one clock to measure the time stamp counter by, the PIT, read in a tight loop. On a busy
    // host that measurement fails and the kernel hangs at once, so it is told the result: the emulated counter is the
    // host's own. There is nothing to watch the counter by either, and the attempt would only discredit it.
    let clock = match vm.tsc_khz {
        Some(khz) if !vm.kvm && vm.arch == Arch::X86_64 => format!(" tsc_early_khz={khz} tsc=reliable"),
        _ => String::new(),
    };
    // A kernel that panicked restarts by itself after a second, in the same process.
    format!("{} console={console} panic=1{clock}", vm.cmdline).trim_start().to_owned()
}

/// The object that limits the root disk.
pub const DISK_LIMITS: &str = "disk-limits";

/// The `limits` of that object; 0 is no limit. Others of its fields are left as they are, which is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskLimits {
    iops_total: u32,
    bps_total: u64,
}

impl DiskLimits {
    /// What a VM's rates make of it.
    pub fn of(rates: &Rates) -> Self {
        Self { iops_total: rates.disk_iops.unwrap_or(0), bps_total: rates.disk_bytes().unwrap_or(0) }
    }
}

fn disks(vm: &QemuArgs<'_>, args: &mut Args) {
    if let Some(fd) = vm.fds.base {
        read_only(vm, args, "base", fd, BASE_SET, 0);
    }
    // Written through the host's page cache; a flush of the guest is an fdatasync, which is what keeps its databases
    // whole. Discards of the guest punch holes, so the file stays sparse. The lock stops a second QEMU on one disk.
    args.option("-add-fd", format!("fd={},set={DISK_SET},opaque=disk", vm.fds.disk));
    args.option(
        "-blockdev",
        format!(
            "driver=raw,node-name=disk,discard=unmap,cache.direct=off,cache.no-flush=off,\
             file.driver=file,file.filename=/dev/fdset/{DISK_SET},file.aio=threads,file.locking=on,\
             file.discard=unmap,file.cache.direct=off,file.cache.no-flush=off"
        ),
    );
    // The limits are an object, so that they can be changed while the guest runs, also from and to none.
    let limits = DiskLimits::of(&vm.rates);
    // Without JSON QEMU takes each limit under a name that it calls unstable only.
    args.option(
        "-object",
        format!(
            r#"{{"qom-type":"throttle-group","id":"{DISK_LIMITS}","limits":{{"iops-total":{},"bps-total":{}}}}}"#,
            limits.iops_total, limits.bps_total
        ),
    );
    args.option(
        "-blockdev",
        format!(
            "driver=throttle,node-name=limited,throttle-group={DISK_LIMITS},file=disk,\
             discard=unmap,cache.direct=off,cache.no-flush=off"
        ),
    );
    args.option(
        "-device",
        format!("virtio-blk-device,drive=limited,serial=disk,{}", bus(vm, vm.first_after_base())),
    );
    read_only(vm, args, "seed", vm.fds.seed, SEED_SET, vm.first_after_base() + 1);
}

/// A disk that nobody writes: without a lock, for many VMs may have it at once.
fn read_only(vm: &QemuArgs<'_>, args: &mut Args, name: &str, fd: i32, set: u32, nth: u32) {
    args.option("-add-fd", format!("fd={fd},set={set},opaque={name}"));
    args.option(
        "-blockdev",
        format!(
            "driver=raw,node-name={name},read-only=on,\
             file.driver=file,file.filename=/dev/fdset/{set},file.aio=threads,file.locking=off,file.read-only=on"
        ),
    );
    args.option("-device", format!("virtio-blk-device,drive={name},serial={name},{}", bus(vm, nth)));
}

/// The serial port's interrupt line. A microvm's buses have lines of the same numbers at a second interrupt controller, and with KVM
/// a device on the bus of this number takes interrupts from the serial port (seen with QEMU 7.2): whoever closes the console then waits
/// 30 s for output that went out long ago, so systemd does, several times a boot.
const SERIAL_LINE: u32 = 4;

/// The bus of the guest's `nth` device, counted from 0: the base, if there is one, is always its first disk, then come the
/// disk that it writes and the seed. By ACPI a guest finds a microvm's buses from the last to the first; by `virt`'s device tree from the first on.
fn bus(vm: &QemuArgs<'_>, nth: u32) -> String {
    let number = match vm.arch {
        Arch::X86_64 if 7 - nth > SERIAL_LINE => 7 - nth,
        Arch::X86_64 => 6 - nth,
        Arch::Aarch64 => nth,
    };
    format!("bus=virtio-mmio-bus.{number}")
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rendered(change: impl FnOnce(&mut QemuArgs<'_>)) -> String {
        let id: InstanceId = "my-bot_2".parse().unwrap();
        let mut vm = QemuArgs {
            id: &id,
            arch: Arch::X86_64,
            kvm: false,
            vcpu: 2,
            mem_mib: 2048,
            cmdline: "root=/dev/vda rw quiet",
            mac: MacAddr::for_ip(Ipv4Addr::new(172, 16, 0, 2)),
            tsc_khz: Some(2_600_000),
            rates: Rates::default(),
            fds: Fds { kernel: 3, initrd: Some(4), base: None, disk: 5, seed: 6, tap: 7, qmp: 8 },
        };
        change(&mut vm);
        // One option with its value a line.
        argv(&vm).join(" ").replace(" -", "\n-")
    }

    #[test]
    fn emulated() {
        insta::assert_snapshot!(rendered(|_| {}));
    }

    #[test]
    fn with_kvm() {
        insta::assert_snapshot!(rendered(|vm| vm.kvm = true));
    }

    #[test]
    fn with_rates() {
        let text = rendered(|vm| {
            vm.rates = Rates { net_mbit: Some(1), disk_iops: Some(500), disk_mbyte: Some(20) };
        });
        let wanted = r#"-object {"qom-type":"throttle-group","id":"disk-limits","limits":{"iops-total":500,"bps-total":20000000}}"#;
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn with_a_shared_base() {
        insta::assert_snapshot!(rendered(|vm| {
            vm.fds.base = Some(9);
            vm.cmdline = "root=/dev/vda ro fireclaw.state=/dev/vdb quiet";
        }));
    }

    #[test]
    fn no_device_is_on_the_line_of_the_serial_port_and_their_order_is_kept() {
        for base in [None, Some(9)] {
            let text = rendered(|vm| vm.fds.base = base);
            let buses: Vec<u32> = text
                .split("bus=virtio-mmio-bus.")
                .skip(1)
                .map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap())
                .collect();
            assert_eq!(buses, [7, 6, 5, 3, 2, 1][..buses.len()]);
        }
    }

    #[test]
    fn without_an_initrd() {
        let text = rendered(|vm| {
            vm.fds.initrd = None;
            vm.cmdline = "";
        });
        assert!(!text.contains("-initrd"), "{text}");
        assert!(text.contains("-append console=ttyS0 panic=1 tsc_early_khz="), "{text}");
    }

    #[test]
    fn on_aarch64() {
        insta::assert_snapshot!(rendered(|vm| vm.arch = Arch::Aarch64));
    }

    #[test]
    fn the_command_line_is_one_argument_whatever_it_holds() {
        let id: InstanceId = "a".parse().unwrap();
        let vm = QemuArgs {
            id: &id,
            arch: Arch::X86_64,
            kvm: false,
            vcpu: 1,
            mem_mib: 512,
            cmdline: "root=/dev/vda init=/x,y -kernel \"z\"",
            mac: MacAddr::for_ip(Ipv4Addr::LOCALHOST),
            tsc_khz: None,
            rates: Rates::default(),
            fds: Fds { kernel: 3, initrd: None, base: None, disk: 5, seed: 6, tap: 7, qmp: 8 },
        };
        let args = argv(&vm);
        let append = args.iter().position(|arg| arg == "-append").unwrap();
        assert_eq!(args[append + 1], "root=/dev/vda init=/x,y -kernel \"z\" console=ttyS0 panic=1");
        assert_eq!(args.iter().filter(|arg| *arg == "-kernel").count(), 1);
    }
}
