//! A real OpenClaw on this host: made, reached, asked to stop.

use std::time::{Duration, Instant};

use fireclaw_core::error::Result;
use serde_json::Value;

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
        "2",
        "--vm-mem-mib",
        "2560",
        "--disk-size",
        "8G",
        "--dns",
        "203.0.113.10",
        "--json",
    ])?;
    same("health", &report["health"], &Value::from("up"))?;
    say::detail(&format!("  setup took {} s", begun.elapsed().as_secs()));
    show_steps(&report);
    let port = report["host_port"].to_string();
    let page =
        lab.remote.must(&["curl", "-fsS", "--max-time", "60", &format!("http://127.0.0.1:{port}/")])?;
    ensure(page.to_lowercase().contains("<html"), || "the UI is not served".into())?;
    let begun = Instant::now();
    lab.ok(&["stop", ID])?;
    let took = begun.elapsed();
    ensure(took < Duration::from_secs(330), || format!("a graceful stop took {} s", took.as_secs()))?;
    let logs = lab.ok(&["logs", ID, "host", "--no-follow", "--lines", "400"])?;
    ensure(logs.contains("reboot: ") || logs.contains("Power down") || logs.contains("Stopped"), || {
        format!("nothing tells of a guest that ended: {logs}")
    })
}
