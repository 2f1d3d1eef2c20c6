//! Frames that a guest forges: another's addresses, tags, other protocols, ARP, and what a bridge believes of them.

use std::time::Duration;

use fireclaw_core::spec::NetworkSpec;
use fireclaw_host::{
    interrupt::Interrupt,
    network::Network,
    wait::{Probed, Requirement, until},
};

use super::{none_arrives, on_stage, set_guard, six};
use crate::{
    frame::{self, BROADCAST, Ip, Mac},
    guest::{Ear, GATEWAY, SERVICE, gateway_mac},
    lab::{SERVER, UPLINK, dotted, ip, json, network, run, sysctl},
};

/// Not given to any VM.
const NOBODY: Ip = [172, 16, 0, 77];

#[test]
fn only_its_own_addresses_are_taken_from_a_tap() {
    on_stage(|_, scene| {
        let a = &scene.a;
        none_arrives(scene, |named| {
            let from = |what: &str, mac: Mac, ip: Ip| {
                let name = named(what);
                let packet = frame::udp((ip, 5555), (SERVER, SERVICE), name.as_bytes());
                (name, frame::ethernet(gateway_mac(), mac, 0x0800, &packet), &scene.internet)
            };
            vec![
                from("a free address", a.mac(), NOBODY),
                from("the other VM's address", a.mac(), scene.b.ip()),
                from("the other VM's MAC", scene.b.mac(), a.ip()),
                from("the other VM's both", scene.b.mac(), scene.b.ip()),
                from("a made-up MAC", [2, 3, 4, 5, 6, 7], a.ip()),
            ]
        });
    });
}

#[test]
fn tags_and_other_protocols_are_dropped() {
    on_stage(|_, scene| {
        let a = &scene.a;
        none_arrives(scene, |named| {
            let tagged = |what: &str, tags: &[u16]| {
                let name = named(what);
                let frame =
                    tags.iter().fold(a.datagram(GATEWAY, &name), |frame, tag| frame::tagged(&frame, *tag, 0));
                (name, frame, &scene.host)
            };
            vec![
                tagged("priority tag", &[0x8100]),
                tagged("service tag", &[0x88a8]),
                tagged("two tags", &[0x8100, 0x88a8]),
            ]
        });
        // The same tag around what the guest may send without it.
        none_arrives(scene, |named| {
            let name = named("tagged to the internet");
            vec![(name.clone(), frame::tagged(&a.datagram(SERVER, &name), 0x8100, 0), &scene.internet)]
        });
    });
}

#[test]
fn ipv6_is_dropped_even_where_the_host_speaks_it() {
    on_stage(|lab, scene| {
        sysctl("ipv6/conf/fc-br0/disable_ipv6", "0");
        sysctl("ipv6/conf/fc-br0/accept_dad", "0");
        ip("address add fd00::1/64 dev fc-br0 nodad");
        let ear = Ear::at_six(&lab.host, 9006);
        none_arrives(scene, |named| {
            let name = named("IPv6");
            let packet = frame::udp6((six(0, 2), 5555), (six(0, 1), 9006), name.as_bytes());
            vec![(name, frame::ethernet(gateway_mac(), scene.a.mac(), 0x86dd, &packet), &ear)]
        });
    });
}

/// Whether the host comes to believe that this MAC has this address, told again and again.
fn believes(mac: Mac, address: Ip, patience: Duration, tell: impl Fn()) -> bool {
    let (address, mac) = (dotted(address), frame::written(mac));
    let requirement =
        Requirement { description: "a neighbour".into(), deadline: patience, hint: String::new() };
    until(&requirement, &Interrupt::default(), || {
        tell();
        let table = json("ip -j neighbour show dev fc-br0");
        let is_there = table
            .as_array()
            .expect("a list")
            .iter()
            .any(|entry| entry["dst"] == address.as_str() && entry["lladdr"] == mac.as_str());
        if is_there { Probed::Ready(()) } else { Probed::NotYet(String::new()) }
    })
    .is_ok()
}

