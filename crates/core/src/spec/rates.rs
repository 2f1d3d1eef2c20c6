//! How fast one VM may use the host's network and disk: what its flags say, what its record holds. Touches nothing.
//!
//! Each holds for the VM as a whole and can be changed while it runs. They are kept by the VMM itself, but for the network under
//! QEMU, which is kept by the VM's tap and the firewall.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    state::Lines,
};

/// The rates of one VM; `None` is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Rates {
    /// `NET_MBIT`: millions of bits a second, each way.
    pub net_mbit: Option<u32>,
    /// `DISK_IOPS`: reads and writes of the root disk a second, together.
    pub disk_iops: Option<u32>,
    /// `DISK_MBYTE`: millions of bytes a second that are read and written, together.
    pub disk_mbyte: Option<u32>,
}

/// A flag and the least and the most that it takes. Below the least a guest does not come up in any time that one waits for.
#[derive(Debug, Clone, Copy)]
pub struct RateFlag {
    name: &'static str,
    least: u32,
    most: u32,
}

/// `--net-mbit`
pub const NET_MBIT: RateFlag = RateFlag { name: "--net-mbit", least: 1, most: 100_000 };
/// `--disk-iops`
pub const DISK_IOPS: RateFlag = RateFlag { name: "--disk-iops", least: 20, most: 10_000_000 };
/// `--disk-mbyte`
pub const DISK_MBYTE: RateFlag = RateFlag { name: "--disk-mbyte", least: 1, most: 100_000 };

impl RateFlag {
    /// What was said: a number, or `none` or 0 for no limit.
    pub fn parse(self, text: &str) -> Result<Option<u32>> {
        let Self { name, least, most } = self;
        match text.parse() {
            Ok(0) => Ok(None),
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Err(_) if text == "none" => Ok(None),
            _ => Err(Error::refused(
                name,
                text.escape_debug(),
                format!("is neither a number from {least} to {most} nor `none`"),
            )
            .hint("0 and `none` lift the limit")),
        }
    }
}

impl Rates {
    /// Bytes a second on the network, each way.
    pub fn net_bytes(&self) -> Option<u64> {
        self.net_mbit.map(|mbit| u64::from(mbit) * 125_000)
    }

    /// Bytes a second on the disk.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.disk_mbyte.map(|mbyte| u64::from(mbyte) * 1_000_000)
    }

    /// Takes its lines out of a record.
    pub(crate) fn take(lines: &mut Lines) -> Result<Self> {
        let mut rate = |key, flag: RateFlag| match lines.take(key) {
            Some(text) if !text.is_empty() => flag.parse(&text),
            _ => Ok(None),
        };
        Ok(Self {
            net_mbit: rate("NET_MBIT", NET_MBIT)?,
            disk_iops: rate("DISK_IOPS", DISK_IOPS)?,
            disk_mbyte: rate("DISK_MBYTE", DISK_MBYTE)?,
        })
    }

    /// Adds its lines; none for what has no limit.
    pub(crate) fn push(&self, lines: &mut Lines) {
        let rates =
            [("NET_MBIT", self.net_mbit), ("DISK_IOPS", self.disk_iops), ("DISK_MBYTE", self.disk_mbyte)];
        for (key, rate) in rates {
            if let Some(rate) = rate {
                lines.push(key, rate.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_none_lifts() {
        assert_eq!(NET_MBIT.parse("50").unwrap(), Some(50));
        assert_eq!((NET_MBIT.parse("0").unwrap(), DISK_IOPS.parse("none").unwrap()), (None, None));
        for (flag, text) in [
            (NET_MBIT, "-1"),
            (NET_MBIT, "1.5"),
            (NET_MBIT, "100001"),
            (NET_MBIT, ""),
            (DISK_IOPS, "19"),
            (DISK_IOPS, "off"),
            (DISK_MBYTE, "10M"),
            (DISK_MBYTE, "99999999999"),
        ] {
            let error = flag.parse(text).unwrap_err();
            assert!(error.to_string().contains(flag.name), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_written_for_nothing() {
        let rates = Rates { net_mbit: Some(100), disk_iops: None, disk_mbyte: Some(20) };
        let mut lines = Lines::default();
        rates.push(&mut lines);
        let mut again = Lines::parse("x", &lines.render().unwrap()).unwrap();
        assert_eq!(Rates::take(&mut again).unwrap(), rates);
        assert!(again.rest().is_empty());
        let mut none = Lines::default();
        Rates::default().push(&mut none);
        assert_eq!(none, Lines::default());
        assert_eq!((rates.net_bytes(), rates.disk_bytes()), (Some(12_500_000), Some(20_000_000)));
    }
}
