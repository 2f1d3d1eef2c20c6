//! What the host grants the processes of one VM: values of the configuration file that become properties of its unit.
//! Touches nothing.

use super::{DiskSize, VmmKind};
use crate::error::{Error, Result};

/// A bound that is chosen by itself, switched off, or said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bound {
    /// Follows from the VM's size.
    #[default]
    Auto,
    /// None.
    Off,
    /// This much, in the unit of its setting.
    At(u64),
}

impl Bound {
    /// The bound, with what follows from the VM's size.
    fn or_else(self, auto: impl FnOnce() -> u64) -> Option<u64> {
        match self {
            Self::Auto => Some(auto()),
            Self::Off => None,
            Self::At(value) => Some(value),
        }
    }
}

/// The limits of one VM, its VMM and its helpers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `memory_max`, bytes. `auto` is the VM's memory and what its VMM needs beside it.
    pub memory: Bound,
    /// `cpu_quota`, percent of one CPU. `auto` is the VM's CPUs and half a CPU for the VMM.
    pub cpu: Bound,
    /// `tasks_max`, threads and processes. `auto` is 512.
    pub tasks: Bound,
    /// `io_weight`, 1 to 10000 where 100 is what others have.
    pub io_weight: Option<u64>,
    /// `io_read_max`, bytes a second on the disk that `FC_ROOT` lies on.
    pub io_read: Option<u64>,
    /// `io_write_max`, likewise.
    pub io_write: Option<u64>,
}

impl Default for Limits {
    /// Memory and tasks follow the VM's size; CPU and disks are shared as the kernel does it.
    fn default() -> Self {
        Self {
            memory: Bound::Auto,
            cpu: Bound::Off,
            tasks: Bound::Auto,
            io_weight: None,
            io_read: None,
            io_write: None,
        }
    }
}

/// What a VMM needs beside the guest's memory, in MiB: page tables, buffers, pages of its disk on their way, and where the
/// CPU is emulated a cache of translated code of up to a gibibyte. Firecracker, then whatever may be QEMU.
const BESIDE: (u64, u64) = (512, 1536);

impl Limits {
    /// The most memory of a VM of this size with its VMM, in bytes; `None`: no bound.
    pub fn memory_bytes(&self, mem_mib: u32, vmm: Option<VmmKind>) -> Option<u64> {
        let beside = if vmm == Some(VmmKind::Firecracker) { BESIDE.0 } else { BESIDE.1 };
        self.memory.or_else(|| (u64::from(mem_mib) + beside) << 20)
    }

    /// Percent of one CPU; `None`: no bound.
    pub fn cpu_percent(&self, vcpu: u32) -> Option<u64> {
        self.cpu.or_else(|| u64::from(vcpu) * 100 + 50)
    }

    /// Threads and processes; `None`: no bound.
    pub fn tasks_max(&self) -> Option<u64> {
        self.tasks.or_else(|| 512)
    }

    /// The keys of the configuration file with their defaults.
    pub const KEYS: [(&str, &str); 6] = [
        ("memory_max", "auto"),
        ("cpu_quota", "none"),
        ("tasks_max", "auto"),
        ("io_weight", ""),
        ("io_read_max", ""),
        ("io_write_max", ""),
    ];

    /// Reads them. `get` gives the text of a key.
    pub fn parse<'a>(get: impl Fn(&str) -> &'a str) -> Result<Self> {
        let size = |key: &str, text: &str| {
            text.parse::<DiskSize>().map(|size| size.bytes()).map_err(|_| {
                Error::refused(key, text.escape_debug(), "is not a size of 64M or more")
                    .hint("sizes look like 8G or 512M")
            })
        };
        let rate = |key: &str| match get(key) {
            "" | "none" => Ok(None),
            text => bytes(text)
                .ok_or_else(|| Error::refused(key, text.escape_debug(), "is not bytes a second").hint("100M"))
                .map(Some),
        };
        Ok(Self {
            memory: bound(get("memory_max"), |text| size("memory_max", text))?,
            cpu: bound(get("cpu_quota"), |text| {
                number("cpu_quota", text.strip_suffix('%').unwrap_or(text), 1, 1_000_000)
            })?,
            tasks: bound(get("tasks_max"), |text| number("tasks_max", text, 64, 1_000_000))?,
            io_weight: match get("io_weight") {
                "" | "none" => None,
                text => Some(number("io_weight", text, 1, 10_000)?),
            },
            io_read: rate("io_read_max")?,
            io_write: rate("io_write_max")?,
        })
    }
}

fn bound(text: &str, parse: impl Fn(&str) -> Result<u64>) -> Result<Bound> {
    match text {
        "auto" => Ok(Bound::Auto),
        "none" => Ok(Bound::Off),
        text => parse(text).map(Bound::At),
    }
}

fn number(key: &str, text: &str, least: u64, most: u64) -> Result<u64> {
    text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        Error::refused(key, text.escape_debug(), format!("is not a number from {least} to {most}"))
    })
}

/// `100M`: powers of 1024, at least 1K.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes >= 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Limits> {
        Limits::parse(|key| {
            let default = Limits::KEYS.iter().find(|(name, _)| *name == key).map_or("", |(_, text)| text);
            pairs.iter().find(|(name, _)| *name == key).map_or(default, |(_, text)| text)
        })
    }

    #[test]
    fn the_defaults_are_those_of_the_type() {
        assert_eq!(parse(&[]).unwrap(), Limits::default());
    }

    #[test]
    fn values_are_read_with_their_units() {
        let limits = parse(&[
            ("memory_max", "3G"),
            ("cpu_quota", "150%"),
            ("tasks_max", "none"),
            ("io_weight", "50"),
            ("io_read_max", "100M"),
            ("io_write_max", "2048"),
        ])
        .unwrap();
        assert_eq!(
            (limits.memory, limits.cpu, limits.tasks),
            (Bound::At(3 << 30), Bound::At(150), Bound::Off)
        );
        assert_eq!(
            (limits.io_weight, limits.io_read, limits.io_write),
            (Some(50), Some(100 << 20), Some(2048))
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (key, text) in [
            ("memory_max", "1M"),
            ("memory_max", "much"),
            ("cpu_quota", "0"),
            ("tasks_max", "3"),
            ("io_weight", "0"),
            ("io_read_max", "fast"),
            ("io_write_max", "1"),
        ] {
            let error = parse(&[(key, text)]).unwrap_err();
            assert!(error.to_string().contains(key), "{key}: {error}");
        }
    }
}
