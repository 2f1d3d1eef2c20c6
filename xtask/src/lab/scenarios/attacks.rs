//! Attacks by root in a real guest: at the host, its neighbour, the networks around, and the policy that is in force. Whoever is
//! attacked is a host of this lab's own, from which no way leads out; that is looked at first.

use std::collections::BTreeMap;

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::neighbours::outside;
use crate::{
    attacker,
    lab::host::{Lab, ensure, same},
    say,
};

const ATTACKER: &str = "attacker";
const NEIGHBOUR: &str = "neighbour";

/// The seconds after which the neighbour stops to look at its link, whatever happened: longer than all attacks take.
const LOOKING: &str = "900";

/// None gets through, all are counted, and the neighbour's gateway does not notice.
pub fn from_inside(lab: &mut Lab) -> Result<()> {
    outside(lab)?;
    lab.remote.put_bytes(include_bytes!("../files/name-server.pl").to_vec(), "/run/name-server.pl", "644")?;
    lab.remote.script(include_str!("../files/stage.sh"), &[])?;
    lab.setup_tiny(NEIGHBOUR, &[])?;
    lab.setup_tiny(ATTACKER, &[])?;
    let (own, other) = (record(lab, ATTACKER)?, record(lab, NEIGHBOUR)?);

    look(lab)?;
    let mut held = attacks(lab, "public", &own, &other)?;
    let unmoved = lab.remote.must(&["ip", "neigh", "show", &other["VM_IP"]])?;
    ensure(unmoved.to_lowercase().contains(&other["VM_MAC"].to_lowercase()), || {
        format!("the host takes somebody else for the neighbour: {unmoved}")
    })?;
    saw_nothing(lab, &other["VM_IP"])?;
    same("the neighbour's health", &lab.field(NEIGHBOUR, "health")?, &Value::from("up"))?;

    // The counters begin anew with every ruleset, and so with every policy.
    let dropped = drops(lab)?;
    lab.ok(&["egress", ATTACKER, "set", "allow", "--allow", "allowed.test"])?;
    held += attacks(lab, "allow", &own, &other)?;
    let dropped = [dropped, drops(lab)?];
    ensure(!dropped.contains(&0), || format!("not all were counted: {dropped:?}"))?;
    let log = lab.ok(&["egress", ATTACKER, "log"])?;
    ensure(log.contains("203.0.113.10"), || format!("nobody wrote down who was refused: {log}"))?;
    same("the neighbour's health", &lab.field(NEIGHBOUR, "health")?, &Value::from("up"))?;
    say::line(&format!(
        "     {held} attacks from inside a real guest, none got through; packets dropped and counted: {} under `public`, {} \
         under `allow`",
        dropped[0], dropped[1]
    ));
    Ok(())
}

/// What the record says of an instance.
fn record(lab: &Lab, id: &str) -> Result<BTreeMap<String, String>> {
    let text = lab.remote.must(&["cat", &format!("/var/lib/fireclaw/.vm-{id}/.env")])?;
    Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
}

/// How many were tried.
fn attacks(
    lab: &Lab,
    policy: &str,
    own: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Result<usize> {
    let words = [
        policy,
        &own["VM_IP"],
        &own["VM_MAC"],
        &own["HOST_PORT"],
        "172.16.0.1",
        &other["VM_IP"],
        &other["VM_MAC"],
    ];
    let command = [&["fireclaw", "shell", ATTACKER, "sudo", "python3", "-"][..], &words].concat();
    let said = lab.remote.must_with(&command, attacker::script(include_str!("../files/attack.py")))?;
    attacker::judge(&said)
}

/// The neighbour looks at its link from now on.
fn look(lab: &Lab) -> Result<()> {
    lab.remote.put_bytes(include_bytes!("../files/sniff.py").to_vec(), "/run/sniff.py", "644")?;
    let files = ["-p", "StandardInput=file:/run/sniff.py", "-p", "StandardOutput=truncate:/run/sniff.out"];
    let unit = [&["systemd-run", "--quiet", "--unit=lab-sniff"][..], &files].concat();
    let inside = ["fireclaw", "shell", NEIGHBOUR, "sudo", "python3", "-", LOOKING];
    lab.remote.must(&[&unit[..], &inside].concat())?;
    lab.until("the neighbour to look", 60, || Ok(seen(lab)?.contains("looking")))
}

/// Whether it saw what only the attacker sends. The host's last word proves that it looked to the end.
fn saw_nothing(lab: &Lab, ip: &str) -> Result<()> {
    // Nothing listens there, and the guest says so.
    let enough = "echo fireclaw-enough | socat - \"UDP4:$1:9\" || true";
    lab.until("the neighbour to have seen the host's last word", 30, || {
        lab.remote.script(enough, &[ip])?;
        Ok(seen(lab)?.contains("marked"))
    })?;
    let seen = seen(lab)?;
    ensure(seen.contains("marked 0"), || format!("the neighbour saw frames of the attacker: {seen}"))
}

fn seen(lab: &Lab) -> Result<String> {
    lab.remote.must(&["cat", "/run/sniff.out"])
}

/// Packets that the rules have dropped, in both tables.
fn drops(lab: &Lab) -> Result<u64> {
    let mut sum = 0;
    for family in ["inet", "bridge"] {
        let rules = lab.remote.must(&["nft", "list", "table", family, "fireclaw"])?;
        for line in rules.lines().filter(|line| line.contains("drop") || line.contains("reject")) {
            let Some((_, rest)) = line.split_once("counter packets ") else { continue };
            let count = rest.split_whitespace().next().unwrap_or_default();
            sum += count.parse::<u64>().context("read", line)?;
        }
    }
    Ok(sum)
}
