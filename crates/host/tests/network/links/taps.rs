//! Taps: made, attached, handed over, refused.

use fireclaw_core::id::TapName;
use fireclaw_host::{
    network::Network,
    tap::{self, NewTap},
};
use serde_json::json;

use super::{link, names, setting, settled, spec};
use crate::lab::{self, OWNER, alone, ip, network, port};

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
        let known = lab::json("bridge -j fdb show dev ta2");
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

/// A guest that has just woken is known before it said anything; one that is not there for long is asked for again.
#[test]
fn a_guests_address_is_told_to_the_host() {
    alone(|| {
        let a = port("a", [172, 16, 0, 2]);
        // Without a bridge there is nobody to tell.
        network().learn(&spec(), a.mac, a.ip).unwrap();
        network().ensure_bridge(&spec()).unwrap();
        network().attach(&spec(), &a).unwrap();
        for _ in 0..2 {
            network().learn(&spec(), a.mac, a.ip).unwrap();
            let known = lab::json("ip -j neigh show dev fc-br0");
            assert_eq!(
                (&known[0]["dst"], &known[0]["lladdr"], &known[0]["state"]),
                (&json!("172.16.0.2"), &json!("06:fc:00:10:00:02"), &json!(["REACHABLE"])),
                "{known}"
            );
        }
        network().detach(&a.instance, &a.tap).unwrap();
    });
}
