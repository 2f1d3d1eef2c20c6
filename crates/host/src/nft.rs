//! The firewall in force: our tables put in, taken out, looked for. Runs `nft`; the text comes from
//! `fireclaw_core::render::nft`.

mod generation;
mod rules;

use std::{net::Ipv4Addr, time::Duration};

use fireclaw_core::{
    error::{Context, Error, Result},
    render::nft::{REFUSED, TABLE, removal},
    sidecar::Refusal,
};
pub use generation::Mark;
pub use rules::{Rules, compare};
use serde::Deserialize;
use serde_json::Value;

use crate::exec::{Cmd, Exec};

/// `nft` waits for the kernel's table lock and nothing else.
const DEADLINE: Duration = Duration::from_secs(30);

fn nft(about: &str) -> Cmd {
    Cmd::new("nft").deadline(DEADLINE).about(about)
}

/// Puts a ruleset into force: all of it or, when any line of it is refused, none. `nft`'s own error shows the line, so a
/// check beforehand would add nothing.
pub fn install(exec: &dyn Exec, ruleset: &str) -> Result<()> {
    exec.check(nft("the firewall").args(["-f", "-"]).stdin_bytes(ruleset)).map(drop).map_err(|error| {
        Error::new("install", "the firewall")
            .source(error)
            .hint("`fireclaw doctor` tells whether the kernel has nf_tables with bridge, nat and fib")
    })
}

/// Removes our tables. Tables that are not there are fine.
pub fn remove(exec: &dyn Exec) -> Result<()> {
    exec.check(nft("the removal of the firewall").args(["-f", "-"]).stdin_bytes(removal())).map(drop)
}

/// Whether both of our tables are there.
pub fn is_installed(exec: &dyn Exec) -> Result<bool> {
    let listed: Listing = list(exec, "tables")?;
    let has = |family: &str| {
        listed
            .objects
            .iter()
            .filter_map(|object| object.table.as_ref())
            .any(|table| table.family == family && table.name == TABLE)
    };
    Ok(has("inet") && has("bridge"))
}

/// Another firewall of the host that stops what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarding {
    /// ufw.
    Ufw,
    /// Docker, with its chain for rules of the administrator's.
    Docker,
    /// firewalld: it refuses what passes between links of no zone by a last rule, whatever its chain's policy is.
    Firewalld,
    /// Any other, as `family table chain`.
    Chain(String),
}

impl Forwarding {
    fn table(&self) -> Vec<&str> {
        match self {
            Self::Ufw | Self::Docker => vec!["ip", "filter"],
            Self::Firewalld => vec!["inet", FIREWALLD],
            Self::Chain(name) => name.split(' ').take(2).collect(),
        }
    }
}

/// firewalld's table.
const FIREWALLD: &str = "firewalld";

/// The firewalls that stop what VMs on the bridge send, until they have a rule that names it. Rules of iptables-legacy are
/// not seen.
pub fn forwarding_elsewhere(exec: &dyn Exec, bridge: &str) -> Result<Vec<Forwarding>> {
    let listed: Listing = list(exec, "chains")?;
    let chains: Vec<Chain> = listed.objects.into_iter().filter_map(|object| object.chain).collect();
    let has = |name: &str| chains.iter().any(|chain| chain.name == name);
    let mut found: Vec<Forwarding> = dropping(&chains)
        .into_iter()
        .map(|name| match name.as_str() {
            // They share one chain, and ufw's rules come first in it.
            "ip filter FORWARD" if has("ufw-before-forward") => Forwarding::Ufw,
            "ip filter FORWARD" if has("DOCKER-USER") => Forwarding::Docker,
            _ => Forwarding::Chain(name),
        })
        .collect();
    if chains.iter().any(|chain| chain.table == FIREWALLD && chain.hook.as_deref() == Some("forward")) {
        found.push(Forwarding::Firewalld);
    }
    let mut open = Vec::new();
    for firewall in found {
        let rules = exec.check(nft("rules").args(["list", "table"]).args(firewall.table()))?.text();
        if !rules.contains(&format!("\"{bridge}\"")) {
            open.push(firewall);
        }
    }
    Ok(open)
}

/// The foreign chains that drop what they do not know on its way through the host, as `family table chain`. Rules of
/// iptables-legacy are not seen.
fn dropping(chains: &[Chain]) -> Vec<String> {
    chains
        .iter()
        .filter(|chain| {
            chain.table != TABLE
                && matches!(chain.family.as_str(), "ip" | "inet")
                && chain.hook.as_deref() == Some("forward")
                && chain.policy.as_deref() == Some("drop")
        })
        .map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name))
        .collect()
}

/// What the rules in force refused to a VM, by destination, with the count of packets. Nothing when there are no rules.
pub fn refused(exec: &dyn Exec, vm: Ipv4Addr) -> Result<Vec<Refusal>> {
    let output = exec.run(nft("what was refused").args(["-j", "list", "set", "inet", TABLE, REFUSED]))?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    read_refused(&output.stdout, vm)
}

