//! Ways to others: another VM, private networks, the metadata address, and back in from outside.

use fireclaw_core::{
    id::MacAddr,
    render::nft::{Egress, Options, ruleset},
    spec::NetworkSpec,
};
use fireclaw_host::network::Network;

use super::{none_arrives_by, on_stage, set_guard, six};
use crate::{
    frame::{self, BROADCAST, Ip},
    guest::{Ear, GATEWAY, Guest, SERVICE, gateway_mac},
    lab::{FORBIDDEN, METADATA, SERVER, guard_with, ip, json, load, network, rules_of, run, sysctl},
};

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
                let wanted = |frame: &[u8]| b.datagram_in(frame).filter(|data| *data == name);
                let heard = if arrives { b.receive(wanted) } else { b.receive_shortly(wanted) };
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
fn another_network_of_ours_is_out_of_reach() {
    on_stage(|_, scene| {
        let far = NetworkSpec::new("lab-br0", "10.213.0.1/24", "10.213.0.0/24").expect("a network");
        network().ensure_bridge(&far).expect("a second bridge");
        let c = Guest::boot_in(&far, "c", [10, 213, 0, 2]);
        let gateway = MacAddr::for_ip(far.gateway_ip()).octets();
        for guarded in [false, true] {
            if guarded {
                let near = vec![rules_of(&scene.a.port, Egress::Open)];
                let networks =
                    [(NetworkSpec::default(), near), (far.clone(), vec![rules_of(&c.port, Egress::Open)])];
                network().install_firewall(&ruleset(&networks, &Options::default())).expect("rules load");
            } else {
                network().remove_firewall().expect("no firewall");
            }
            let name = format!("from afar, guarded {guarded}");
            let packet = frame::udp((c.ip(), 5555), (scene.a.ip(), SERVICE), name.as_bytes());
            c.send(&frame::ethernet(gateway, c.mac(), 0x0800, &packet));
            let wanted = |frame: &[u8]| scene.a.datagram_in(frame).filter(|data| *data == name);
            let heard = if guarded { scene.a.receive_shortly(wanted) } else { scene.a.receive(wanted) };
            assert_eq!(heard.is_some(), !guarded, "{name}");
        }
        // The guard is the rule and not a missing way.
        c.send(&frame::ethernet(
            gateway,
            c.mac(),
            0x0800,
            &frame::udp((c.ip(), 5555), (SERVER, SERVICE), b"out"),
        ));
        assert!(scene.internet.hears("out"));
    });
}

#[test]
fn private_and_metadata_addresses_are_out_of_reach() {
    on_stage(|_, scene| {
        none_arrives_by(scene, Egress::Public, &scene.a, |named| {
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
            let check = |to: Ip, port: u16, ear: &Ear, what: &str, is_open: bool| {
                let name = format!("{what} {egress:?}");
                scene.a.send(&scene.a.datagram_to(to, port, &name));
                let reached = if is_open { ear.hears(&name) } else { ear.overhears(&name) };
                assert_eq!(reached, is_open, "{name}");
            };
            check(SERVER, SERVICE, &scene.internet, "public", public_is_open);
            check(private, SERVICE, &scene.internet, "private", private_is_open);
            check(resolver, 53, &dns, "resolver", public_is_open);
            check(private, 53, &dns, "other resolver", private_is_open);
            check(METADATA, SERVICE, &scene.internet, "metadata", false);
            check(METADATA, 53, &dns, "metadata resolver", false);
        }
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
fn nothing_leaves_with_the_address_of_a_vm() {
    on_stage(|lab, scene| {
        let seen = || {
            let listed = lab.internet.run(|| json("nft -j list counter inet watch inside"));
            listed["nftables"][1]["counter"]["packets"].as_u64().expect("a number")
        };
        lab.internet.run(|| {
            load(
                "table inet watch {
                    counter inside { packets 0 bytes 0 }
                    chain prerouting {
                        type filter hook prerouting priority raw;
                        ip saddr 172.16.0.0/24 counter name inside
                    }
                }",
            );
        });
        // Conntrack knows no connection that a reset could end, and translates no address of what it does not know.
        let reset = scene.a.routed(&frame::reset((scene.a.ip(), 5555), (SERVER, SERVICE)));
        scene.a.send(&reset);
        // A datagram of a new connection follows on the same way: when it is there, the reset has passed or never will.
        let follow = |from: u16, data: &str| {
            let packet = frame::udp((scene.a.ip(), from), (SERVER, SERVICE), data.as_bytes());
            scene.a.send(&scene.a.routed(&packet));
            assert!(scene.internet.hears(data));
        };
        follow(6665, "without");
        assert_eq!(seen(), 2, "without us both leave as they are");
        set_guard(scene, true);
        scene.a.send(&reset);
        follow(6666, "with");
        assert_eq!(seen(), 2);
    });
}

/// A port of our bridge that no rule knows: what an administrator added, or a VM whose rules are not in force yet.
#[test]
fn a_tap_without_rules_reaches_nothing() {
    on_stage(|lab, scene| {
        let stranger = Guest::boot("stranger", [172, 16, 0, 9]);
        none_arrives_by(scene, Egress::Open, &stranger, |named| {
            let to = |what: &str, address: Ip, ear| {
                let name = named(what);
                (name.clone(), stranger.datagram(address, &name), ear)
            };
            vec![to("host", GATEWAY, &scene.host), to("internet", SERVER, &scene.internet)]
        });

        // Nor by IPv6, on a host that forwards it.
        for setting in ["all/forwarding", "fc-br0/forwarding"] {
            sysctl(&format!("ipv6/conf/{setting}"), "1");
        }
        sysctl("ipv6/conf/fc-br0/disable_ipv6", "0");
        ip("address add fd00::1/64 dev fc-br0 nodad");
        ip("address add fd01::1/64 dev up0 nodad");
        lab.internet.run(|| ip("address add fd01::2/64 dev net0 nodad"));
        let ear = Ear::at_six(&lab.internet, 9006);
        none_arrives_by(scene, Egress::Open, &stranger, |named| {
            let name = named("IPv6");
            let packet = frame::udp6((six(0, 9), 5555), (six(1, 2), 9006), name.as_bytes());
            vec![(name, frame::ethernet(gateway_mac(), stranger.mac(), 0x86dd, &packet), &ear)]
        });

        // Nor does it reach a VM, on a bridge that isolates no port.
        for guest in [&scene.a, &stranger] {
            run(&format!("bridge link set dev {} isolated off", guest.port.tap));
        }
        for guarded in [false, true] {
            set_guard(scene, guarded);
            let name = format!("to a VM, guarded {guarded}");
            let packet = frame::udp((stranger.ip(), 5555), (scene.a.ip(), SERVICE), name.as_bytes());
            stranger.send(&frame::ethernet(scene.a.mac(), stranger.mac(), 0x0800, &packet));
            let wanted = |frame: &[u8]| scene.a.datagram_in(frame).filter(|data| *data == name);
            let heard = if guarded { scene.a.receive_shortly(wanted) } else { scene.a.receive(wanted) };
            assert_eq!(heard.is_some(), !guarded, "{name}");
        }
    });
}
