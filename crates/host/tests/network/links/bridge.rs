//! The bridge: made, found, taken over, refused.

use fireclaw_core::error::Kind;
use fireclaw_host::network::Network;
use serde_json::json;

use super::{link, names, other_spec, setting, settled, spec};
use crate::lab::{alone, ip, network, port};

#[test]
fn a_bridge_is_made_once_and_stays_as_it_is() {
    alone(|| {
        // A new namespace has the setting of the first one, which an earlier instance may have switched on.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
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