fn read_refused(json: &[u8], vm: Ipv4Addr) -> Result<Vec<Refusal>> {
    let listed: Value = serde_json::from_slice(json).context("read the answer of", "nft -j list set")?;
    let sets = listed["nftables"].as_array().into_iter().flatten();
    let elements = sets.flat_map(|object| object["set"]["elem"].as_array().into_iter().flatten());
    Ok(elements
        .filter_map(|element| {
            let [from, to, protocol, port] = element["elem"]["val"]["concat"].as_array()?.as_slice() else {
                return None;
            };
            (from.as_str()? == vm.to_string()).then(|| Refusal {
                via: protocol.as_str().map_or_else(|| protocol.to_string(), str::to_owned),
                what: format!("{}:{port}", to.as_str().unwrap_or("?")),
                why: "by the firewall".to_owned(),
                times: element["elem"]["counter"]["packets"].as_u64().unwrap_or_default(),
                last: 0,
            })
        })
        .collect())
}

fn list(exec: &dyn Exec, what: &'static str) -> Result<Listing> {
    let output = exec.check(nft(what).args(["-j", "list", what]))?;
    serde_json::from_slice(&output.stdout).context("read the answer of", format!("nft -j list {what}"))
}

/// What `nft -j list` prints (libnftables-json(5)), as far as we look at it.
#[derive(Deserialize)]
struct Listing {
    #[serde(rename = "nftables")]
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    table: Option<Table>,
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Table {
    family: String,
    name: String,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Output, fake::FakeExec};

    fn answering(stdout: &'static str) -> FakeExec {
        FakeExec::new(move |_| Ok(Output::made(0, stdout, "")))
    }

    #[test]
    fn the_ruleset_goes_in_by_stdin_in_one_run() {
        let exec = FakeExec::silent();
        install(&exec, "table inet x").unwrap();
        remove(&exec).unwrap();
        let ran = exec.ran();
        assert_eq!(ran.len(), 2);
        assert_eq!((ran[0].line.as_str(), ran[0].stdin.as_slice()), ("nft -f -", &b"table inet x"[..]));
        assert_eq!(ran[1].stdin, removal().into_bytes());
    }

    #[test]
    fn a_refused_ruleset_says_what_nft_says() {
        let exec = FakeExec::new(|_| Ok(Output::made(1, "", "/dev/stdin:3:1-5: Error: syntax error")));
        let error = install(&exec, "x").unwrap_err();
        assert!(error.one_line().contains("/dev/stdin:3:1-5"), "{}", error.one_line());
    }

    #[test]
    fn one_table_of_two_is_not_installed() {
        let both = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "fireclaw", "handle": 1}},
            {"table": {"family": "bridge", "name": "fireclaw", "handle": 1}}]}"#;
        assert!(is_installed(&answering(both)).unwrap());
        let one = r#"{"nftables": [{"table": {"family": "inet", "name": "fireclaw", "handle": 1}},
            {"table": {"family": "bridge", "name": "other", "handle": 1}}]}"#;
        assert!(!is_installed(&answering(one)).unwrap());
    }

    /// nft with these chains, and this as the rules of any table.
    fn firewall(chains: &'static str, rules: &'static str) -> FakeExec {
        FakeExec::new(move |cmd| {
            let out = if cmd.line().contains("chains") { chains } else { rules };
            Ok(Output::made(0, out, ""))
        })
    }

    const DROPS: &str = r#"{"nftables": [
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 2,
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "open", "name": "forward", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "inet", "table": "open", "name": "helper", "handle": 2}}]}"#;

    #[test]
    fn a_dropping_forward_chain_of_another_is_named_until_it_names_the_bridge() {
        let found = forwarding_elsewhere(&firewall(DROPS, "iifname \"docker0\" accept"), "fc-br0").unwrap();
        assert_eq!(found, [Forwarding::Chain("ip filter FORWARD".into())]);
        let found = forwarding_elsewhere(&firewall(DROPS, "iifname \"fc-br0\" accept"), "fc-br0").unwrap();
        assert!(found.is_empty());
    }

    #[test]
    fn firewalls_are_known_by_their_chains() {
        let docker = r#"{"nftables": [
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}]}"#;
        assert_eq!(forwarding_elsewhere(&firewall(docker, ""), "b").unwrap(), [Forwarding::Docker]);
        let ufw = r#"{"nftables": [
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "ufw-before-forward"}}]}"#;
        assert_eq!(forwarding_elsewhere(&firewall(ufw, ""), "b").unwrap(), [Forwarding::Ufw]);
        let firewalld = r#"{"nftables": [{"chain": {"family": "inet", "table": "firewalld",
            "name": "filter_FORWARD", "hook": "forward", "policy": "accept"}}]}"#;
        assert_eq!(forwarding_elsewhere(&firewall(firewalld, ""), "b").unwrap(), [Forwarding::Firewalld]);
    }
}
