//! kill -9 and Ctrl-C in the middle: the journal says how far it had come, and the next run deals with it.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Error, Result};
use fireclaw_host::exec::handover;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    lifecycle::is_stopped,
    traces::Traces,
    world::{ID, World, ensure, has_started, same},
};
use crate::say;

/// Starts a command and sends a signal once its journal has this many lines. `Ok(false)`: it ended before.
fn signal_at(world: &World, id: &str, args: &[&str], lines: usize, signal: Signal) -> Result<bool> {
    let log = fs::File::create(world.root.join("killed.log"))
        .map_err(|error| Error::new("create", "a log").source(error))?;
    let mut child: Child = handover::spawn(&world.cmd(args), Some(&log))?;
    let journal = world.journal(id);
    let mut hit = false;
    let mut look = || -> Result<bool> {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return Ok(true);
        }
        let text = fs::read_to_string(&journal).unwrap_or_default();
        if text.lines().count() < lines {
            return Ok(false);
        }
        hit = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).is_ok();
        Ok(true)
    };
    // The first steps take a millisecond each: they are caught by looking without a pause. The later ones wait for the
    // guest, which needs the processor.
    let begun = Instant::now();
    let mut done = false;
    while !done && begun.elapsed() < Duration::from_secs(12) {
        done = look()?;
    }
    if !done {
        world.until(&format!("{lines} lines in the journal of `{}`", args.join(" ")), 900, look)?;
    }
    let _ = child.wait();
    let last = fs::read_to_string(&journal).unwrap_or_default();
    say::detail(&format!(
        "  {signal} after: {}",
        last.lines().last().unwrap_or("(no journal)").chars().take(80).collect::<String>()
    ));
    Ok(hit)
}

/// The journal's lines before the guest is waited for: the plan, and two a step.
const BEFORE_THE_GUEST: usize = 1 + 2 * 7;

const SMALL: [&str; 6] = ["--vm-vcpu", "2", "--vm-mem-mib", "2048", "--dns", "203.0.113.10"];

fn setup_args(id: &str) -> Vec<&str> {
    [&["setup", "--instance", id][..], &SMALL].concat()
}

/// After each line up to the VM's start: what is left is told, and removed by the next run.
pub fn setup_before_the_guest(world: &mut World) -> Result<()> {
    let before = Traces::take(world)?;
    for lines in 1..=BEFORE_THE_GUEST {
        ensure(signal_at(world, "killed", &setup_args("killed"), lines, Signal::SIGKILL)?, || {
            format!("setup ended before line {lines}")
        })?;
        let list = world.json(&["list", "--json"])?;
        ensure(list.to_string().contains("interrupted"), || {
            format!("the half-made instance is not told: {list}")
        })?;
        world.ok(&["destroy", "killed", "--force"])?;
        same("what is left", &before.left_behind(world)?, &Vec::new())?;
    }
    // The next setup of the same id begins with removing what is left.
    signal_at(world, "killed", &setup_args("killed"), BEFORE_THE_GUEST, Signal::SIGKILL)?;
    world.refused(
        2,
        &["setup", "--instance", "killed", "--base-kernel", "/no/such/kernel"],
        "/no/such/kernel",
    )?;
    same("what is left", &before.left_behind(world)?, &Vec::new())
}

/// SIGINT and SIGTERM undo.
pub fn interrupted_setup(world: &mut World) -> Result<()> {
    let before = Traces::take(world)?;
    for (lines, signal) in [(2, Signal::SIGINT), (7, Signal::SIGTERM), (BEFORE_THE_GUEST + 1, Signal::SIGINT)]
    {
        ensure(signal_at(world, "killed", &setup_args("killed"), lines, signal)?, || {
            "setup ended before".into()
        })?;
        same("what is left", &before.left_behind(world)?, &Vec::new())?;
    }
    Ok(())
}

/// In the guest's part: before the guest was provisioned all goes, after it all stays and `provision` finishes.
pub fn setup_in_the_guest(world: &mut World) -> Result<()> {
    let before = Traces::take(world)?;
    // AwaitLogin done, InstallAgent done, ProvisionGuest begun.
    for lines in [BEFORE_THE_GUEST + 2, BEFORE_THE_GUEST + 5] {
        ensure(signal_at(world, "killed", &setup_args("killed"), lines, Signal::SIGKILL)?, || {
            format!("setup ended before line {lines}")
        })?;
        world.ok(&["destroy", "killed", "--force"])?;
        same("what is left", &before.left_behind(world)?, &Vec::new())?;
    }
    // MarkProvisioned done.
    ensure(
        signal_at(world, "killed", &setup_args("killed"), BEFORE_THE_GUEST + 8, Signal::SIGKILL)?,
        || "setup ended before".into(),
    )?;
    world.refused(2, &["setup", "--instance", "killed"], "exists already")?;
    world.ok(&["provision", "killed"])?;
    same("health", &world.status("killed")?["health"], &Value::from("up"))?;
    world.ok(&["destroy", "killed", "--force"])?;
    same("what is left", &before.left_behind(world)?, &Vec::new())
}

/// After each line: nothing is lost, and the next provision ends healthy.
pub fn provision(world: &mut World) -> Result<()> {
    for lines in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14] {
        let model = format!("anthropic/killed-{lines}");
        let hit = signal_at(world, ID, &["provision", ID, "--model", &model], lines, Signal::SIGKILL)?;
        if !hit {
            say::detail("    it had ended");
        }
        same("the VM", &world.status(ID)?["vm"], &Value::from("active"))?;
        same("rows", &world.json(&["list", "--json"])?.as_array().map(Vec::len), &Some(1))?;
    }
    let report = world.json(&["provision", ID, "--model", "anthropic/claude-opus-4-6", "--json"])?;
    ensure(has_started(&report), || report.to_string())?;
    same(
        "the model",
        &super::guest::configuration(world)?["agents"]["defaults"]["model"]["primary"],
        &Value::from("anthropic/claude-opus-4-6"),
    )?;
    ensure(!world.state(ID, ".env.next").exists(), || "staged settings are left".into())
}

/// After each line: the next stop ends stopped.
pub fn stop(world: &mut World) -> Result<()> {
    world.ok(&["start", ID])?;
    for lines in 1..=5 {
        signal_at(world, ID, &["stop", ID], lines, Signal::SIGKILL)?;
        let id = world.json(&["list", "--json"])?[0]["id"].clone();
        same("the instance", &id, &Value::from(ID))?;
    }
    world.ok(&["stop", ID])?;
    is_stopped(world, ID)?;
    // A second stop has nothing to do.
    world.ok(&["stop", ID])?;
    Ok(())
}

/// After each line: the next destroy ends with nothing left.
pub fn destroy(world: &mut World) -> Result<()> {
    let before = Traces::take(world)?;
    for lines in 1..=12 {
        // Made without a VM: a setup that is killed before its VM, finished by nobody.
        signal_at(world, "doomed", &setup_args("doomed"), BEFORE_THE_GUEST, Signal::SIGKILL)?;
        let journal = world.journal("doomed");
        // An instance that is whole: its journal is gone.
        let _ = fs::remove_file(&journal);
        let hit = signal_at(world, "doomed", &["destroy", "doomed", "--force"], lines, Signal::SIGKILL)?;
        if hit {
            let list = world.json(&["list", "--json"])?.to_string();
            ensure(list.contains("doomed"), || format!("a half-destroyed instance is not told: {list}"))?;
            world.ok(&["destroy", "doomed", "--force"])?;
        }
        same("what is left", &before.left_behind(world)?, &Vec::new())?;
    }
    Ok(())
}
