//! What root in a guest tries. Each frame is sent twice: without the firewall it must arrive, or the test proves
//! nothing; with it, it must not.

use std::time::Duration;

use fireclaw_core::render::nft::{Egress, Options};
use fireclaw_host::{
    interrupt::Interrupt,
    network::Network,
    wait::{Probed, Requirement, until},
};

use crate::{
    frame::{self, BROADCAST, Ip, Mac},
    guest::{Ear, GATEWAY, Guest, SERVICE, gateway_mac},
    lab::{
        FORBIDDEN, Lab, METADATA, SERVER, UPLINK, dotted, guard, guard_with, ip, json, load, network,
        rules_of, run, sysctl,
    },
};

/// Not given to any VM.
const NOBODY: Ip = [172, 16, 0, 77];

struct Scene {
    a: Guest,
    b: Guest,
    host: Ear,
    internet: Ear,
}

/// Two guests on a host. The scene runs twice: with bridged packets shown to the IP hooks (`br_netfilter` is there) and
/// without.
fn on_stage(play: impl Fn(&Lab, &Scene) + Sync) {
    for bridge_netfilter in ["0", "1"] {
        let lab = Lab::make();
        let (host, internet) = (Ear::at(&lab.host, SERVICE), Ear::at(&lab.internet, SERVICE));
        lab.host.run(|| {
            if std::path::Path::new("/proc/sys/net/bridge").exists() {
                sysctl("bridge/bridge-nf-call-iptables", bridge_netfilter);
            }
            let (a, b) = (Guest::boot("a", [172, 16, 0, 2]), Guest::boot("b", [172, 16, 0, 3]));
            play(&lab, &Scene { a, b, host, internet });
        });
    }
}

fn set_guard(scene: &Scene, guarded: bool) {
    if guarded {
        guard(&[&scene.a.port, &scene.b.port], Egress::Public);
    } else {
        network().remove_firewall().expect("no firewall");
    }
}

/// What is sent, as what frame, and who must not hear it.
type Attack<'a> = (String, Vec<u8>, &'a Ear);

fn none_arrives<'a>(scene: &'a Scene, attacks: impl Fn(&dyn Fn(&str) -> String) -> Vec<Attack<'a>>) {
    for guarded in [false, true] {
        set_guard(scene, guarded);
        // The data tells the attacks apart, and those of one round from the other's.
        for (name, frame, ear) in attacks(&|name| format!("{name} {guarded}")) {
            scene.a.send(&frame);
            assert_eq!(ear.heard(&name), !guarded, "arrived or not: {name}");
        }
    }
}

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
        let (own, host) = (
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        );
        none_arrives(scene, |named| {
            let name = named("IPv6");
            let packet = frame::udp6((own, 5555), (host, 9006), name.as_bytes());
            vec![(name, frame::ethernet(gateway_mac(), scene.a.mac(), 0x86dd, &packet), &ear)]
        });
    });
}

