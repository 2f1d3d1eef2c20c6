//! Bridge, taps and tables as `ip`, `bridge` and `nft` see them.

use std::net::TcpListener;

use fireclaw_core::{
    error::Kind,
    id::TapName,
    render::nft::{Egress, Options, VmRules, ruleset},
    spec::NetworkSpec,
};
use fireclaw_host::{
    exec::SystemExec,
    network::Network,
    nft,
    tap::{self, NewTap},
};
use serde_json::{Value, json};

use crate::lab::{OWNER, alone, guard, ip, json, load, network, port, rules_of, run};

fn spec() -> NetworkSpec {
    NetworkSpec::default()
}

fn other_spec() -> NetworkSpec {
    NetworkSpec::new(NetworkSpec::BRIDGE, "10.213.0.1/24", "10.213.0.0/24").expect("a network")
}

fn link(name: &str) -> Value {
    json(&format!("ip -j -d address show {name}"))[0].clone()
}

fn names() -> Vec<String> {
    let links = json("ip -j link show");
    let names = links
        .as_array()
        .expect("a list")
        .iter()
        .map(|link| link["ifname"].as_str().expect("a name").to_owned());
    names.collect()
}

fn setting(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}")).expect(path).trim().to_owned()
}

/// Leaves out what changes by itself.
fn settled(mut link: Value) -> Value {
    let object = link.as_object_mut().expect("an object");
    object.retain(|key, _| !matches!(key.as_str(), "operstate" | "flags"));
    if let Some(data) = object.get_mut("linkinfo").and_then(|info| info.get_mut("info_data")) {
        data.as_object_mut().expect("an object").retain(|key, _| !key.ends_with("timer"));
    }
    link
}

#[test]
fn a_bridge_is_made_once_and_stays_as_it_is() {
    alone(|| {
        assert_eq!(setting("ipv4/ip_forward"), "0");
        network().ensure_bridge(&spec()).unwrap();
        let made = link("fc-br0");
        assert_eq!(made["ifalias"], "fireclaw");
        assert_eq!(made["address"], "06:fc:00:10:00:01");
        assert_eq!(made["linkinfo"]["info_kind"], "bridge");
        assert_eq!(made["linkinfo"]["info_data"]["stp_state"], 0);
        assert_eq!(made["linkinfo"]["info_data"]["mcast_snooping"], 0);
        assert!(made["flags"].as_array().unwrap().contains(&json!("UP")));
        assert_eq!(made["addr_info"].as_array().unwrap().len(), 1, "no IPv6 address");
        assert_eq!(
            (&made["addr_info"][0]["local"], &made["addr_info"][0]["prefixlen"]),
            (&json!("172.16.0.1"), &json!(24))
        );
        assert_eq!(setting("ipv4/ip_forward"), "1");
        assert_eq!(setting("ipv6/conf/fc-br0/disable_ipv6"), "1");

        network().ensure_bridge(&spec()).unwrap();
        assert_eq!(settled(link("fc-br0")), settled(made));
        network().remove_bridge(&spec().bridge).unwrap();
        network().remove_bridge(&spec().bridge).unwrap();
        assert_eq!(names(), ["lo"]);
    });
}

#[test]
fn the_bridges_mac_does_not_follow_its_ports() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        let before = link("fc-br0")["address"].clone();
        // A port with the lowest MAC there is would lend it to the bridge.
        ip("link add low type veth peer name peer");
        ip("link set low address 00:00:00:00:00:01 master fc-br0 up");
        assert_eq!(link("fc-br0")["address"], before);
    });
}

#[test]
fn a_bridge_that_is_not_ours_is_refused_and_untouched() {
    alone(|| {
        ip("link add fc-br0 type bridge");
        let before = link("fc-br0");
        let error = network().ensure_bridge(&spec()).unwrap_err();
        assert_eq!(error.get_kind(), Kind::HostNotReady);
        assert!(error.get_hint().unwrap().contains("BRIDGE_NAME"));
        network().remove_bridge(&spec().bridge).unwrap();
        assert_eq!(link("fc-br0"), before);
        // What the hint says helps.
        ip("link set dev fc-br0 alias fireclaw");
        network().ensure_bridge(&spec()).unwrap();
    });
}

#[test]
fn a_bridge_that_a_crash_left_half_made_is_finished_or_removed() {
    alone(|| {
        ip("link add fc-br0 address 06:fc:00:10:00:01 type bridge");
        network().ensure_bridge(&spec()).unwrap();
        assert_eq!(link("fc-br0")["ifalias"], "fireclaw");
        ip("link del fc-br0");
        ip("link add fc-br0 address 06:fc:00:10:00:01 type bridge");
        network().remove_bridge(&spec().bridge).unwrap();
        assert_eq!(names(), ["lo"]);
    });
}

