//! The tables in force, and what is read of the host.

use std::net::TcpListener;

use fireclaw_core::render::nft::{Egress, Options, VmRules, ruleset};
use fireclaw_host::{
    exec::SystemExec,
    network::Network,
    nft::{self, Rules},
};

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

/// Each thing that an administrator or a firewall's reload may do to us, and what is said of it.
#[test]
fn what_somebody_did_to_our_tables_is_named() {
    alone(|| {
        let vm = |id: &str, last, egress| {
            let sidecar = fireclaw_core::render::nft::Sidecar {
                port: 18891,
                redirected: [80, 443].into(),
                direct: vec![("10.1.0.0/16".parse().unwrap(), 5432)],
            };
            VmRules { sidecar: Some(sidecar), ..rules_of(&port(id, [172, 16, 0, last]), egress) }
        };
        let text = |vms: Vec<VmRules>| ruleset(&[(spec(), vms)], &Options::default());
        let wanted =
            text(vec![vm("a", 2, Egress::Allow), vm("b", 3, Egress::Public), vm("c", 4, Egress::Open)]);
        let install = || network().install_firewall(&wanted).unwrap();
        let look = || network().rules(&wanted).unwrap();
        assert_eq!(look(), Rules::Gone(vec!["inet fireclaw".into(), "bridge fireclaw".into()]));
        install();
        assert_eq!(look(), Rules::InForce);
        // Neither others' rules nor what was counted and refused is a difference.
        load("table inet other { chain c { type filter hook input priority 0; policy accept; } }");
        run("nft add element inet fireclaw refused { 172.16.0.2 . 10.0.0.1 . tcp . 80 }");
        assert_eq!(look(), Rules::InForce);
        assert_eq!(look(), Rules::InForce, "a look changes nothing");

        let first_rule = || {
            let listed = json("nft -j list chain inet fireclaw from_vm");
            listed["nftables"]
                .as_array()
                .unwrap()
                .iter()
                .find_map(|one| one["rule"]["handle"].as_u64())
                .unwrap()
        };
        let cases: [(&dyn Fn() -> String, &str); 9] = [
            (&|| "flush chain inet fireclaw from_vm".into(), "inet chain from_vm"),
            (&|| format!("delete rule inet fireclaw from_vm handle {}", first_rule()), "inet chain from_vm"),
            (&|| "insert rule inet fireclaw from_vm accept".into(), "inet chain from_vm"),
            (&|| "flush set bridge fireclaw cards".into(), "bridge set cards"),
            (&|| "delete element inet fireclaw named_egress { 172.16.0.2 }".into(), "inet set named_egress"),
            (
                &|| "add element inet fireclaw direct { 172.16.0.2 . 0.0.0.0/0 . 22 }".into(),
                "inet set direct",
            ),
            (&|| "flush map inet fireclaw sidecar_of".into(), "inet map sidecar_of"),
            (&|| "add chain inet fireclaw mine".into(), "inet chain mine"),
            (&|| "add chain inet fireclaw forward { policy drop ; }".into(), "inet chain forward"),
        ];
        for (did, what) in cases {
            install();
            let did = did();
            run(&format!("nft {did}"));
            assert_eq!(look(), Rules::Changed(vec![what.into()]), "{did}");
        }
        run("nft delete table bridge fireclaw");
        assert_eq!(look(), Rules::Gone(vec!["bridge fireclaw".into()]));
        run("nft flush ruleset");
        assert_eq!(look(), Rules::Gone(vec!["inet fireclaw".into(), "bridge fireclaw".into()]));

        // The rules of other records.
        network().install_firewall(&text(vec![vm("a", 2, Egress::Allow)])).unwrap();
        let Rules::Changed(parts) = look() else { panic!("{:?}", look()) };
        assert!(
            parts.contains(&"inet set vms".into()) && parts.contains(&"bridge set taps".into()),
            "{parts:?}"
        );
        assert!(parts.iter().all(|part| !part.contains("chain")), "{parts:?}");
    });
}

/// What is in force is left alone with all that it has counted, and put back after anybody has changed any rule.
#[test]
fn a_ruleset_that_is_in_force_keeps_its_counts() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let network = network().remembering(dir.path().join("mark"));
        let vms = |last| vec![rules_of(&port("a", [172, 16, 0, last]), Egress::Public)];
        let text = |last| ruleset(&[(spec(), vms(last))], &Options::default());
        let handles = || run("nft --handle list table inet fireclaw");
        network.install_firewall(&text(2)).unwrap();
        let first = handles();
        network.install_firewall(&text(2)).unwrap();
        assert_eq!(handles(), first, "it was put in again");
        // Another ruleset, and the first one again.
        network.install_firewall(&text(3)).unwrap();
        assert_eq!(network.rules(&text(3)).unwrap(), Rules::InForce);
        network.install_firewall(&text(2)).unwrap();
        assert_eq!(network.rules(&text(2)).unwrap(), Rules::InForce);
        for did in [
            "flush ruleset",
            "delete table bridge fireclaw",
            "flush chain inet fireclaw from_vm",
            "add table ip other",
        ] {
            run(&format!("nft {did}"));
            network.install_firewall(&text(2)).unwrap();
            assert_eq!(network.rules(&text(2)).unwrap(), Rules::InForce, "after {did}");
        }
        network.remove_firewall().unwrap();
        network.install_firewall(&text(2)).unwrap();
        assert_eq!(network.rules(&text(2)).unwrap(), Rules::InForce);
        // One that failed is not remembered, and neither is what was there before it.
        network.install_firewall(&format!("{}garbage\n", text(2))).unwrap_err();
        network.install_firewall(&text(2)).unwrap();
        assert_eq!(network.rules(&text(2)).unwrap(), Rules::InForce);
    });
}

#[test]
fn the_ruleset_of_250_vms_and_of_none_loads() {
    alone(|| {
        let vms: Vec<VmRules> = (2..=251)
            .map(|last| rules_of(&port(&format!("bot-{last}"), [172, 16, 0, last]), Egress::Open))
            .collect();
        let many = ruleset(&[(spec(), vms)], &Options::default());
        network().install_firewall(&many).unwrap();
        assert_eq!(network().rules(&many).unwrap(), Rules::InForce);
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