#[test]
fn private_and_metadata_addresses_are_out_of_reach() {
    on_stage(|_, scene| {
        none_arrives(scene, |named| {
            FORBIDDEN
                .iter()
                .map(|to| {
                    let name = named(&format!("{to:?}"));
                    (name.clone(), scene.a.datagram(*to, &name), &scene.internet)
                })
                .collect()
        });
        // The guest is told, so that its programs fail at once.
        scene.a.send(&scene.a.datagram(METADATA, "refused"));
        let unreachable =
            |frame: &[u8]| (frame[12..14] == [8, 0] && frame[23] == 1).then(|| frame[34..36].to_vec());
        assert_eq!(scene.a.receive(unreachable).expect("an ICMP error"), [3, 13]);
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
                }
            }",
        );
        none_arrives(scene, |named| {
            let to = |what: &str, address: Ip| {
                let name = named(what);
                (name.clone(), scene.a.datagram_to(address, 7777, &name), &scene.internet)
            };
            vec![to("at the bridge", GATEWAY), to("at the uplink", UPLINK)]
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
fn a_frame_to_the_bridges_group_address_teaches_it_nothing() {
    on_stage(|_, scene| {
        let stolen = scene.b.mac();
        let lldp = frame::ethernet([0x01, 0x80, 0xc2, 0, 0, 0x0e], stolen, 0x88cc, b"lldp");
        let owner = || {
            let table = json("bridge -j fdb show br fc-br0");
            let mac = scene.b.port.mac.to_string();
            table
                .as_array()
                .expect("a list")
                .iter()
                .find(|entry| entry["mac"] == mac.as_str())
                .map(|entry| entry["ifname"].as_str().expect("a name").to_owned())
        };
        let (a, b) = (scene.a.port.tap.as_str(), scene.b.port.tap.as_str());
        // Without our port options and firewall, the bridge believes it.
        run(&format!("bridge fdb del {} dev {b} master", scene.b.port.mac));
        run(&format!("bridge link set dev {a} learning on"));
        scene.a.send(&lldp);
        assert_eq!(owner().as_deref(), Some(a), "the attack works on an open bridge");
        // With them, not.
        network().attach(&fireclaw_core::spec::NetworkSpec::default(), &scene.b.port).expect("attach");
        network().attach(&fireclaw_core::spec::NetworkSpec::default(), &scene.a.port).expect("attach");
        scene.a.send(&lldp);
        assert_eq!(owner().as_deref(), Some(b));
    });
}

#[test]
fn another_vm_is_out_of_reach_by_either_of_two_ways() {
    on_stage(|_, scene| {
        let (a, b) = (&scene.a, &scene.b);
        let packet = |data: &str| frame::udp((a.ip(), 5555), (b.ip(), SERVICE), data.as_bytes());
        let isolate = |how: &str| {
            for guest in [a, b] {
                run(&format!("bridge link set dev {} isolated {how}", guest.port.tap));
            }
        };
        for (isolated, guarded, arrives) in
            [(false, false, true), (true, false, false), (false, true, false), (true, true, false)]
        {
            isolate(if isolated { "on" } else { "off" });
            set_guard(scene, guarded);
            let name = format!("isolated {isolated}, guarded {guarded}");
            for to in [b.mac(), BROADCAST] {
                a.send(&frame::ethernet(to, a.mac(), 0x0800, &packet(&name)));
                let heard = b.receive_shortly(|frame| b.datagram_in(frame).filter(|data| *data == name));
                assert_eq!(heard.is_some(), arrives, "by the bridge, {name}");
            }
        }
        // By the gateway, which routes packets out of the port that they came in by.
        isolate("on");
        for guarded in [false, true] {
            set_guard(scene, guarded);
            let name = format!("routed, guarded {guarded}");
            a.send(&a.routed(&packet(&name)));
            let wanted = |frame: &[u8]| b.datagram_in(frame).filter(|data| *data == name);
            let heard = if guarded { b.receive_shortly(wanted) } else { b.receive(wanted) };
            assert_eq!(heard.is_some(), !guarded, "{name}");
        }
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
        assert!(!scene.host.heard("after"));
    });
}

#[test]
fn nobody_outside_begins_a_connection_to_a_vm() {
    on_stage(|lab, scene| {
        lab.internet.run(|| ip("route add 172.16.0.0/24 via 198.51.100.2"));
        for guarded in [false, true] {
            set_guard(scene, guarded);
            let name = format!("from outside, guarded {guarded}");
            scene.internet.say(&name, (scene.a.ip(), 18789));
            let wanted = |frame: &[u8]| scene.a.datagram_in(frame).filter(|data| *data == name);
            let heard = if guarded { scene.a.receive_shortly(wanted) } else { scene.a.receive(wanted) };
            assert_eq!(heard.is_some(), !guarded, "{name}");
        }
    });
}

#[test]
fn policies_differ_by_vm_and_the_metadata_address_by_none() {
    on_stage(|lab, scene| {
        let dns = Ear::at(&lab.internet, 53);
        let (resolver, private) = ([10, 0, 0, 53], [10, 99, 0, 1]);
        for (egress, public_is_open, private_is_open) in
            [(Egress::Public, true, false), (Egress::Open, true, true), (Egress::None, false, false)]
        {
            guard_with(
                &[rules_of(&scene.a.port, egress), rules_of(&scene.b.port, Egress::Public)],
                &Options::default(),
            );
            let reached = |to: Ip, port: u16, ear: &Ear, what: &str| {
                let name = format!("{what} {egress:?}");
                scene.a.send(&scene.a.datagram_to(to, port, &name));
                ear.heard(&name)
            };
            assert_eq!(reached(SERVER, SERVICE, &scene.internet, "public"), public_is_open, "{egress:?}");
            assert_eq!(reached(private, SERVICE, &scene.internet, "private"), private_is_open, "{egress:?}");
            assert_eq!(reached(resolver, 53, &dns, "resolver"), public_is_open, "{egress:?}");
            assert_eq!(reached(private, 53, &dns, "other resolver"), private_is_open, "{egress:?}");
            assert!(!reached(METADATA, SERVICE, &scene.internet, "metadata"), "{egress:?}");
            assert!(!reached(METADATA, 53, &dns, "metadata resolver"), "{egress:?}");
        }
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
