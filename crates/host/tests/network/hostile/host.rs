//! Ways to the host itself: its addresses, its published ports, and what it does offer.

use fireclaw_core::render::nft::{Egress, Options};
use fireclaw_host::network::Network;

use super::{none_arrives, on_stage};
use crate::{
    frame::{self, BROADCAST, Ip, Mac},
    guest::{GATEWAY, SERVICE},
    lab::{SERVER, UPLINK, guard, guard_with, ip, json, load, network, rules_of},
};

#[test]
fn the_host_itself_is_out_of_reach() {
    on_stage(|_, scene| {
        let a = &scene.a;
        none_arrives(scene, |named| {
            let to = |what: &str, address: Ip| {
                let name = named(what);
                (name.clone(), a.datagram(address, &name), &scene.host)
            };
            let by_mac = |what: &str, mac: Mac, address: Ip| {
                let name = named(what);
                let packet = frame::udp((a.ip(), 5555), (address, SERVICE), name.as_bytes());
                (name, frame::ethernet(mac, a.mac(), 0x0800, &packet), &scene.host)
            };
            vec![
                to("bridge", GATEWAY),
                to("uplink", UPLINK),
                by_mac("subnet broadcast", BROADCAST, [172, 16, 0, 255]),
                by_mac("broadcast", BROADCAST, [255; 4]),
                by_mac("broadcast frame", BROADCAST, GATEWAY),
                // The bridge hands these to the host past its `prerouting` hook, and the host sees them on the tap.
                by_mac("LLDP frame", [0x01, 0x80, 0xc2, 0, 0, 0x0e], GATEWAY),
                by_mac("LLDP frame to the uplink", [0x01, 0x80, 0xc2, 0, 0, 0x03], UPLINK),
            ]
        });
    });
}

#[test]
fn a_published_port_of_the_host_is_out_of_reach() {
    on_stage(|_, scene| {
        load(
            "table ip published {
                chain prerouting {
                    type nat hook prerouting priority dstnat;
                    udp dport 7777 dnat to 203.0.113.10:9000
                    udp dport 7778 redirect to :9000
                }
            }",
        );
        none_arrives(scene, |named| {
            let to = |what: &str, address: Ip| {
                let name = named(what);
                (name.clone(), scene.a.datagram_to(address, 7777, &name), &scene.internet)
            };
            let redirected = named("redirected to the host");
            let frame = scene.a.datagram_to(SERVER, 7778, &redirected);
            vec![to("at the bridge", GATEWAY), to("at the uplink", UPLINK), (redirected, frame, &scene.host)]
        });
    });
}

#[test]
fn a_tap_that_is_no_port_reaches_nothing() {
    on_stage(|_, scene| {
        let tap = scene.a.port.tap.as_str();
        ip(&format!("link set {tap} nomaster"));
        let mac: Mac = json(&format!("ip -j link show {tap}"))[0]["address"]
            .as_str()
            .and_then(|text| text.parse::<fireclaw_core::id::MacAddr>().ok())
            .expect("the tap's own MAC")
            .octets();
        none_arrives(scene, |named| {
            let to = |what: &str, address: Ip, ear| {
                let name = named(what);
                let packet = frame::udp((scene.a.ip(), 5555), (address, SERVICE), name.as_bytes());
                (name, frame::ethernet(mac, scene.a.mac(), 0x0800, &packet), ear)
            };
            vec![to("host", UPLINK, &scene.host), to("internet", SERVER, &scene.internet)]
        });
    });
}

#[test]
fn what_a_guest_had_open_with_the_host_is_cut() {
    on_stage(|_, scene| {
        // Somebody tracks connections on this host; ours is not in force yet.
        load("table inet other { chain c { type filter hook prerouting priority 0; ct state new accept; } }");
        scene.a.send(&scene.a.datagram(GATEWAY, "before"));
        let (_, from) = scene.host.hear().expect("no firewall yet");
        scene.host.say("answer", (scene.a.ip(), from.port()));
        assert_eq!(scene.a.receive_datagram().as_deref(), Some("answer"));
        guard(&[&scene.a.port], Egress::Public);
        scene.a.send(&scene.a.datagram(GATEWAY, "after"));
        assert!(!scene.host.overhears("after"));
    });
}

#[test]
fn a_service_of_the_host_is_open_on_its_port_only() {
    on_stage(|_, scene| {
        let services = Options { host_services: vec![(GATEWAY.into(), 8080)] };
        guard_with(&[rules_of(&scene.a.port, Egress::None)], &services);
        let _open = std::net::TcpListener::bind(("0.0.0.0", 8080)).expect("a free port");
        let _shut = std::net::TcpListener::bind(("0.0.0.0", 8081)).expect("a free port");
        let answers = |from: u16, to: (Ip, u16)| {
            scene.a.send(&scene.a.routed(&frame::syn((scene.a.ip(), from), to)));
            let flags = |frame: &[u8]| {
                let is_answer =
                    frame[12..14] == [8, 0] && frame[23] == 6 && frame[36..38] == from.to_be_bytes();
                is_answer.then(|| frame[47])
            };
            if to == (GATEWAY, 8080) { scene.a.receive(flags) } else { scene.a.receive_shortly(flags) }
        };
        assert_eq!(answers(4001, (GATEWAY, 8080)), Some(0x12), "SYN and ACK");
        assert_eq!(answers(4002, (GATEWAY, 8081)), None);
        assert_eq!(answers(4003, (UPLINK, 8080)), None);
        scene.a.send(&scene.a.routed(&frame::echo_request(scene.a.ip(), GATEWAY)));
        let echo = |frame: &[u8]| (frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0).then_some(());
        assert_eq!(scene.a.receive_shortly(echo), None);
        network().remove_firewall().expect("no firewall");
        scene.a.send(&scene.a.routed(&frame::echo_request(scene.a.ip(), GATEWAY)));
        assert_eq!(scene.a.receive(echo), Some(()));
    });
}
