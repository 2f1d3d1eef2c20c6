//! A real OpenClaw on this host: made, reached, put to sleep and woken, asked to stop.

use std::time::{Duration, Instant};

use fireclaw_core::error::Result;
use serde_json::Value;

use super::hibernate::{connect, timed};
use crate::{
    lab::host::{Lab, ensure, same, show_steps},
    say,
};

const ID: &str = "real";

/// The native runtime, of the image that the end-to-end tests built.
pub fn native(lab: &mut Lab) -> Result<()> {
    let begun = Instant::now();
    let report = lab.json(&[
        "setup",
        "--instance",
        ID,
        "--image",
        "default",
        "--vmm",
        lab.vmm,
        "--vm-vcpu",
        "1",
        "--vm-mem-mib",
        "2560",
        "--disk-size",
        "8G",
        "--dns",
        "203.0.113.10",
        // Long after this run: so that a client wakes it.
        "--idle-after",
        if lab.vmm == "firecracker" { "12h" } else { "off" },
        "--json",
    ])?;
    same("health", &report["health"], &Value::from("up"))?;
    say::detail(&format!("  setup took {} s", begun.elapsed().as_secs()));
    show_steps(&report);
    let port = report["host_port"].to_string();
    let page =
        lab.remote.must(&["curl", "-fsS", "--max-time", "60", &format!("http://127.0.0.1:{port}/")])?;
    ensure(page.to_lowercase().contains("<html"), || "the UI is not served".into())?;
    if lab.vmm == "firecracker" {
        woken(lab, cold(&report))?;
    }
    stopped(lab)
}

/// What a boot took of a setup, in seconds: what a `start` would take. A second boot of minutes is not worth its own figure.
fn cold(report: &Value) -> f64 {
    const OF_A_START: [&str; 4] = ["join network", "start VM", "wait for SSH login", "wait for the gateway"];
    let steps = report["steps"].as_array().into_iter().flatten();
    let boot = steps.filter(|step| OF_A_START.iter().any(|name| step["name"] == *name));
    boot.filter_map(|step| step["ms"].as_f64()).sum::<f64>() / 1e3
}

/// A client comes to it while it sleeps: that must take next to nothing of a boot.
fn woken(lab: &Lab, cold: f64) -> Result<()> {
    let put_away = timed(|| lab.ok(&["hibernate", ID]))?;
    let kept = lab.field(ID, "snapshot_bytes")?;
    let (body, wake) = connect(lab, ID)?;
    ensure(body.contains("\"ok\""), || format!("the gateway said {body:?}"))?;
    say::line(&format!(
        "     a real OpenClaw: boot until its gate {cold:.1} s, hibernate {put_away:.1} s ({kept} bytes), connection to first byte \
         {wake:.2} s: {:.1} % of the boot",
        wake * 100.0 / cold
    ));
    lab.until("it to be up", 120, || Ok(lab.field(ID, "health")? == "up"))
}

/// Asked to stop, it ends in its own time.
fn stopped(lab: &Lab) -> Result<()> {
    let begun = Instant::now();
    lab.ok(&["stop", ID])?;
    let took = begun.elapsed();
    ensure(took < Duration::from_secs(330), || format!("a graceful stop took {} s", took.as_secs()))?;
    let logs = lab.ok(&["logs", ID, "host", "--no-follow", "--lines", "400"])?;
    ensure(logs.contains("reboot: ") || logs.contains("Power down") || logs.contains("Stopped"), || {
        format!("nothing tells of a guest that ended: {logs}")
    })
}
