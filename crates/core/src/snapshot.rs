//! What is known of the memory of a hibernated VM: the manifest beside it, and whether it still fits this host. Touches nothing.
//!
//! A snapshot is trusted input, and good for one resume of the very VM that was paused: the same VMM, processor and host kernel,
//! the same files, and disks that nobody has written since. What does not fit is dropped in favour of a cold boot.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Error, Result},
    id::{MacAddr, TapName},
};

/// The format of the manifest; one with another number is not read.
const FORMAT: u32 = 2;

/// A file as it was: who writes to it or replaces it changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its number on its filesystem.
    pub inode: u64,
}

/// What the VM is, besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// The card's address.
    pub mac: MacAddr,
    /// The guest's address.
    pub ip: Ipv4Addr,
    /// The tap.
    pub tap: TapName,
    /// The user that the VMM runs as.
    pub uid: u32,
}

/// What a snapshot is tied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ties {
    /// `1.16.1`
    pub vmm_version: String,
    /// A digest of the processor's model and flags.
    pub cpu: String,
    /// The host's kernel: `6.12.48+deb13-amd64`.
    pub host_kernel: String,
    /// Kernel, initrd, base, disk and seed, by these names.
    pub files: BTreeMap<String, FileMark>,
    /// The VM.
    pub machine: Machine,
}

/// A file of the snapshot, and how to tell that it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Bytes.
    pub size: u64,
    /// XXH64 over the blocks that are not zero and their places.
    pub xxh64: u64,
}

/// `manifest.json`. A snapshot without one is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// What it is tied to.
    pub ties: Ties,
    /// Devices and registers.
    pub state: Sum,
    /// The guest's memory.
    pub memory: Sum,
}

/// Why a snapshot is of no use any more, in words that follow "the memory is dropped: ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub String);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Manifest {
    /// Of a snapshot that was just taken.
    pub const fn new(created_at: String, ties: Ties, state: Sum, memory: Sum) -> Self {
        Self { format: FORMAT, created_at, ties, state, memory }
    }

    /// The file's text.
    pub fn render(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).context("render", "a snapshot's manifest")?;
        text.push('\n');
        Ok(text)
    }

    /// Reads the file's text. One of another format is of no use.
    pub fn parse(what: &str, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Head { format } = serde_json::from_str(text).context("read", what)?;
        if format != FORMAT {
            return Err(Error::new("read", what).because(format!("its format is {format}, not {FORMAT}")));
        }
        serde_json::from_str(text).context("read", what)
    }
}

impl Ties {
    /// Whether a snapshot with these ties can be resumed where `now` holds.
    ///
    /// # Errors
    /// The first thing that is not as it was.
    pub fn hold(&self, now: &Self) -> Result<(), Misfit> {
        let differs = |what: &str, then: &dyn fmt::Display, now: &dyn fmt::Display| {
            Err(Misfit(format!("{what} was {then} and is {now}")))
        };
        if self.vmm_version != now.vmm_version {
            return differs("Firecracker", &self.vmm_version, &now.vmm_version);
        }
        if self.cpu != now.cpu {
            return Err(Misfit("this processor is another, or offers other features".to_owned()));
        }
        if self.host_kernel != now.host_kernel {
            return differs("the host's kernel", &self.host_kernel, &now.host_kernel);
        }
        if self.machine != now.machine {
            return Err(Misfit("the VM's size, addresses or user have changed".to_owned()));
        }
        for name in self.files.keys().chain(now.files.keys()) {
            match (self.files.get(name), now.files.get(name)) {
                (Some(then), Some(now)) if then == now => {}
                (Some(_), Some(_)) => {
                    return Err(Misfit(format!("the {name} was written or replaced meanwhile")));
                }
                _ => return Err(Misfit(format!("the {name} is there now and was not, or was and is not"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ties() -> Ties {
        let ip = Ipv4Addr::new(172, 16, 0, 2);
        let mark = FileMark { size: 1, modified_ns: 2, inode: 3 };
        Ties {
            vmm_version: "1.16.1".into(),
            cpu: "abc".into(),
            host_kernel: "6.12".into(),
            files: [("kernel".to_owned(), mark), ("disk".to_owned(), mark)].into(),
            machine: Machine {
                vcpu: 1,
                mem_mib: 512,
                mac: MacAddr::for_ip(ip),
                ip,
                tap: "tmybot2".parse().unwrap(),
                uid: 64_000,
            },
        }
    }

    #[test]
    fn ties_hold_when_nothing_changed_and_each_is_missed() {
        type Change = fn(&mut Ties);
        let then = ties();
        then.hold(&then.clone()).unwrap();
        let changes: [(Change, &str); 8] = [
            (|ties| ties.vmm_version = "1.17.0".into(), "Firecracker was 1.16.1 and is 1.17.0"),
            (|ties| ties.cpu = "x".into(), "processor"),
            (|ties| ties.host_kernel = "6.13".into(), "the host's kernel was 6.12"),
            (|ties| ties.machine.mem_mib = 1024, "size"),
            (|ties| ties.files.get_mut("disk").unwrap().modified_ns += 1, "the disk was written"),
            (|ties| ties.files.get_mut("kernel").unwrap().inode += 1, "the kernel was written"),
            (
                |ties| {
                    ties.files.remove("disk");
                },
                "the disk is there now and was not",
            ),
            (
                |ties| {
                    let mark = ties.files["disk"];
                    ties.files.insert("base".into(), mark);
                },
                "the base is there now",
            ),
        ];
        for (change, said) in changes {
            let mut now = ties();
            change(&mut now);
            let misfit = then.hold(&now).unwrap_err();
            assert!(misfit.0.contains(said), "{misfit}");
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_one_of_another_format_is_not() {
        let sum = Sum { size: 1, xxh64: u64::MAX };
        let manifest = Manifest::new("2026-11-22T00:00:00Z".into(), ties(), sum, sum);
        let text = manifest.render().unwrap();
        assert_eq!(Manifest::parse("x", &text).unwrap(), manifest);
        let older = text.replace("\"format\": 2", "\"format\": 1").replace("xxh64", "crc32");
        assert!(Manifest::parse("x", &older).unwrap_err().one_line().contains("its format is 1"));
        for cut in 0..text.len() - 2 {
            assert!(Manifest::parse("x", &text[..cut]).is_err(), "{cut}");
        }
    }
}
