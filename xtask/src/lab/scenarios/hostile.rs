//! A guest gone wrong beside one that minds its own business: what the neighbour notices, and what the host keeps of it.

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::figures::{median, worst};
use crate::{
    lab::host::{Lab, ensure, same},
    say,
};

const HOSTILE: &str = "hostile";
const NEIGHBOUR: &str = "neighbour";

/// What a guest's endless console may add to the host's journal, in bytes, with what the host itself writes meanwhile.
const CONSOLE: u64 = 64 << 20;

/// Each misdeed in its turn; the neighbour's gateway is asked before and meanwhile.
pub fn neighbour(lab: &mut Lab) -> Result<()> {
    let port = lab.setup_tiny(NEIGHBOUR, &[])?["host_port"].to_string();
    lab.setup_tiny(HOSTILE, &[])?;
    let calm = latency(lab, &port)?;
    say::line(&format!("     neighbour's /health, calm: median {} us, worst {} us", calm.0, calm.1));
    let kept = journal(lab)?;
    for misdeed in ["serial", "spin", "disk", "forks"] {
        let unit = format!("--unit=lab-misdeed-{misdeed}");
        lab.remote.must(&[
            "systemd-run",
            "--quiet",
            &unit,
            "fireclaw",
            "shell",
            HOSTILE,
            "sudo",
            "lab-hostile",
            misdeed,
        ])?;
        // The login and the first of its processes.
        lab.until("the misdeed to begin", 60, || begun(lab, misdeed))?;
        let seen = latency(lab, &port)?;
        say::line(&format!("     neighbour's /health, {misdeed}: median {} us, worst {} us", seen.0, seen.1));
        lab.remote.ask(&["systemctl", "stop", &format!("lab-misdeed-{misdeed}")])?;
        ensure(seen.0 < calm.0 * 4 + 100_000, || {
            format!("{misdeed} slows the neighbour: {} us, and {} us when it is calm", seen.0, calm.0)
        })?;
        same("the neighbour's health", &lab.field(NEIGHBOUR, "health")?, &Value::from("up"))?;
    }
    let more = journal(lab)?.saturating_sub(kept);
    say::line(&format!("     the host's journal grew by {more} bytes"));
    ensure(more < CONSOLE, || format!("the journal grew by {more} bytes"))?;
    // Whatever it did to itself, its owner gets rid of it or has it back.
    lab.ok(&["stop", HOSTILE, "--now"])?;
    lab.ok(&["start", HOSTILE])?;
    same("health", &lab.field(HOSTILE, "health")?, &Value::from("up"))
}

/// Bytes on the disk.
fn journal(lab: &Lab) -> Result<u64> {
    let said = lab.remote.must(&["du", "--summarize", "--block-size=1", "/var/log/journal"])?;
    said.split_whitespace().next().unwrap_or_default().parse().context("read", "the size of the journal")
}

/// Its VMM is at work: a guest that was idle uses a part of a processor now.
fn begun(lab: &Lab, misdeed: &str) -> Result<bool> {
    let state = lab.remote.ask(&["systemctl", "is-active", &format!("lab-misdeed-{misdeed}")])?.text();
    let Some(pid) = lab.vm_pid(HOSTILE)? else { return Ok(false) };
    let ticks = || -> Result<u64> {
        let stat = lab.remote.must(&["cat", &format!("/proc/{pid}/stat")])?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok([11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum())
    };
    let before = ticks()?;
    lab.remote.must(&["sleep", "1"])?;
    Ok(state == "active" && ticks()? > before + 15)
}

fn latency(lab: &Lab, port: &str) -> Result<(u64, u64)> {
    let said = lab.remote.script(include_str!("../files/latency.sh"), &[port])?;
    Ok((median(&said, "request")?, worst(&said, "request")?))
}
