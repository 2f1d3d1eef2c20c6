//! An instance as the Bash fireclaw wrote it: listed, started, stopped and destroyed in place.

use std::fs;

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::{
    lifecycle::is_stopped,
    world::{ID, World, ensure, same},
};

/// Keys that the Bash fireclaw wrote; the others are ours.
const V1: [&str; 19] = [
    "INSTANCE_ID",
    "HOST_PORT",
    "VM_IP",
    "VM_TAP",
    "VM_MAC",
    "GATEWAY_TOKEN",
    "MODEL",
    "SKILLS",
    "TELEGRAM_USERS",
    "OPENCLAW_IMAGE",
    "VM_VCPU",
    "VM_MEM_MIB",
    "DISK_SIZE",
    "API_SOCK",
    "SSH_KEY_PATH",
    "SKIP_BROWSER_INSTALL",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "MINIMAX_API_KEY",
];

/// The shared instance is stopped; its record becomes one of format `plain-v1`, as the Bash fireclaw would have left it.
pub fn takes_over(world: &mut World) -> Result<()> {
    let path = world.state(ID, ".env");
    let ours = fs::read_to_string(&path).context("read", path.display())?;
    let mut theirs = "FIRECLAW_STATE_FORMAT=plain-v1\n".to_owned();
    for line in ours.lines().filter(|line| V1.iter().any(|key| line.starts_with(&format!("{key}=")))) {
        theirs.push_str(line);
        theirs.push('\n');
    }
    theirs.push_str("SOMETHING_OF_THEIRS=kept\n");
    fs::write(&path, &theirs).context("write", path.display())?;
    fs::remove_dir_all(world.fc(ID, "supervisor")).context("remove", "our supervisor's folder")?;
    let list = world.json(&["list", "--json"])?;
    same("id", &list[0]["id"], &Value::from(ID))?;
    same("vmm", &list[0]["vmm"], &Value::from("firecracker"))?;
    same("vm", &list[0]["vm"], &Value::from("inactive"))?;
    let report = world.json(&["start", ID, "--json"])?;
    same("health", &report["health"], &Value::from("up"))?;
    same("the record", &fs::read_to_string(&path).context("read", path.display())?, &theirs)?;
    world.ok(&["stop", ID])?;
    is_stopped(world, ID)?;
    // It is destroyed by the last case; until then it stays theirs.
    ensure(world.ok(&["status", ID])?.text().contains("SOMETHING_OF_THEIRS"), || {
        "the unknown key is not told".into()
    })
}
