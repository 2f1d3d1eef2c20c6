//! How long things may take, each with its measure. A guest that is emulated takes ten to twenty times as long as one on
//! KVM, so the longer figure is the deadline: a deadline only ends what hangs. Touches nothing.

use std::time::Duration;

/// VMs that share a processor take turns, and sixteen that start at once on two of them take as long as one would eight times.
fn in_turns(alone: Duration, longest: Duration, vms: usize, processors: usize) -> Duration {
    let turns = vms.div_ceil(processors.max(1)).max(1);
    u32::try_from(turns).map_or(longest, |turns| alone.saturating_mul(turns).min(longest))
}

/// From the VM's start to an SSH login: under 60 s emulated on two slow cores, 3 s on KVM.
pub fn boot(vms: usize, processors: usize) -> Duration {
    in_turns(Duration::from_mins(6), Duration::from_mins(24), vms, processors)
}

/// The guest's provisioning: seconds with everything in the image; with packages and a container image to fetch over a
/// slow line, long.
pub const fn provision() -> Duration {
    Duration::from_hours(1)
}

/// From the gateway's start to its start gate: 140 s emulated, 7 s on KVM.
pub fn gateway(vms: usize, processors: usize) -> Duration {
    in_turns(Duration::from_mins(15), Duration::from_hours(1), vms, processors)
}

/// How long a report on one instance waits for its gateway's answer. A gateway that has just started on an emulated
/// machine takes seconds for it.
pub const fn look() -> Duration {
    Duration::from_secs(10)
}

/// How long `list` waits for a gateway's answer.
pub const fn glance() -> Duration {
    Duration::from_millis(1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_that_share_a_processor_get_more_time() {
        let minutes = |vms, processors| boot(vms, processors).as_secs() / 60;
        assert_eq!([(0, 2), (1, 2), (2, 2), (1, 0)].map(|(v, p)| minutes(v, p)), [6; 4]);
        assert_eq!((minutes(3, 2), minutes(16, 8), minutes(16, 2), minutes(usize::MAX, 1)), (12, 12, 24, 24));
        let minutes = |vms, processors| gateway(vms, processors).as_secs() / 60;
        assert_eq!((minutes(1, 2), minutes(3, 2), minutes(16, 2)), (15, 30, 60));
    }
}