#[test]
fn arp_is_believed_about_the_own_addresses_only() {
    on_stage(|_, scene| {
        let (a, b) = (&scene.a, &scene.b);
        let false_mac = [2, 3, 4, 5, 6, 7];
        // An entry may be overwritten at once.
        sysctl("ipv4/neigh/fc-br0/locktime", "0");
        for guarded in [false, true] {
            set_guard(scene, guarded);
            for operation in [1, 2] {
                for (what, frame_mac, sender, lie) in [
                    ("honest", a.mac(), (a.mac(), a.ip()), false),
                    ("a free address", a.mac(), (a.mac(), NOBODY), true),
                    ("the other VM's address", a.mac(), (a.mac(), b.ip()), true),
                    ("the gateway's address", a.mac(), (a.mac(), GATEWAY), true),
                    ("a false MAC inside", a.mac(), (false_mac, a.ip()), true),
                    ("a false MAC outside and inside", false_mac, (false_mac, a.ip()), true),
                ] {
                    ip("neighbour flush dev fc-br0 nud all");
                    // An answer is believed only about somebody who was asked for.
                    ip(&format!(
                        "neighbour add {} lladdr 02:00:00:00:00:01 nud stale dev fc-br0",
                        dotted(sender.1)
                    ));
                    let packet = frame::arp(operation, sender, (gateway_mac(), GATEWAY));
                    let told = frame::ethernet(gateway_mac(), frame_mac, 0x0806, &packet);
                    let expected = !lie || !guarded;
                    let patience = Duration::from_millis(if expected { 3000 } else { 20 });
                    let believed = believes(sender.0, sender.1, patience, || a.send(&told));
                    assert_eq!(believed, expected, "{what}, operation {operation}, guarded: {guarded}");
                }
            }
        }
    });
}

#[test]
fn arp_in_a_frame_that_the_bridge_passes_over_is_not_answered() {
    on_stage(|_, scene| {
        let a = &scene.a;
        for link in ["fc-br0", a.port.tap.as_str()] {
            sysctl(&format!("ipv4/conf/{link}/arp_ignore"), "0");
        }
        let question = frame::arp(1, (a.mac(), a.ip()), ([0; 6], UPLINK));
        for guarded in [false, true] {
            set_guard(scene, guarded);
            a.send(&frame::ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e], a.mac(), 0x0806, &question));
            let answer = |frame: &[u8]| (frame[12..14] == [8, 6] && frame[28..32] == UPLINK).then_some(());
            let answered = if guarded { a.receive_shortly(answer) } else { a.receive(answer) };
            assert_eq!(answered.is_some(), !guarded, "guarded: {guarded}");
        }
    });
}

#[test]
fn the_bridge_is_taught_nothing() {
    on_stage(|_, scene| {
        let (a, b) = (&scene.a, &scene.b);
        let owner = || {
            let table = json("bridge -j fdb show br fc-br0");
            let mac = b.port.mac.to_string();
            let entry = table.as_array().expect("a list").iter().find(|entry| entry["mac"] == mac.as_str());
            entry.map(|entry| entry["ifname"].as_str().expect("a name").to_owned())
        };
        let forget = || {
            // What the bridge has learnt, or what we have told it.
            if let Some(port) = owner() {
                run(&format!("bridge fdb del {} dev {port} master", b.port.mac));
            }
        };
        // Each comes from the other VM's MAC.
        let packet = frame::udp((a.ip(), 5555), (SERVER, SERVICE), b"x");
        let honest = frame::arp(1, (a.mac(), a.ip()), ([0; 6], GATEWAY));
        for (what, frame) in [
            ("LLDP", frame::ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e], b.mac(), 0x88cc, b"lldp")),
            ("another group address", frame::ethernet([0x01, 0x80, 0xc2, 0, 0, 0x03], b.mac(), 0x888e, b"x")),
            ("a packet", frame::ethernet(gateway_mac(), b.mac(), 0x0800, &packet)),
            ("an ARP question", frame::ethernet(BROADCAST, b.mac(), 0x0806, &honest)),
        ] {
            // An open bridge believes it.
            set_guard(scene, false);
            forget();
            run(&format!("bridge link set dev {} learning on", a.port.tap));
            a.send(&frame);
            assert_eq!(owner().as_deref(), Some(a.port.tap.as_str()), "{what} works on an open bridge");
            // Under our rules it sees none of these.
            set_guard(scene, true);
            forget();
            a.send(&frame);
            assert_eq!(owner(), None, "{what}, guarded");
            // And with our port options it would not learn.
            set_guard(scene, false);
            for guest in [a, b] {
                network().attach(&NetworkSpec::default(), &guest.port).expect("attach");
            }
            a.send(&frame);
            assert_eq!(owner().as_deref(), Some(b.port.tap.as_str()), "{what}, on a port of ours");
        }
    });
}
