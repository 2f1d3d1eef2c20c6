//! The two units of an instance as systemd runs them: limits, sandbox, the proxy's user, its credentials, its live orders, logs.

use fireclaw_core::error::{Context, Error, Result};
use serde_json::Value;

use crate::{
    lab::host::{Lab, ensure, same},
    say,
};

const ID: &str = "under_systemd";
const KEY: &str = "sk-of-the-lab-0123456789";

/// With a limit that is not the default, from the configuration file.
pub fn units(lab: &mut Lab) -> Result<()> {
    lab.with_config("cpu_quota = \"auto\"\n", one)
}

/// One instance, looked at and changed while it runs.
fn one(lab: &Lab) -> Result<()> {
    lab.remote.put_bytes(format!("{KEY}\n").into_bytes(), "/root/a.key", "600")?;
    let report = lab.setup_tiny(ID, &["--anthropic-api-key-file", "/root/a.key", "--keys", "broker"])?;
    same("health", &report["health"], &Value::from("up"))?;
    let (vm, proxy) = (format!("firecracker-vmdemo-{ID}.service"), format!("vmdemo-proxy-{ID}.service"));
    limits(lab, &vm)?;
    the_proxy_is_nobody(lab, &proxy)?;
    orders_reach_the_sidecar(lab)?;
    rates_change_live(lab)?;
    nothing_is_found(lab)?;
    for unit in [&vm, &proxy] {
        let score = lab.remote.must(&["systemd-analyze", "security", "--no-pager", unit])?;
        say::detail(&format!("  {}", score.lines().last().unwrap_or_default()));
    }
    let logs = lab.ok(&["logs", ID, "host", "--no-follow", "--lines", "400"])?;
    for (of, part) in [("the VM's unit", "vm"), ("the proxy's unit", "proxy")] {
        ensure(logs.lines().any(|line| line.starts_with(part)), || {
            format!("`logs {ID} host` shows nothing of {of}")
        })?;
    }
    lab.ok(&["destroy", ID, "--force"])?;
    let left = lab.remote.ask(&["ls", "/var/lib/private/fireclaw-sidecar", "/run/fireclaw-sidecar"])?;
    ensure(!left.text().contains(ID), || format!("the proxy's folders are left: {}", left.text()))
}

/// On the VMM's own limiters, without a restart; Firecracker says itself what is in force.
fn rates_change_live(lab: &Lab) -> Result<()> {
    let before = lab.vm_pid(ID)?;
    lab.ok(&["provision", ID, "--net-mbit", "50", "--disk-iops", "700"])?;
    same("the VM's process", &lab.vm_pid(ID)?, &before)?;
    same("net_mbit", &lab.json(&["status", ID, "--json"])?["rates"]["net_mbit"], &Value::from(50))?;
    if lab.vmm == "firecracker" {
        let socket = format!("/srv/firecracker/vm-demo/{ID}/firecracker.socket");
        let url = "http://localhost/vm/config";
        let seen = lab.remote.must(&["curl", "-s", "--max-time", "10", "--unix-socket", &socket, url])?;
        ensure(seen.contains("\"size\":700"), || format!("Firecracker has other limits: {seen}"))?;
    }
    Ok(())
}

/// What an outsider could reach of it, as fireclaw itself judges.
fn nothing_is_found(lab: &Lab) -> Result<()> {
    let output = lab.ask(&["audit", "--json"])?;
    let report: Value = serde_json::from_str(&output.text()).context("read", "the audit")?;
    let findings = report["findings"].as_array();
    let of_it = findings.ok_or_else(|| Error::new("find", "the findings of the audit"))?;
    for finding in of_it {
        say::detail(&format!("  found: {finding}"));
    }
    let ours = ["files", "sockets", "secrets", "firewall", "units", "record"];
    let is_bad = |it: &&Value| {
        // The stand-in for OpenClaw calls itself 0.0.0, which has every problem. A Firecracker of one's own build may bring no
        // filter of system calls; of a release nothing at all may be found.
        let about_the_stand_in = it["check"] == "versions"
            && it["detail"].as_str().is_some_and(|text| text.starts_with("OpenClaw"));
        let counts = lab.released || ours.iter().any(|name| it["check"] == *name);
        it["instance"] == ID && counts && !about_the_stand_in
    };
    let bad = of_it.iter().find(is_bad);
    ensure(bad.is_none(), || format!("{bad:?}"))?;
    if lab.released {
        is_told_as_released(&report)?;
    }
    Ok(())
}

