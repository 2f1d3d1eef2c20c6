//! Firecracker through its jailer: what the jail is while it runs, every way to end it, and that nothing stays.

use std::time::{Duration, Instant};

use fireclaw_core::error::{Error, Result};
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

/// An id with what Firecracker does not take.
const ID: &str = "my_bot-1";
/// Its jail: `_` and `-` escaped.
const JAIL: &str = "/srv/firecracker/vm-demo/my_bot-1/jail/firecracker/my-ubot--1";
/// Where the contract has the API.
const SOCKET: &str = "/srv/firecracker/vm-demo/my_bot-1/firecracker.socket";

/// One instance through its whole life.
pub fn jailer(lab: &mut Lab) -> Result<()> {
    let report = lab.setup_tiny(ID, &[])?;
    same("vmm", &report["vmm"], &Value::from("firecracker"))?;
    same("health", &report["health"], &Value::from("up"))?;
    confined(lab)?;
    graceful_stop(lab)?;
    lab.ok(&["start", ID])?;
    killed_and_back(lab)?;
    hung(lab)?;
    lab.ok(&["start", ID])?;
    by_its_button(lab)?;
    lab.ok(&["destroy", ID, "--force"])?;
    let left = lab.remote.must(&["ls", "-A", "/srv/firecracker/vm-demo", "/var/lib/fireclaw"])?;
    ensure(!left.contains(ID), || format!("something of it is left: {left}"))?;
    let mounts = lab.remote.must(&["cat", "/proc/mounts"])?;
    ensure(!mounts.contains(ID), || format!("a mount is left: {mounts}"))
}

fn pid(lab: &Lab) -> Result<String> {
    lab.vm_pid(ID)?
        .map(|pid| pid.to_string())
        .ok_or_else(|| Error::new("find", "Firecracker's process").because("there is none"))
}

/// The user, the root, the capabilities, the API.
fn confined(lab: &Lab) -> Result<()> {
    let pid = pid(lab)?;
    let status = lab.remote.must(&["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let uid = field("Uid");
    ensure(!uid.starts_with("0 "), || format!("its user is {uid}"))?;
    same("Gid", &field("Gid"), &uid)?;
    same("CapEff", &field("CapEff"), &"0000000000000000".to_owned())?;
    let root = lab.remote.must(&["readlink", &format!("/proc/{pid}/root")])?;
    ensure(root == "/" || root.ends_with("/root"), || format!("its root is {root}"))?;
    let seen = lab.remote.must(&["ls", &format!("/proc/{pid}/root/")])?;
    ensure(seen.contains("rootfs.ext4") && !seen.contains("etc"), || format!("it sees {seen}"))?;
    filtered(lab, &field("Seccomp"))?;
    let inside = field("NSpid");
    ensure(inside.split(' ').count() == 2, || format!("its PIDs are {inside}: no PID namespace of its own"))?;
    let described =
        lab.remote.must(&["curl", "-s", "--max-time", "5", "--unix-socket", SOCKET, "http://localhost/"])?;
    ensure(described.contains("\"my-ubot--1\"") && described.contains("Running"), || described.clone())?;
    lab.remote.must(&["test", "-e", &format!("{JAIL}/root/rootfs.ext4")]).map(drop)
}

/// A release filters its system calls by default; a build of one's own may bring no filter.
fn filtered(lab: &Lab, mode: &str) -> Result<()> {
    if lab.released {
        return same("Seccomp", &mode, &"2");
    }
    crate::say::detail(&format!("  a Firecracker of one's own build, seccomp mode {mode}"));
    Ok(())
}

/// The guest is asked and ends, long before anybody loses patience.
fn graceful_stop(lab: &Lab) -> Result<()> {
    let begun = Instant::now();
    lab.ok(&["stop", ID, "--timeout", "120"])?;
    let took = begun.elapsed();
    ensure(took < Duration::from_secs(70), || format!("a graceful stop took {} s", took.as_secs()))?;
    is_down(lab)
}

/// Without a login the guest hears Ctrl-Alt-Del, and ends as it does when it is asked.
fn by_its_button(lab: &Lab) -> Result<()> {
    // It ends the connection that it comes by, so its own end says nothing.
    lab.ask(&["shell", ID, "sudo", "systemctl", "mask", "--runtime", "--now", "ssh.service"])?;
    let inside = lab.ask(&["shell", ID, "true"])?;
    ensure(!inside.status.success(), || "the guest still takes logins".into())?;
    let begun = Instant::now();
    lab.ok(&["stop", ID, "--timeout", "150"])?;
    let took = begun.elapsed();
    crate::say::detail(&format!("  a stop by Ctrl-Alt-Del took {} s", took.as_secs()));
    ensure(took < Duration::from_secs(140), || format!("the guest did not hear it: {} s", took.as_secs()))?;
    is_down(lab)
}

/// Nobody asked for its end.
fn killed_and_back(lab: &Lab) -> Result<()> {
    let before = pid(lab)?;
    lab.remote.must(&["kill", "-KILL", &before])?;
    lab.until("the VM to come back", 60, || Ok(pid(lab)? != before))?;
    lab.until("the gateway to answer", 180, || Ok(lab.field(ID, "health")? == "up"))
}

/// Firecracker takes no more commands and the guest runs no more: a stop has to end it all the same.
fn hung(lab: &Lab) -> Result<()> {
    lab.remote.must(&["kill", "-STOP", &pid(lab)?])?;
    let begun = Instant::now();
    lab.ok(&["stop", ID, "--timeout", "10"])?;
    let took = begun.elapsed();
    ensure(took < Duration::from_mins(2), || format!("a hung VMM took {} s to stop", took.as_secs()))?;
    is_down(lab)
}

/// No process, no jail, no socket.
fn is_down(lab: &Lab) -> Result<()> {
    same("vm", &lab.field(ID, "vm")?, &Value::from("inactive"))?;
    ensure(lab.vm_pid(ID)?.is_none(), || "Firecracker runs still".into())?;
    for path in [JAIL, SOCKET] {
        ensure(!lab.remote.ask(&["test", "-e", path])?.status.success(), || format!("{path} is left"))?;
    }
    ensure(lab.remote.must(&["cat", "/proc/mounts"])?.lines().all(|line| !line.contains(JAIL)), || {
        "something is mounted in the jail".into()
    })
}
