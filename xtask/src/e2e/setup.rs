//! The setup that the other cases live on, and what can be seen of it from outside.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
};

use fireclaw_core::error::{Context, Result};
use fireclaw_host::cgroup::Controllers;
use serde_json::Value;

use super::world::{ID, World, ensure, same};
use crate::say;

/// A key with everything that a shell or a unit file could trip over.
pub const NASTY_KEY: &str = "sk-\"quoted\"'$HOME`id`\\n%h#;&|<>{}*?~!^()[]";
/// A model name likewise. Models may hold any character but blanks and control characters.
pub const NASTY_MODEL: &str = "anthropic/claude-\"$HOME'`id`\\🦀%s";

/// Boots, provisions, ends healthy.
pub fn setup(world: &mut World) -> Result<()> {
    let key = world.root.join("anthropic.key");
    std::fs::write(&key, format!("{NASTY_KEY}\n")).context("write", key.display())?;
    let report = world.json(&[
        "setup",
        "--instance",
        ID,
        "--json",
        "--vm-vcpu",
        "2",
        "--vm-mem-mib",
        "2560",
        "--anthropic-api-key-file",
        &key.display().to_string(),
        "--dns",
        "203.0.113.10",
    ])?;
    same("health", &report["health"], &Value::from("up"))?;
    same("runtime", &report["runtime"], &Value::from("native"))?;
    for (name, file) in [("vm", "vm"), ("proxy", "proxy"), ("guest", "guest")] {
        same(name, &report[file], &Value::from("active"))?;
    }
    for step in report["steps"].as_array().into_iter().flatten() {
        say::line(&format!("    {:<24} {:>8} ms", step["name"].as_str().unwrap_or(""), step["ms"]));
    }
    let text = report.to_string();
    ensure(!text.contains("sk-"), || "a key is in the JSON".into())?;
    for (path, mode) in [
        (world.state(ID, ""), 0o700),
        (world.state(ID, ".env"), 0o600),
        (world.state(ID, ".token"), 0o600),
        (world.state(ID, "provision.vars"), 0o600),
        (world.fc(ID, ""), 0o700),
        (world.fc(ID, "images/state.ext4"), 0o600),
        (world.fc(ID, "images/seed.img"), 0o600),
    ] {
        let seen = std::fs::metadata(&path).context("look at", path.display())?.permissions().mode() & 0o777;
        same(&path.display().to_string(), &seen, &mode)?;
    }
    // No secret in any process's arguments.
    for pid in super::world::names(std::path::Path::new("/proc")) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ensure(!String::from_utf8_lossy(&line).contains("sk-\"quoted\""), || {
            format!("process {pid} shows the key")
        })?;
    }
    // The VMM is not root.
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.vm_pid(ID)?))
        .context("read", "the VMM's status")?;
    ensure(!status.contains("Uid:\t0"), || "the VMM runs as root".into())?;
    if Controllers::find()?.is_none() {
        say::line("    this kernel has no control groups: nothing limits the VM");
        return Ok(());
    }
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", world.vm_pid(ID)?))
        .context("read", "the VMM's control groups")?;
    ensure(groups.contains(&format!("/fireclaw/{ID}\n")), || format!("the VMM is in no group: {groups}"))
}

/// What exists is not made again, and what is wanted twice is not given twice.
pub fn second_setup(world: &mut World) -> Result<()> {
    world.refused(2, &["setup", "--instance", ID], "exists already")?;
    world.refused(2, &["setup", "--instance", "other", "--host-port", "28891"], "28891")?;
    let full = world
        .cmd(&["setup", "--instance", "other"])
        .env("SUBNET_CIDR", "172.30.0.0/30")
        .env("BRIDGE_ADDR", "172.30.0.1/30");
    same("a subnet that is too small", &world.ask_cmd(full, "setup (a subnet of /30)")?.code(), &2)?;
    ensure(!world.root.join("fc/other").exists(), || "a refused setup left a folder".into())
}

/// One GET over a plain socket: another program than ours would use.
pub fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect to", format!("port {port}"))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
        .context("ask", path)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The gateway answers on 127.0.0.1, and only there.
pub fn health(_: &mut World) -> Result<()> {
    let answer = crate::shell::must("curl", &["-fsS", "http://127.0.0.1:28891/health"])?;
    let body: Value = serde_json::from_str(&answer).context("read", "the health answer")?;
    same("ok", &body["ok"], &Value::from(true))?;
    ensure(get(28891, "/")?.to_lowercase().contains("<html"), || "the UI is not served".into())?;
    let elsewhere = TcpStream::connect(("203.0.113.1", 28891));
    ensure(elsewhere.is_err(), || "the proxy listens on more than loopback".into())?;
    let listening = crate::shell::must("ss", &["-Hltn"])?;
    ensure(!listening.lines().any(|line| line.contains("0.0.0.0:28891") || line.contains("*:28891")), || {
        listening.clone()
    })
}

/// Both reports, as text and as JSON.
pub fn list_and_status(world: &mut World) -> Result<()> {
    let list = world.json(&["list", "--json"])?;
    same("rows", &list.as_array().map(Vec::len), &Some(1))?;
    let row = &list[0];
    for (field, value) in [
        ("id", ID),
        ("vm_ip", "172.30.0.2"),
        ("vm", "active"),
        ("proxy", "active"),
        ("guest", "active"),
        ("health", "up"),
        ("vmm", "qemu"),
        ("supervisor", "embedded"),
        ("runtime", "native"),
        ("image", "default"),
    ] {
        same(field, &row[field], &Value::from(value))?;
    }
    same("host_port", &row["host_port"], &Value::from(28891))?;
    same("error", &row["error"], &Value::Null)?;
    let status = world.status(ID)?;
    for check in status["checks"].as_array().into_iter().flatten() {
        same(check["name"].as_str().unwrap_or(""), &check["ok"], &Value::from(true))?;
    }
    ensure(status["uptime_s"].as_u64().is_some_and(|seconds| seconds > 0), || "no uptime".into())?;
    ensure(status["disk"]["allocated_bytes"].as_u64() < status["disk"]["size_bytes"].as_u64(), || {
        "the disk is not sparse".into()
    })?;
    for (text, part) in [
        (world.ok(&["list"])?.text(), ID),
        (world.ok(&["status", ID])?.text(), "http://127.0.0.1:28891/"),
        (world.ok(&["status"])?.text(), ID),
    ] {
        ensure(text.contains(part), || text.clone())?;
    }
    Ok(())
}

/// The token, a newline, nothing else; and it is the gateway's.
pub fn token(world: &mut World) -> Result<()> {
    let output = world.ok(&["token", ID])?;
    let token = output.text();
    same("stdout", &output.stdout, &format!("{token}\n").into_bytes())?;
    ensure(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), || "the token is odd".into())?;
    let kept = std::fs::read_to_string(world.state(ID, ".token")).context("read", ".token")?;
    same(".token", &kept.trim(), &token.as_str())
}
