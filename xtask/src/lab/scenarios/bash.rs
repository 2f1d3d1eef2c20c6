//! An instance of the Bash fireclaw that runs on this host: its record, its scripts, its units, its VM without a jail. Ours
//! lists, stops, starts and destroys it in place.

use fireclaw_core::error::Result;
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

const ID: &str = "old-bot";
const BEFORE: &str = "before";

/// From its running VM to nothing.
pub fn takes_over(lab: &mut Lab) -> Result<()> {
    // Each had a root disk of its own: the same image as it was before bases were shared.
    lab.remote.script(include_str!("../files/image-before.sh"), &[BEFORE])?;
    lab.setup_small(ID, BEFORE, &[])?;
    lab.ok(&["stop", ID, "--now"])?;
    lab.remote.script(include_str!("../files/bash-instance.sh"), &[ID])?;
    lab.until("the old instance to answer", 420, || Ok(lab.field(ID, "health")? == "up"))?;
    let list = lab.json(&["list", "--json"])?;
    for (field, value) in [("id", ID), ("vm", "active"), ("proxy", "active"), ("vmm", "firecracker")] {
        same(field, &list[0][field], &Value::from(value))?;
    }
    lab.ok(&["stop", ID])?;
    same("vm", &lab.field(ID, "vm")?, &Value::from("inactive"))?;
    let running = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!running.status.success(), || "its Firecracker runs still".into())?;
    lab.ok(&["start", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))?;
    // Not provisioned: such an instance has the Docker runtime, and the small image has no Docker.
    lab.ok(&["destroy", ID, "--force"])?;
    let units = lab.remote.must(&["ls", "/etc/systemd/system"])?;
    ensure(!units.contains(ID), || format!("a unit of it is left: {units}"))?;
    let running = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!running.status.success(), || "its Firecracker outlived it".into())
}
