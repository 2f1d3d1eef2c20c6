//! The tables in force, and what is read of the host.

use std::net::TcpListener;

use fireclaw_core::render::nft::{Egress, Options, VmRules, ruleset};
use fireclaw_host::{exec::SystemExec, network::Network, nft};

use super::spec;
use crate::lab::{alone, guard, ip, json, load, network, port, rules_of, run};

#[test]
fn our_tables_come_and_go_and_others_stay() {
    alone(|| {
        let other = "table inet other { chain c { type filter hook input priority 0; policy accept; } }";
        load(other);
        assert!(!network().has_firewall().unwrap());
        guard(&[&port("a", [172, 16, 0, 2]), &port("b", [172, 16, 0, 3])], Egress::Public);
        assert!(network().has_firewall().unwrap());
        let elements = |set: &str| {
            let listed = json(&format!("nft -j list set {set}"));
            listed["nftables"][1]["set"]["elem"].as_array().map_or(0, Vec::len)
        };
        assert_eq!((elements("inet fireclaw vms"), elements("bridge fireclaw cards")), (2, 2));
        guard(&[&port("a", [172, 16, 0, 2])], Egress::Public);
        assert_eq!((elements("inet fireclaw vms"), elements("bridge fireclaw cards")), (1, 1));

        let broken = ruleset(&[], &Options::default()) + "nonsense\n";
        let error = network().install_firewall(&broken).unwrap_err();
        assert!(
            error.one_line().contains("nonsense") || error.one_line().contains("syntax"),
            "{}",
            error.one_line()
        );
        assert_eq!(elements("inet fireclaw vms"), 1, "a refused ruleset changes nothing");

        network().remove_firewall().unwrap();
        network().remove_firewall().unwrap();
        assert!(!network().has_firewall().unwrap());
        assert_eq!(run("nft list tables"), "table inet other");
    });
}

#[test]
fn the_ruleset_of_250_vms_and_of_none_loads() {
    alone(|| {
        let vms: Vec<VmRules> = (2..=251)
            .map(|last| rules_of(&port(&format!("bot-{last}"), [172, 16, 0, last]), Egress::Open))
            .collect();
        network().install_firewall(&ruleset(&[(spec(), vms)], &Options::default())).unwrap();
        network().install_firewall(&ruleset(&[], &Options::default())).unwrap();
    });
}

#[test]
fn a_forward_chain_that_drops_is_found() {
    alone(|| {
        let exec = SystemExec::default();
        guard(&[&port("a", [172, 16, 0, 2])], Egress::Public);
        assert!(nft::forwarding_elsewhere(&exec, "fc-br0").unwrap().is_empty());
        load("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }");
        assert_eq!(
            nft::forwarding_elsewhere(&exec, "fc-br0").unwrap(),
            [nft::Forwarding::Chain("ip filter FORWARD".into())]
        );
    });
}

#[test]
fn links_and_listeners_are_those_of_the_namespace() {
    alone(|| {
        let listener = TcpListener::bind("127.0.0.1:7171").unwrap();
        ip("link set lo down");
        assert_eq!(network().listening_ports().unwrap().into_iter().collect::<Vec<_>>(), [7171]);
        assert_eq!(network().links().unwrap().into_iter().collect::<Vec<_>>(), ["lo"]);
        drop(listener);
        assert!(network().listening_ports().unwrap().is_empty());
    });
}
