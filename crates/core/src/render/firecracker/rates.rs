//! Firecracker's rate limiters: as a machine is configured with them, and as they are changed while it runs. Touches nothing.

use serde::Serialize;

use crate::spec::Rates;

/// Buckets of bytes and of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<Bucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<Bucket>,
}

/// `size` tokens that come back within `refill_time` milliseconds. A size of 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Bucket {
    size: u64,
    refill_time: u64,
}

/// A second: a larger packet or request than the bucket holds makes Firecracker complain in its log, each time.
const REFILL: u64 = 1000;

impl Bucket {
    const fn of(size: u64) -> Self {
        Self { size, refill_time: if size == 0 { 0 } else { REFILL } }
    }
}

impl Limiter {
    /// As the machine is configured with: what has no limit has no bucket.
    pub(super) fn at_start(bytes: Option<u64>, ops: Option<u64>) -> Option<Self> {
        let limiter = Self { bandwidth: bytes.map(Bucket::of), ops: ops.map(Bucket::of) };
        (bytes.is_some() || ops.is_some()).then_some(limiter)
    }

    /// As a running machine is told: a bucket that is left out stays as it is, so what has no limit is said.
    fn live(bytes: Option<u64>, ops: Option<u64>) -> Self {
        let bucket = |size: Option<u64>| Some(Bucket::of(size.unwrap_or(0)));
        Self { bandwidth: bucket(bytes), ops: bucket(ops) }
    }
}

/// The id of the root disk.
pub(super) const DISK: &str = "disk";
/// The id of the card.
pub(super) const CARD: &str = "eth0";

/// What a running machine is sent by `PATCH` to change its rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RateChange {
    /// The root disk's.
    Drive {
        /// Which.
        drive_id: &'static str,
        /// Its buckets.
        rate_limiter: Limiter,
    },
    /// The card's.
    Card {
        /// Which.
        iface_id: &'static str,
        /// What comes to the guest.
        rx_rate_limiter: Limiter,
        /// What it sends.
        tx_rate_limiter: Limiter,
    },
}

impl RateChange {
    /// All that a VM's rates ask for.
    pub fn all(rates: &Rates) -> [Self; 2] {
        let disk = Limiter::live(rates.disk_bytes(), rates.disk_iops.map(u64::from));
        let card = Limiter::live(rates.net_bytes(), None);
        [
            Self::Drive { drive_id: DISK, rate_limiter: disk },
            Self::Card { iface_id: CARD, rx_rate_limiter: card, tx_rate_limiter: card },
        ]
    }

    /// Where it is sent.
    pub fn path(&self) -> String {
        match self {
            Self::Drive { drive_id, .. } => format!("/drives/{drive_id}"),
            Self::Card { iface_id, .. } => format!("/network-interfaces/{iface_id}"),
        }
    }
}
