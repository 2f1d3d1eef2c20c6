//! What comes back after a host or a guest went down, and with what on its disk.

use fireclaw_core::error::Result;
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

/// Runs all the while.
const UP: &str = "up-1";
/// Was stopped before.
const DOWN: &str = "down_1";
/// How long a guest takes from its VM's start to a gateway that answers, on a busy machine.
const GUEST: u64 = 420;

/// The host is restarted by its administrator; then it loses its power in the middle of the guest's writes.
pub fn host(lab: &mut Lab) -> Result<()> {
    pair(lab)?;
    let before = lab.rows(UP)?;
    lab.reboot()?;
    came_back(lab, before)?;
    let before = lab.rows(UP)?;
    lab.power_cut()?;
    came_back(lab, before)?;
    lab.ok(&["start", DOWN])?;
    same("health", &lab.field(DOWN, "health")?, &Value::from("up"))
}

/// The guest is restarted from inside: it is up again, the same VM with the same disk.
pub fn guest(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(UP, &[])?;
    let boot = |lab: &Lab| lab.ok(&["shell", UP, "cat", "/proc/sys/kernel/random/boot_id"]);
    let (first, rows) = (boot(lab)?, lab.rows(UP)?);
    // The connection may end before the answer.
    let _ = lab.ask(&["shell", UP, "sudo", "systemctl", "reboot"])?;
    lab.until("the guest to be up again", GUEST, || Ok(boot(lab)? != first && is_up(lab)?))?;
    whole(lab, rows)
}

/// The guest is switched off from inside: it stays off, and starts when somebody says so.
pub fn guest_off(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(UP, &[])?;
    let rows = lab.rows(UP)?;
    let _ = lab.ask(&["shell", UP, "sudo", "systemctl", "poweroff"])?;
    lab.until("the VM to be off", 90, || Ok(lab.field(UP, "vm")? == "inactive"))?;
    ensure(lab.vm_pid(UP)?.is_none(), || "a VMM is left".into())?;
    // Long enough for whoever would start it again.
    let looked = lab.until("somebody to start it again", 20, || Ok(lab.vm_pid(UP)?.is_some()));
    ensure(looked.is_err(), || "it was started again".into())?;
    lab.ok(&["start", UP])?;
    whole(lab, rows)
}

/// One that runs and one that is stopped.
fn pair(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(DOWN, &[])?;
    lab.ok(&["stop", DOWN, "--now"])?;
    lab.setup_tiny(UP, &[]).map(drop)
}

fn came_back(lab: &mut Lab, before: u64) -> Result<()> {
    lab.until("the instance that ran to be up", GUEST, || is_up(lab))?;
    for (field, value) in [("vm", "inactive"), ("proxy", "inactive")] {
        same(&format!("{field} of {DOWN}"), &lab.field(DOWN, field)?, &Value::from(value))?;
    }
    ensure(lab.vm_pid(DOWN)?.is_none(), || format!("{DOWN} was started"))?;
    // Nothing that belongs to nobody: one bridge, one tap.
    let links = lab.remote.must(&["ip", "-br", "link"])?;
    let taps = links.lines().filter(|line| line.starts_with('t')).count();
    same("taps", &taps, &1)?;
    whole(lab, before)
}

fn is_up(lab: &Lab) -> Result<bool> {
    let status = lab.json(&["status", UP, "--json"])?;
    Ok(status["vm"] == "active" && status["proxy"] == "active" && status["health"] == "up")
}

/// The file is sound and holds at least what was on the disk before.
fn whole(lab: &Lab, before: u64) -> Result<()> {
    let now = lab.rows(UP)?;
    ensure(now >= before, || format!("{before} rows were on the disk, and {now} are"))
}