#[test]
fn the_bash_fireclaws_bridge_and_tap_are_taken_over_in_place() {
    alone(|| {
        ip("link add fc-br0 type bridge");
        ip("address add 172.16.0.1/24 dev fc-br0");
        ip("link set fc-br0 up");
        let old = port("old", [172, 16, 0, 9]);
        ip(&format!("tuntap add dev {} mode tap", old.tap));
        ip(&format!("link set {} master fc-br0 up", old.tap));
        let before = (link("fc-br0")["address"].clone(), link(old.tap.as_str())["address"].clone());

        network().ensure_bridge(&spec()).unwrap();
        network().attach(&spec(), &old).unwrap();
        let (bridge, tap) = (link("fc-br0"), link(old.tap.as_str()));
        assert_eq!((&bridge["ifalias"], &tap["ifalias"]), (&json!("fireclaw"), &json!("fireclaw:old")));
        assert_eq!(
            (&bridge["address"], &tap["address"]),
            (&before.0, &before.1),
            "guests know the gateway's MAC"
        );
        assert_eq!(tap["linkinfo"]["info_slave_data"]["isolated"], true);
        network().attach(&spec(), &port("new", [172, 16, 0, 2])).unwrap();
        network().detach(&old.instance, &old.tap).unwrap();
        assert_eq!(link("fc-br0")["address"], before.0, "and it stays when ports come and go");

        // One that was never met by this fireclaw is removed as well.
        ip(&format!("tuntap add dev {} mode tap", old.tap));
        ip(&format!("link set {} master fc-br0 up", old.tap));
        network().detach(&old.instance, &old.tap).unwrap();
        assert_eq!(names(), ["lo", "fc-br0", "tnew2"]);
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_refused_before_anything_is_made() {
    alone(|| {
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        for (add, del, said) in [
            (
                "address add 172.16.0.200/32 dev up0",
                "address del 172.16.0.200/32 dev up0",
                "up0 has the address",
            ),
            (
                "route add 172.16.0.0/20 dev up0",
                "route del 172.16.0.0/20 dev up0",
                "172.16.0.0/20 is routed to up0",
            ),
            (
                "route add 172.16.0.0/24 dev up0 table 7",
                "route del 172.16.0.0/24 table 7",
                "172.16.0.0/24 is routed",
            ),
        ] {
            ip(add);
            let error = network().ensure_bridge(&spec()).unwrap_err();
            assert!(error.one_line().contains(said), "{}", error.one_line());
            assert!(error.get_hint().unwrap().contains("SUBNET_CIDR"));
            assert!(!names().contains(&"fc-br0".to_owned()));
            ip(del);
        }
        ip("route add 128.0.0.0/1 dev up0");
        ip("address add 172.16.1.1/24 dev up0");
        network().ensure_bridge(&spec()).unwrap();
    });
}

#[test]
fn the_bridge_moves_to_another_subnet_only_when_nobody_is_on_it() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        network().ensure_bridge(&other_spec()).unwrap();
        let moved = link("fc-br0");
        assert_eq!(moved["addr_info"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&moved["addr_info"][0]["local"], &moved["address"]),
            (&json!("10.213.0.1"), &json!("06:fc:00:10:00:01"))
        );
        network().attach(&other_spec(), &port("a", [10, 213, 0, 2])).unwrap();
        let error = network().ensure_bridge(&spec()).unwrap_err();
        assert!(error.one_line().contains("10.213.0.1/24 and instances"), "{}", error.one_line());
        assert_eq!(link("fc-br0")["addr_info"], moved["addr_info"]);
    });
}

#[test]
fn a_tap_is_attached_closed_and_up() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        let a = port("a", [172, 16, 0, 2]);
        network().attach(&spec(), &a).unwrap();
        let made = link("ta2");
        assert_eq!(made["ifalias"], "fireclaw:a");
        assert_eq!(made["master"], "fc-br0");
        assert!(made["flags"].as_array().unwrap().contains(&json!("UP")));
        assert_eq!(made["linkinfo"]["info_kind"], "tun");
        let tun = &made["linkinfo"]["info_data"];
        assert_eq!(
            (&tun["type"], &tun["pi"], &tun["vnet_hdr"], &tun["persist"]),
            (&json!("tap"), &json!(false), &json!(true), &json!(true))
        );
        assert_eq!(tun["user"], OWNER, "{tun}");
        let slave = &made["linkinfo"]["info_slave_data"];
        for (option, value) in [
            ("isolated", true),
            ("hairpin", false),
            ("learning", false),
            ("flood", false),
            ("mcast_flood", false),
            ("bcast_flood", true),
        ] {
            assert_eq!(slave[option], value, "{option} in {slave}");
        }
        let known = json("bridge -j fdb show dev ta2");
        let pinned = known
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["mac"] == "06:fc:00:10:00:02")
            .expect("a MAC");
        assert_eq!(pinned["state"], "static");
        assert_eq!(setting("ipv6/conf/ta2/disable_ipv6"), "1");

        network().attach(&spec(), &a).unwrap();
        assert_eq!(settled(link("ta2")), settled(made));
        network().remove_bridge(&spec().bridge).unwrap();
        assert!(names().contains(&"fc-br0".to_owned()), "a bridge with a port stays");
        network().detach(&a.instance, &a.tap).unwrap();
        network().detach(&a.instance, &a.tap).unwrap();
        network().remove_bridge(&spec().bridge).unwrap();
        assert_eq!(names(), ["lo"]);
    });
}

