//! The limits of a VM as control groups take them: files and what is written to them. Touches nothing.
//!
//! systemd does this from the properties of a unit. Here it is for hosts without it, whose kernel may have the controllers in
//! one hierarchy (version 2: Documentation/admin-guide/cgroup-v2.rst) or in one each (version 1:
//! Documentation/admin-guide/cgroup-v1/).

use std::fmt;

use crate::spec::{Limits, VmmKind};

/// Which of the kernel's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// What limits a kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and page cache.
    Memory,
    /// Time of processors.
    Cpu,
    /// Threads and processes.
    Pids,
    /// Disks.
    Io,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Pids, Self::Io];

    /// The kernel's name for it.
    pub const fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, _) => "memory",
            (Self::Cpu, _) => "cpu",
            (Self::Pids, _) => "pids",
            (Self::Io, Version::One) => "blkio",
            (Self::Io, Version::Two) => "io",
        }
    }
}

/// A disk by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Of its driver.
    pub major: u64,
    /// Among those of the driver.
    pub minor: u64,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a VM's limits follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory of the VM in MiB.
    pub mem_mib: u32,
    /// The VMM.
    pub vmm: VmmKind,
}

/// A file of a group, and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose file.
    pub controller: Controller,
    /// Its name in the group's folder.
    pub file: &'static str,
    /// A line without its end.
    pub value: String,
}

/// The length of a turn in which a share of a processor is measured, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The entries of a VM, in the order in which they are written. Without `disk` there are none for disks.
pub fn entries(version: Version, limits: &Limits, size: Size, disk: Option<Disk>) -> Vec<Entry> {
    let two = version == Version::Two;
    let mut all = Vec::new();
    let mut add = |controller, file, value: String| all.push(Entry { controller, file, value });
    if let Some(bytes) = limits.memory_bytes(size.mem_mib, Some(size.vmm)) {
        add(Controller::Memory, if two { "memory.max" } else { "memory.limit_in_bytes" }, bytes.to_string());
    }
    if let Some(percent) = limits.cpu_percent(size.vcpu) {
        let quota = percent * PERIOD / 100;
        if two {
            add(Controller::Cpu, "cpu.max", format!("{quota} {PERIOD}"));
        } else {
            add(Controller::Cpu, "cpu.cfs_period_us", PERIOD.to_string());
            add(Controller::Cpu, "cpu.cfs_quota_us", quota.to_string());
        }
    }
    if let Some(tasks) = limits.tasks_max() {
        add(Controller::Pids, "pids.max", tasks.to_string());
    }
    if let (Some(weight), true) = (limits.io_weight, two) {
        add(Controller::Io, "io.weight", format!("default {weight}"));
    }
    let rates = [
        (limits.io_read, "rbps", "blkio.throttle.read_bps_device"),
        (limits.io_write, "wbps", "blkio.throttle.write_bps_device"),
    ];
    for (rate, word, file) in rates {
        let (Some(rate), Some(disk)) = (rate, disk) else { continue };
        if two {
            add(Controller::Io, "io.max", format!("{disk} {word}={rate}"));
        } else {
            add(Controller::Io, file, format!("{disk} {rate}"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Bound;

    fn rendered(version: Version, limits: &Limits) -> String {
        let size = Size { vcpu: 2, mem_mib: 2048, vmm: VmmKind::Firecracker };
        let entries = entries(version, limits, size, Some(Disk { major: 254, minor: 0 }));
        entries
            .iter()
            .map(|it| format!("{} {} = {}\n", it.controller.name(version), it.file, it.value))
            .collect()
    }

    #[test]
    fn everything_that_can_be_limited() {
        let limits = Limits {
            memory: Bound::Auto,
            cpu: Bound::Auto,
            tasks: Bound::At(100),
            io_weight: Some(50),
            io_read: Some(1 << 20),
            io_write: Some(2 << 20),
        };
        insta::assert_snapshot!("version_1", rendered(Version::One, &limits));
        insta::assert_snapshot!("version_2", rendered(Version::Two, &limits));
    }

    #[test]
    fn what_is_off_is_not_written() {
        let limits = Limits { memory: Bound::Off, tasks: Bound::Off, ..Limits::default() };
        assert_eq!(rendered(Version::Two, &limits), "");
    }
}