/// The version that was looked up among those with problems, and the filter that the kernel has in force.
fn is_told_as_released(report: &Value) -> Result<()> {
    let row = report["instances"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == ID));
    let row = row.ok_or_else(|| Error::new("find", format!("{ID} in the audit")))?;
    say::detail(&format!("  of it: {row}"));
    let has = |name: &str, wanted: &dyn Fn(&Value) -> bool| {
        row[name].as_array().is_some_and(|all| all.iter().any(wanted))
    };
    ensure(
        has("versions", &|it| it.as_str().is_some_and(|text| text.starts_with("Firecracker 1."))),
        || format!("Firecracker's version is not told: {row}"),
    )?;
    ensure(
        has("processes", &|it| it["role"] == "vm" && it["seccomp"] == true && it["jailed"] == true),
        || format!("the VM is not told as filtered and jailed: {row}"),
    )
}

fn property(lab: &Lab, unit: &str, name: &str) -> Result<String> {
    lab.remote.must(&["systemctl", "show", "--value", "-p", name, unit])
}

/// The unit bounds the VM: its memory with what the VMM needs beside, its processors, its tasks.
fn limits(lab: &Lab, unit: &str) -> Result<()> {
    let memory: u64 = property(lab, unit, "MemoryMax")?.parse().context("read", "MemoryMax")?;
    ensure((256 << 20..4 << 30).contains(&memory), || format!("MemoryMax is {memory}"))?;
    same("CPUQuota", &property(lab, unit, "CPUQuotaPerSecUSec")?, &"1.500000s".to_owned())?;
    same("TasksMax", &property(lab, unit, "TasksMax")?, &"512".to_owned())
}

/// A dynamic user with no capability; the key is in a folder of its own, and in no environment.
fn the_proxy_is_nobody(lab: &Lab, unit: &str) -> Result<()> {
    let pid = property(lab, unit, "MainPID")?;
    let status = lab.remote.must(&["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    let uid: u32 = field("Uid").parse().context("read", "the proxy's user")?;
    // The range of systemd's dynamic users.
    ensure((61_184..=65_519).contains(&uid), || format!("the proxy's user is {uid}"))?;
    for (name, value) in [("CapEff", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
        same(name, &field(name), &value.to_owned())?;
    }
    let environment = lab.remote.must(&["cat", &format!("/proc/{pid}/environ")])?;
    ensure(environment.contains("CREDENTIALS_DIRECTORY=") && !environment.contains(KEY), || {
        "the proxy has no credentials, or the key in its environment".into()
    })
}

/// Policy and keys change while the proxy runs, and the same process goes on.
fn orders_reach_the_sidecar(lab: &Lab) -> Result<()> {
    let unit = format!("vmdemo-proxy-{ID}.service");
    let before = property(lab, &unit, "MainPID")?;
    let asks = || lab.ask(&["shell", ID, "busybox", "nslookup", "deb.debian.org"]);
    lab.ok(&["egress", ID, "set", "allow", "--allow", "github"])?;
    same("egress", &lab.json(&["egress", ID, "show", "--json"])?["mode"], &Value::from("allow"))?;
    ensure(!asks()?.status.success(), || "a name that is not on the list was answered".into())?;
    lab.until("the refused name in the log", 20, || {
        Ok(lab.json(&["egress", ID, "log", "--json"])?.to_string().contains("deb.debian.org"))
    })?;
    lab.remote.put_bytes(b"sk-another-0123456789\n".to_vec(), "/root/b.key", "600")?;
    lab.ok(&["keys", ID, "rotate", "anthropic", "--file", "/root/b.key"])?;
    lab.ok(&["egress", ID, "set", "public"])?;
    same("the proxy's process", &property(lab, &unit, "MainPID")?, &before)?;
    let broker = lab.json(&["status", ID, "--json"])?["containment"]["keys"].clone();
    if broker == "broker" {
        return Ok(());
    }
    Err(Error::new("see", "the broker in the status").because(broker.to_string()))
}
