//! The host itself: what it must have before anything is proved on it.

use fireclaw_core::error::Result;
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

/// Kernel modules that instances and their neighbours need.
const MODULES: [&str; 7] =
    ["kvm_amd", "tun", "bridge", "nf_tables", "br_netfilter", "vhost_vsock", "overlay"];

/// systemd is well, KVM is usable, and doctor has nothing to say.
pub fn boot(lab: &mut Lab) -> Result<()> {
    let remote = &lab.remote;
    same("the first process", &remote.must(&["cat", "/proc/1/comm"])?, &"systemd".to_owned())?;
    let state = remote.ask(&["systemctl", "is-system-running", "--wait"])?.text();
    if state != "running" {
        let failed = remote.ask(&["systemctl", "--failed", "--no-legend", "--plain"])?.text();
        ensure(false, || format!("the host is {state}: {failed}"))?;
    }
    for module in MODULES {
        remote.must(&["modprobe", "--dry-run", module])?;
    }
    ensure(remote.must(&["lsmod"])?.contains("kvm_amd"), || "kvm_amd is not loaded".into())?;
    ensure(remote.must(&["cat", "/proc/cpuinfo"])?.contains(" svm "), || {
        "the processor shows no svm".into()
    })?;
    let doctor = lab.json(&["doctor", "--json"])?;
    for check in doctor["checks"].as_array().into_iter().flatten() {
        let name = check["name"].as_str().unwrap_or("?");
        // A host with KVM should have a Firecracker, and one with instances an image; whether this one does is the run's choice.
        let wanted = match name {
            "firecracker" => lab.vmm == "firecracker",
            "image" => lab.large,
            _ => true,
        };
        same(name, &check["ok"], &Value::from(wanted))?;
    }
    Ok(())
}