#[test]
fn a_tap_that_is_in_use_is_attached_again_without_a_break() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        let a = port("a", [172, 16, 0, 2]);
        network().attach(&spec(), &a).unwrap();
        let _vmm = tap::open(&a.tap).unwrap();
        network().attach(&spec(), &a).unwrap();
        let busy = tap::open(&a.tap).unwrap_err();
        assert!(busy.one_line().contains("another process uses it"), "{}", busy.one_line());
        // Another owner cannot be set under a running VMM.
        assert!(
            network().attach(&spec(), &fireclaw_host::network::Port { owner_uid: 1, ..a.clone() }).is_err()
        );
        network().detach(&a.instance, &a.tap).unwrap();
        assert_eq!(names(), ["lo", "fc-br0"]);
    });
}

#[test]
fn a_tap_changes_its_owner_when_nobody_uses_it() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        let a = port("a", [172, 16, 0, 2]);
        network().attach(&spec(), &a).unwrap();
        network().attach(&spec(), &fireclaw_host::network::Port { owner_uid: 77, ..a }).unwrap();
        assert_eq!(link("ta2")["linkinfo"]["info_data"]["user"], 77);
    });
}

#[test]
fn links_of_others_are_refused_and_left_alone() {
    alone(|| {
        network().ensure_bridge(&spec()).unwrap();
        let a = port("a", [172, 16, 0, 2]);
        let refused = |what: &str| {
            let before = link("ta2");
            let error = network().attach(&spec(), &a).unwrap_err();
            assert!(error.one_line().contains("cannot create tap ta2"), "{what}: {}", error.one_line());
            network().detach(&a.instance, &a.tap).unwrap();
            assert_eq!(settled(link("ta2")), settled(before), "{what}");
            ip("link del ta2");
        };
        ip("link add ta2 type veth peer name other");
        refused("a veth");
        ip("tuntap add dev ta2 mode tap");
        refused("a tap that hangs nowhere");
        ip("tuntap add dev ta2 mode tap");
        ip("link set ta2 alias fireclaw:b");
        refused("another instance's tap");
        ip("link add theirs type bridge");
        ip("tuntap add dev ta2 mode tap");
        ip("link set ta2 alias lab master theirs");
        refused("a tap that another marked");
    });
}

#[test]
fn without_a_bridge_nothing_is_attached() {
    alone(|| {
        let a = port("a", [172, 16, 0, 2]);
        assert!(network().attach(&spec(), &a).unwrap_err().one_line().contains("bridge fc-br0"));
        assert_eq!(names(), ["lo"]);
    });
}

#[test]
fn a_tap_that_is_not_kept_vanishes() {
    alone(|| {
        let name: TapName = "tx1".parse().unwrap();
        let new = NewTap::make(&name).unwrap();
        assert_eq!(names(), ["lo", "tx1"]);
        assert!(NewTap::make(&name).is_err(), "a taken name");
        drop(new);
        assert_eq!(names(), ["lo"]);
        let error = tap::open(&name).unwrap_err();
        assert!(error.one_line().contains("no such link"), "{}", error.one_line());
        assert_eq!(names(), ["lo"], "opening makes none");
    });
}

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

        let broken = ruleset(&spec(), &[], &Options::default()) + "nonsense\n";
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
        network().install_firewall(&ruleset(&spec(), &vms, &Options::default())).unwrap();
        network().install_firewall(&ruleset(&spec(), &[], &Options::default())).unwrap();
    });
}

#[test]
fn a_forward_chain_that_drops_is_found() {
    alone(|| {
        let exec = SystemExec::default();
        guard(&[&port("a", [172, 16, 0, 2])], Egress::Public);
        assert!(nft::forward_is_dropped_elsewhere(&exec).unwrap().is_empty());
        load("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }");
        assert_eq!(nft::forward_is_dropped_elsewhere(&exec).unwrap(), ["ip filter FORWARD"]);
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
