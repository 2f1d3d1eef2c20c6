//! Things that go wrong on the host and in the guest.

use std::{fs, os::unix::fs::PermissionsExt as _};

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::world::{ID, World, ensure, has_started, names, same};
use crate::shell;

/// A filesystem that is too small, and one that fills up on the way: a clear error and nothing left.
pub fn full_disk(world: &mut World) -> Result<()> {
    let small = world.root.join("small");
    fs::create_dir_all(&small).context("create folder", small.display())?;
    let path = small.display().to_string();
    for (size, what) in [("64m", "no room for the disk"), ("8k", "no room for a record")] {
        shell::must("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &path])?;
        let cmd = world
            .cmd(&["setup", "--instance", "full"])
            .env("FC_ROOT", small.join("fc"))
            .env("STATE_ROOT", small.join("state"));
        let output = world.ask_cmd(cmd, &format!("setup ({what})"))?;
        let left: Vec<String> = ["fc", "state"]
            .iter()
            .flat_map(|dir| names(&small.join(dir)))
            .filter(|name| name != ".lock" && name != ".journal")
            .chain(names(&small.join("state/.journal")))
            .collect();
        shell::must("umount", &[&path])?;
        ensure(matches!(output.code(), 1 | 4), || format!("{what}: exit code {}", output.code()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(said.contains("hint:") || said.contains("space"), || format!("{what}: {said}"))?;
        same(what, &left, &Vec::new())?;
    }
    let links = shell::must("ip", &["-o", "link"])?;
    ensure(!links.contains("fc-e2e0"), || "a failed setup left the bridge".into())
}

/// The VMM dies; its supervisor brings it back, and the gateway with it.
pub fn vm_killed(world: &mut World) -> Result<()> {
    let pid = world.vm_pid(ID)?;
    shell::must("kill", &["-9", &pid.to_string()])?;
    world.until("another VMM", 60, || Ok(world.vm_pid(ID).is_ok_and(|new| new != pid)))?;
    let status = world.status(ID)?;
    ensure(status["vm"] == "active" || status["vm"] == "activating", || status.to_string())?;
    // A start of what runs waits until its gateway is up.
    world.ok(&["start", ID])?;
    ensure(has_started(&world.status(ID)?), || "the gateway did not come back".into())?;
    let integrity = world.guest("sudo dmesg | grep -ci 'ext4.*error' || true")?;
    same("filesystem errors", &integrity.trim(), &"0")
}

/// The supervisor dies; the VM runs on, is still seen, and the next command replaces the supervisor.
pub fn supervisor_killed(world: &mut World) -> Result<()> {
    let vm = world.vm_pid(ID)?;
    let supervisor = shell::must("pgrep", &["-f", &format!("supervise {ID}$")])?;
    shell::must("kill", &["-9", supervisor.lines().next().unwrap_or("0")])?;
    let status = world.status(ID)?;
    same("vm", &status["vm"], &Value::from("active"))?;
    ensure(has_started(&status), || status.to_string())?;
    world.ok(&["start", ID])?;
    same("the VMM", &world.vm_pid(ID)?, &vm)?;
    world.until("a new supervisor", 10, || {
        Ok(shell::must("pgrep", &["-f", &format!("supervise {ID}$")])? != supervisor)
    })
}

/// `poweroff` inside stays off, and is told as what it is.
pub fn powered_off(world: &mut World) -> Result<()> {
    // A bot that cannot reach Telegram keeps the gateway from ending for as long as systemd lets it, which is minutes.
    let end = format!("sudo systemctl kill --signal=SIGKILL openclaw-{ID}.service; sudo systemctl poweroff");
    world.ask(&["shell", ID, &end])?;
    world.until("the end of the VM", 420, || Ok(world.status(ID)?["vm"] == "inactive"))?;
    let text = world.ok(&["status", ID])?.text();
    ensure(text.contains("from inside"), || format!("the status does not say why: {text}"))?;
    world.refused(1, &["shell", ID, "true"], "log in")?;
    world.refused(1, &["provision", ID], "does not run")
}

/// sshd gone: commands that need it say so.
pub fn ssh_gone(world: &mut World) -> Result<()> {
    world.ok(&["start", ID])?;
    world.guest("sudo systemctl stop ssh.socket ssh.service 2>/dev/null; sudo systemctl mask --runtime ssh.service ssh.socket 2>/dev/null; sudo pkill -x sshd; true")?;
    let output = world.ask(&["shell", ID, "true"])?;
    ensure(!output.status.success(), || "a shell without SSH".into())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(said.contains("hint:"), || said.clone())?;
    let status = world.status(ID)?;
    ensure(has_started(&status), || status.to_string())
}

/// A record that cannot be read is a row that says so; the others are as they were.
pub fn damaged_record(world: &mut World) -> Result<()> {
    let dir = world.root.join("state/.vm-broken");
    fs::create_dir_all(&dir).context("create folder", dir.display())?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).context("set the mode of", dir.display())?;
    fs::write(dir.join(".env"), b"FIRECLAW_STATE_FORMAT=plain-v2\nHOST_PORT=nonsense\n\xff\xfe")
        .context("write", "a broken record")?;
    let list = world.json(&["list", "--json"])?;
    let rows = list.as_array().cloned().unwrap_or_default();
    ensure(rows.iter().any(|row| row["id"] == "broken" && row["error"].is_string()), || list.to_string())?;
    ensure(rows.iter().any(|row| row["id"] == ID && row["error"].is_null()), || list.to_string())?;
    let said = world.ok(&["status", "broken"])?.text();
    ensure(said.contains("FAIL record") && said.contains("destroy broken --force"), || said.clone())?;
    world.refused(1, &["destroy", "broken"], "broken")?;
    world.ok(&["destroy", "broken", "--force"])?;
    ensure(!dir.exists(), || "the broken record is there still".into())?;
    Ok(())
}
