//! `start-vm.sh` and `stop-vm.sh`: for people who look into an instance's folder. Touches nothing.

use crate::id::InstanceId;

/// Becomes the VM in the foreground, as the supervisor would.
pub fn start(id: &InstanceId) -> String {
    format!("#!/bin/sh\nexec fireclaw run {id}\n")
}

/// Asks the guest to shut down and waits.
pub fn stop(id: &InstanceId) -> String {
    format!("#!/bin/sh\nexec fireclaw halt {id}\n")
}
