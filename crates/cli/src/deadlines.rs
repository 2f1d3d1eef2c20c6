//! How long things may take, each with its measure. A guest that is emulated takes ten to twenty times as long as one on
//! KVM, so the longer figure is the deadline: a deadline only ends what hangs. Touches nothing.

use std::time::Duration;

/// From the VM's start to an SSH login: under 60 s emulated on two slow cores, 3 s on KVM.
pub const fn boot() -> Duration {
    Duration::from_mins(6)
}

/// The guest's provisioning: seconds with everything in the image; with packages and a container image to fetch over a
/// slow line, long.
pub const fn provision() -> Duration {
    Duration::from_hours(1)
}

/// From the gateway's start to its start gate: 140 s emulated, 7 s on KVM.
pub const fn gateway() -> Duration {
    Duration::from_mins(15)
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
