//! What must work: a guest reaches the internet behind the host's address, and the host reaches its guests. Here guests
//! have real network stacks: a namespace, joined by a veth pair whose host side has the tap's name.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use fireclaw_core::{
    id::{InstanceId, MacAddr},
    render::nft::Egress,
    spec::NetworkSpec,
};
use fireclaw_host::{
    link::Netlink,
    network::{Network, Port},
};

use crate::{
    guest::{Ear, GATEWAY, Guest, SERVICE},
    lab::{Lab, METADATA, Namespace, OWNER, ROUTER, SERVER, UPLINK, dotted, guard, ip, network},
};

const PATIENCE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_millis(150);

/// A namespace as a VM. Runs in the host's namespace.
fn vm(id: &str, address: [u8; 4]) -> (Namespace, Port) {
    let instance: InstanceId = id.parse().expect("an id");
    let tap = instance.tap_candidates(address.into()).swap_remove(0);
    let mac = MacAddr::for_ip(address.into());
    let inside = Namespace::make();
    ip(&format!("link add {tap} type veth peer name eth0 address {mac} netns {}", inside.path()));
    inside.run(|| {
        ip(&format!("address add {}/24 dev eth0", dotted(address)));
        ip("link set eth0 up");
        ip(&format!("route add default via {}", dotted(GATEWAY)));
    });
    let netlink = Netlink::open().expect("netlink");
    let link = netlink.find(tap.as_str()).expect("links").expect("the veth");
    let bridge = netlink.find(NetworkSpec::BRIDGE).expect("links").expect("the bridge");
    netlink.join(&link, &bridge).expect("a port");
    netlink.pin_mac(&link, mac).expect("a MAC");
    netlink.set_up(link.index, &link.name).expect("up");
    (inside, Port { instance, tap, mac, ip: address.into(), owner_uid: OWNER })
}

fn listen(namespace: &Namespace, address: [u8; 4]) -> TcpListener {
    namespace.run(|| TcpListener::bind((std::net::Ipv4Addr::from(address), SERVICE)).expect("a free port"))
}

fn connect(namespace: &Namespace, to: [u8; 4], patience: Duration) -> std::io::Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&SocketAddr::from((to, SERVICE)), patience))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn accept(listener: &TcpListener) -> (TcpStream, [u8; 4]) {
    let (stream, from) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let SocketAddr::V4(from) = from else { panic!("IPv4 was listened on") };
    (stream, from.ip().octets())
}

/// Whether bytes pass from one end to the other.
fn passes(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    let mut got = [0; 4];
    from.write_all(b"ping").is_ok() && to.read_exact(&mut got).is_ok() && got == *b"ping"
}

#[test]
fn a_guest_reaches_the_internet_behind_the_hosts_address() {
    let lab = Lab::make();
    lab.host.run(|| {
        let (a, port_a) = vm("a", [172, 16, 0, 2]);
        let (b, port_b) = vm("b", [172, 16, 0, 3]);
        guard(&[&port_a], Egress::Public);
        let server = listen(&lab.internet, SERVER);
        let client = connect(&a, SERVER, PATIENCE).expect("the internet is reached");
        let (serving, from) = accept(&server);
        assert_eq!(from, UPLINK, "masqueraded");
        assert!(passes(&client, &serving) && passes(&serving, &client));

        // The ruleset is swapped whenever a VM comes or goes; connections of the others live on.
        guard(&[&port_a, &port_b], Egress::Public);
        assert!(
            passes(&client, &serving) && passes(&serving, &client),
            "a connection outlives a new ruleset"
        );

        // A stricter policy holds for what is open, too.
        guard(&[&port_a, &port_b], Egress::None);
        serving.set_read_timeout(Some(GRACE)).expect("a timeout");
        assert!(!passes(&client, &serving), "an open connection is cut by a stricter policy");
        drop(b);
    });
}

#[test]
fn a_guest_that_may_not_is_told_so_or_hears_nothing() {
    let lab = Lab::make();
    lab.host.run(|| {
        let (a, port_a) = vm("a", [172, 16, 0, 2]);
        let (b, port_b) = vm("b", [172, 16, 0, 3]);
        guard(&[&port_a, &port_b], Egress::Public);
        let _metadata = listen(&lab.internet, METADATA);
        let refused = connect(&a, METADATA, PATIENCE).expect_err("the metadata address");
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "refused at once: {refused}");
        let _neighbour = listen(&b, [172, 16, 0, 3]);
        let _host = listen(&lab.host, [0; 4]);
        for (what, to) in [("another VM", [172, 16, 0, 3]), ("the bridge", GATEWAY), ("the uplink", UPLINK)] {
            assert!(connect(&a, to, GRACE).is_err(), "{what} was reached");
        }
    });
}

#[test]
fn the_host_reaches_its_guests() {
    let lab = Lab::make();
    lab.host.run(|| {
        let (a, port) = vm("a", [172, 16, 0, 2]);
        guard(&[&port], Egress::None);
        let gateway = listen(&a, [172, 16, 0, 2]);
        let proxy = connect(&lab.host, [172, 16, 0, 2], PATIENCE).expect("the guest is reached");
        let (serving, from) = accept(&gateway);
        assert_eq!(from, GATEWAY);
        assert!(passes(&proxy, &serving) && passes(&serving, &proxy));
        // A closed port answers: the proxy sees a refusal and not a silence.
        drop((gateway, serving));
        let refused = connect(&lab.host, [172, 16, 0, 2], PATIENCE).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn datagrams_go_both_ways_through_a_real_tap() {
    let lab = Lab::make();
    let (host, internet) = (Ear::at(&lab.host, SERVICE), Ear::at(&lab.internet, SERVICE));
    lab.host.run(|| {
        let guest = Guest::boot("a", [172, 16, 0, 2]);
        guard(&[&guest.port], Egress::Public);
        guest.send(&guest.datagram(ROUTER, "question"));
        let (data, from) = internet.hear().expect("the internet hears");
        assert_eq!((data.as_str(), from.ip().to_string()), ("question", dotted(UPLINK)));
        internet.say("answer", (UPLINK, from.port()));
        assert_eq!(guest.receive_datagram().as_deref(), Some("answer"));

        host.say("from the host", (guest.ip(), 5555));
        assert_eq!(guest.receive_datagram().as_deref(), Some("from the host"));
        guest.send(&guest.datagram(GATEWAY, "and back"));
        assert!(host.hears("and back"), "a reply to what the host began");
        network().detach(&guest.port.instance, &guest.port.tap).expect("detach");
    });
}
