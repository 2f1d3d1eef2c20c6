//! How fast a VM may send and be sent to: by what passes, and by what `tc` says of the tap.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use fireclaw_core::{
    id::MacAddr,
    render::nft::{Egress, Options, VmRules},
    spec::NetworkSpec,
};
use fireclaw_host::{link::Netlink, network::Network, tap};

use crate::{
    guest::GATEWAY,
    lab::{Lab, Namespace, SERVER, alone, dotted, guard_with, ip, json, network, port, rules_of, run},
};

const PORT: u16 = 9000;

fn qdisc(link: &str) -> serde_json::Value {
    json(&format!("tc -j qdisc show dev {link}"))[0].clone()
}

#[test]
fn a_taps_rate_is_set_changed_and_lifted() {
    alone(|| {
        network().ensure_bridge(&NetworkSpec::default()).unwrap();
        let a = port("a", [172, 16, 0, 2]);
        let limit = |rate| network().limit(&a.instance, &a.tap, rate).unwrap();
        limit(Some(1));
        network().attach(&NetworkSpec::default(), &a).unwrap();
        let own = qdisc("ta2");
        assert_ne!(own["kind"], "tbf");
        limit(None);
        assert_eq!(qdisc("ta2"), own, "nothing to lift is fine");
        limit(Some(12_500_000));
        let set = qdisc("ta2");
        assert_eq!(
            (&set["kind"], &set["handle"], &set["root"]),
            (&"tbf".into(), &"1:".into(), &true.into()),
            "{set}"
        );
        assert_eq!(set["options"]["rate"], 12_500_000, "{set}");
        assert!(set["options"]["burst"].as_u64().unwrap().abs_diff(250_000) < 1000, "{set}");
        // In place, and beyond what 32 bits hold.
        limit(Some(12_500_000_000));
        assert_eq!(qdisc("ta2")["options"]["rate"], 12_500_000_000_u64);
        let _vmm = tap::open(&a.tap).unwrap();
        network().attach(&NetworkSpec::default(), &a).unwrap();
        assert_eq!(qdisc("ta2")["kind"], "tbf", "attached again it is as it was");
        limit(None);
        assert_eq!(qdisc("ta2")["kind"], own["kind"]);
        // A queue that somebody else made is not ours to take away.
        run("tc qdisc add dev ta2 root handle 7: tbf rate 1mbit burst 64kb latency 50ms");
        limit(None);
        assert_eq!(qdisc("ta2")["handle"], "7:");
        run("tc qdisc del dev ta2 root");
        // Another instance's tap is left alone.
        network().limit(&"b".parse().unwrap(), &a.tap, Some(1000)).unwrap();
        assert_eq!(qdisc("ta2")["kind"], own["kind"]);
    });
}

/// Sends so much from one end to the other, and gives the bytes a second.
fn rate(from: &Namespace, to: &Namespace, address: [u8; 4], bytes: usize) -> u64 {
    let listener =
        to.run(|| TcpListener::bind((std::net::Ipv4Addr::from(address), PORT)).expect("a free port"));
    let sender = from.run(|| {
        let target = SocketAddr::from((address, PORT));
        TcpStream::connect_timeout(&target, Duration::from_secs(5)).expect("a connection")
    });
    let (mut receiver, _) = listener.accept().expect("a connection");
    let begun = Instant::now();
    let sending = thread::spawn(move || {
        let mut sender = sender;
        let _ = sender.write_all(&vec![7; bytes]);
    });
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    receiver.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    while let Ok(length @ 1..) = receiver.read(&mut buffer) {
        got += length;
    }
    assert_eq!(got, bytes);
    sending.join().expect("no panic");
    u64::try_from(u128::from(got as u64) * 1_000_000 / begun.elapsed().as_micros()).expect("a rate")
}

/// Both directions of a real TCP stack; 80 Mbit/s are 10 MB/s.
#[test]
fn what_passes_keeps_to_the_rate_both_ways() {
    const RATE: u64 = 10_000_000;
    const BYTES: usize = 12_000_000;
    let lab = Lab::make();
    let guest = Namespace::make();
    let a = port("a", [172, 16, 0, 2]);
    let shape = |rate| {
        lab.host.run(|| {
            let netlink = Netlink::open().unwrap();
            netlink.shape(&netlink.find("ta2").unwrap().unwrap(), rate).unwrap();
        });
    };
    let rules = |rate| {
        lab.host.run(|| guard_with(&[VmRules { rate, ..rules_of(&a, Egress::Public) }], &Options::default()));
    };
    lab.host.run(|| {
        let mac = MacAddr::for_ip([172, 16, 0, 2].into());
        ip(&format!("link add ta2 type veth peer name eth0 address {mac} netns {}", guest.path()));
        let netlink = Netlink::open().unwrap();
        let (link, bridge) =
            (netlink.find("ta2").unwrap().unwrap(), netlink.find("fc-br0").unwrap().unwrap());
        netlink.join(&link, &bridge).unwrap();
        netlink.pin_mac(&link, mac).unwrap();
        netlink.set_up(link.index, "ta2").unwrap();
    });
    guest.run(|| {
        ip("address add 172.16.0.2/24 dev eth0");
        ip("link set eth0 up");
        ip(&format!("route add default via {}", dotted(GATEWAY)));
    });
    rules(None);
    let free = rate(&guest, &lab.internet, SERVER, BYTES);
    assert!(free > 3 * RATE, "without a limit {free} bytes a second are sent");
    rules(Some(RATE));
    let sent = rate(&guest, &lab.internet, SERVER, BYTES);
    assert!((RATE / 5..RATE * 2).contains(&sent), "{sent} bytes a second are sent");

    let free = rate(&lab.host, &guest, [172, 16, 0, 2], BYTES);
    assert!(free > 3 * RATE, "without a limit {free} bytes a second come");
    shape(Some(RATE));
    let come = rate(&lab.host, &guest, [172, 16, 0, 2], BYTES);
    assert!((RATE / 5..RATE * 3 / 2).contains(&come), "{come} bytes a second come");
    shape(None);
    rules(None);
    let free = rate(&lab.host, &guest, [172, 16, 0, 2], BYTES);
    assert!(free > 3 * RATE, "lifted, {free} bytes a second come");
}
