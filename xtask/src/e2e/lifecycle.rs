//! Start, stop, logs, destroy.

use std::{path::Path, time::Duration};

use fireclaw_core::error::Result;
use fireclaw_host::{
    cgroup::Controllers,
    exec::{Exec, SystemExec},
};
use serde_json::Value;

use super::world::{ID, World, ensure, has_started, names, same};
use crate::shell;

/// Both logs, printed and followed.
pub fn logs(world: &mut World) -> Result<()> {
    let guest = world.ok(&["logs", ID, "--no-follow", "--lines", "50"])?.text();
    ensure(guest.lines().count() > 3 && guest.contains("openclaw"), || {
        format!("the gateway's log is odd: {guest}")
    })?;
    let host = world.ok(&["logs", ID, "host", "--no-follow", "--lines", "20"])?.text();
    ensure(host.contains("console"), || format!("the host's log is odd: {host}"))?;
    // Following ends with Ctrl-C, and that is no failure.
    let cmd = fireclaw_host::exec::Cmd::new("timeout")
        .args(["--signal=INT", "3"])
        .arg(&world.program)
        .args(["logs", ID, "host", "--lines", "1"]);
    let cmd = world.environment().into_iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value));
    let output = SystemExec::default().run(cmd.deadline(Duration::from_secs(30)))?;
    // 124 is timeout's own code for "I sent the signal".
    ensure(matches!(output.code(), 0 | 124), || format!("following ended with {}", output.code()))
}

/// Starts what is stopped; a second start is fine.
pub fn start(world: &mut World) -> Result<()> {
    let report = world.json(&["start", ID, "--json"])?;
    ensure(has_started(&report), || report.to_string())?;
    let again = world.json(&["start", ID, "--json", "--quiet"])?;
    same("uptime goes on", &again["vm"], &Value::from("active"))
}

/// Graceful, and a second time nothing to do.
pub fn stop(world: &mut World) -> Result<()> {
    world.ok(&["stop", ID])?;
    is_stopped(world, ID)?;
    world.ok(&["stop", ID])?;
    world.refused(1, &["shell", ID, "true"], "log in")
}

/// With no SSH the gateway cannot be asked, and the power button is pressed.
pub fn stop_without_ssh(world: &mut World) -> Result<()> {
    let output = world.ok(&["stop", ID])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(said.contains("no SSH login"), || format!("nothing was said of SSH: {said}"))?;
    // Its power button was heard: it went down by itself, and was not cut off.
    let logs = world.ok(&["logs", ID, "host", "--no-follow", "--lines", "200"])?.text();
    ensure(logs.contains("reboot: Power down"), || format!("the guest did not switch itself off: {logs}"))?;
    is_stopped(world, ID)
}

/// Nothing of the instance runs, and its disk is there.
pub fn is_stopped(world: &World, id: &str) -> Result<()> {
    let status = world.status(id)?;
    for (field, value) in [("vm", "inactive"), ("proxy", "inactive"), ("health", "down")] {
        same(field, &status[field], &Value::from(value))?;
    }
    ensure(world.vm_pid(id).is_err(), || "the VMM runs still".into())?;
    let grouped = Controllers::find()?.is_some_and(|it| id.parse().is_ok_and(|id| it.has(&id)));
    ensure(!grouped, || "its control group is left".into())?;
    let disk = status["paths"]["disk"].as_str().unwrap_or("?");
    ensure(Path::new(disk).exists(), || "the disk is gone".into())?;
    let links = shell::must("ip", &["-o", "link"])?;
    let tap = status["allocation"]["vm_tap"].as_str().unwrap_or("?").to_owned();
    ensure(!links.contains(&tap), || format!("the tap {tap} is there still"))
}

/// Asks without a terminal, refuses, and with `--force` removes all.
pub fn destroy_all(world: &mut World) -> Result<()> {
    world.refused(2, &["destroy", ID], "no terminal")?;
    ensure(world.fc(ID, "images/state.ext4").exists(), || "a refused destroy removed the disk".into())?;
    let plan = world.ok(&["destroy", ID, "--dry-run"])?.text();
    ensure(plan.contains("remove record"), || plan.clone())?;
    world.ok(&["destroy", ID, "--force"])?;
    world.refused(3, &["destroy", ID, "--force"], "no such instance")?;
    for id in names(&world.root.join("fc")) {
        world.ok(&["destroy", &id, "--force"])?;
    }
    same("list", &world.json(&["list", "--json"])?, &Value::Array(Vec::new()))?;
    ensure(world.ok(&["list"])?.text().contains("no instances"), || "the empty table is odd".into())?;
    let links = shell::must("ip", &["-o", "link"])?;
    ensure(!links.contains("fc-e2e0"), || "the bridge outlived the last instance".into())?;
    let tables = shell::must("nft", &["list", "tables"])?;
    ensure(!tables.contains("fireclaw"), || format!("rules outlived the last instance: {tables}"))
}
