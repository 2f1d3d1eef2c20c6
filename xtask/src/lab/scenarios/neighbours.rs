//! What else lives on a host: firewalls that drop what is forwarded, and networks that have our names and addresses. Either
//! an instance reaches out and is reached, or fireclaw names the conflict; nobody's own rules change.

use fireclaw_core::error::Result;
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

const ID: &str = "tenant";

/// Docker makes the host drop what is forwarded.
pub fn docker(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    // Docker that comes before us finds forwarding off, switches it on, and drops what it does not know.
    lab.remote.must(&["sysctl", "--quiet", "--write", "net.ipv4.ip_forward=0"])?;
    lab.remote.must(&["systemctl", "start", "docker"])?;
    let before = lab.remote.must(&["iptables-save", "-t", "filter"])?;
    ensure(before.contains(":FORWARD DROP"), || format!("Docker drops nothing: {before}"))?;
    let result = reaches(lab).and_then(|()| undisturbed(lab, &before));
    lab.remote.must(&["systemctl", "stop", "docker.socket", "docker", "containerd"])?;
    lab.remote.must(&["iptables", "-P", "FORWARD", "ACCEPT"])?;
    lab.remote.must(&["iptables", "-F"])?;
    result
}

/// ufw refuses what comes in and what passes through.
pub fn ufw(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    lab.remote.must(&["ufw", "allow", "22/tcp"])?;
    lab.remote.must(&["ufw", "--force", "enable"])?;
    let before = lab.remote.must(&["iptables-save", "-t", "filter"])?;
    let result = reaches(lab).and_then(|()| undisturbed(lab, &before));
    lab.remote.must(&["ufw", "--force", "reset"])?;
    result
}

/// firewalld refuses what passes from a link that no zone knows.
pub fn firewalld(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    lab.remote.must(&["systemctl", "start", "firewalld"])?;
    let result = reaches(lab);
    lab.remote.must(&["systemctl", "stop", "firewalld"])?;
    result
}

/// Bridged frames pass the host's IP rules too.
pub fn br_netfilter(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    lab.remote.must(&["modprobe", "br_netfilter"])?;
    same(
        "the switch",
        &lab.remote.must(&["cat", "/proc/sys/net/bridge/bridge-nf-call-iptables"])?,
        &"1".to_owned(),
    )?;
    let result = reaches(lab);
    lab.clear()?;
    lab.remote.must(&["modprobe", "-r", "br_netfilter"])?;
    result
}

/// A bridge of our name that somebody else made.
pub fn foreign_bridge(lab: &mut Lab) -> Result<()> {
    lab.remote.must(&["ip", "link", "add", "fc-br0", "type", "bridge"])?;
    lab.remote.must(&["ip", "address", "add", "10.9.9.1/24", "dev", "fc-br0"])?;
    let before = lab.remote.must(&["ip", "-o", "address", "show", "dev", "fc-br0"])?;
    let refused = refused(lab, "fc-br0");
    let after = lab.remote.must(&["ip", "-o", "address", "show", "dev", "fc-br0"])?;
    lab.remote.must(&["ip", "link", "delete", "fc-br0"])?;
    refused?;
    same("the bridge", &after, &before)
}

/// Our subnet is somebody else's network.
pub fn routed_subnet(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    lab.remote.must(&["ip", "route", "add", "172.16.0.0/24", "via", "203.0.113.10"])?;
    let refused = refused(lab, "172.16.0.0/24");
    lab.remote.must(&["ip", "route", "delete", "172.16.0.0/24", "via", "203.0.113.10"])?;
    refused
}

/// A setup ends before it has made anything and says what is in the way and what to do.
fn refused(lab: &Lab, name: &str) -> Result<()> {
    let args = ["setup", "--instance", ID, "--image", "tiny", "--vmm", lab.vmm, "--vm-mem-mib", "256"];
    let output = lab.ask(&[&args[..], &["--disk-size", "2G"]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(!output.status.success(), || "it was taken".into())?;
    ensure(said.contains(name) && said.contains("hint:"), || format!("it says: {said}"))?;
    same("list", &lab.json(&["list", "--json"])?, &Value::Array(Vec::new()))
}

/// The neighbour's rules are all there, in their order; the administrator's own may be among them.
fn undisturbed(lab: &Lab, before: &str) -> Result<()> {
    let after = lab.remote.must(&["iptables-save", "-t", "filter"])?;
    // Rules, without comments and counters.
    let rules = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with('-') && !line.contains("fc-br0"))
            .map(str::to_owned)
            .collect()
    };
    same("the neighbour's rules", &rules(&after), &rules(before))
}

/// An instance is made and is reached through its proxy. It reaches the outside too, if need be after its administrator did
/// what doctor says.
fn reaches(lab: &Lab) -> Result<()> {
    let report = lab.setup_tiny(ID, &[])?;
    same("health", &report["health"], &Value::from("up"))?;
    let port = report["host_port"].to_string();
    lab.remote.must(&["curl", "-fsS", "--max-time", "20", &format!("http://127.0.0.1:{port}/health")])?;
    let doctor = lab.json(&["doctor", "--json"])?;
    let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
    let finding = checks.iter().find(|check| check["name"] == "forwarding").cloned().unwrap_or_default();
    if finding["ok"] == false {
        let remedy = finding["fix"].as_str().unwrap_or_default();
        crate::say::detail(&format!("  doctor: {}: {remedy}", finding["detail"]));
        for command in remedy.split(" && ") {
            lab.remote.must(&command.split(' ').collect::<Vec<_>>())?;
        }
        let again = lab.json(&["doctor", "--json"])?.to_string();
        ensure(!again.contains("stops what is forwarded"), || format!("doctor is not content: {again}"))?;
    }
    let page =
        lab.ok(&["shell", ID, "busybox", "wget", "-q", "-T", "20", "-O", "-", "http://203.0.113.10/"])?;
    same("the page outside", &page, &"outside".to_owned())
}

/// The host's way out leads to one web server. Done once a boot.
pub fn outside(lab: &Lab) -> Result<()> {
    if lab.remote.must(&["ip", "netns", "list"])?.contains("outside") {
        return Ok(());
    }
    lab.remote.script(include_str!("../files/outside.sh"), &[]).map(drop)
}
