//! What must work under a list of names, live changes, and that nothing grows without end.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    time::Duration,
};

use fireclaw_core::{egress::EgressPolicy, sidecar::Orders, spec::EgressMode};
use fireclaw_testkit::tls::Authority;
use rustls::{ServerConnection, StreamOwned};

use crate::{
    client::{ask, ask_stream, connect, hello, say, say_in, tls},
    lab::{FORBIDDEN, UPLINK},
    stage::{B, EVIL, GOOD, PATIENCE, RESOLVER, RULES, Stage, comes, policy, stays_away},
};

const GET: &[u8] = b"GET /one HTTP/1.1\r\nHost: good.example\r\n\r\n";

#[test]
fn allowed_names_are_resolved_and_reached_whatever_resolver_was_meant() {
    let stage = Stage::by_list(&RULES);
    for resolver in [RESOLVER, [8, 8, 8, 8], [172, 16, 0, 1]] {
        assert_eq!(ask(&stage.a, resolver, "GOOD.example", 1), Some((0, vec![GOOD.into()])), "{resolver:?}");
    }
    assert_eq!(ask_stream(&stage.a, RESOLVER, "www.wild.example"), Some((0, vec![GOOD.into()])));
    assert_eq!(ask(&stage.a, RESOLVER, "good.example", 28), Some((0, vec![])), "no IPv6, and no error");
    assert_eq!(ask(&stage.a, RESOLVER, "wild.example", 1), Some((3, vec![])));

    assert!(say(&stage.a, GOOD, 80, GET).contains("200 OK"));
    assert!(stage.heard.at(GOOD, "GET /one"));
    say(&stage.a, GOOD, 443, &hello(Some("www.wild.example"), "by-name"));
    assert!(comes(|| stage.heard.at(GOOD, "by-name")));
    let report = stage.report();
    assert!(report.answered >= 3 && report.connected == 2, "{report:?}");
}

#[test]
fn tls_passes_from_end_to_end_in_whatever_pieces() {
    let stage = Stage::by_list(&["secure.example"]);
    let authority = Authority::new();
    let config = authority.server(&["secure.example"]);
    stage.dns.set("secure.example", &[[203, 0, 113, 80]]);
    let listener = stage.lab.internet.run(|| {
        crate::lab::ip("address add 203.0.113.80/32 dev lo");
        // Port 443 of all addresses is taken by those who only listen.
        std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4430)).unwrap()
    });
    stage.lab.internet.run(|| {
        crate::lab::load(
            "table ip turn {
                chain prerouting {
                    type nat hook prerouting priority dstnat;
                    ip daddr 203.0.113.80 tcp dport 443 redirect to :4430
                }
            }",
        );
    });
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let mut data = vec![0; 300_000];
        stream.read_exact(&mut data).unwrap();
        stream.write_all(&data).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let stream = connect(&stage.a, GOOD, 443, PATIENCE).unwrap();
    let mut client = tls(stream, &authority, "secure.example");
    let data: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
    client.write_all(&data).unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    assert!(back == data, "every byte came back");
    serving.join().unwrap();

    // A ClientHello byte by byte.
    stage.dns.set("secure.example", &[GOOD]);
    let live = Stage::by_list(&["good.example"]);
    let bytes = hello(Some("good.example"), "in-pieces");
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    say_in(&live.a, EVIL, 443, &pieces);
    assert!(comes(|| live.heard.at(GOOD, "in-pieces")));
}

#[test]
fn a_port_without_a_name_goes_by_the_address_that_was_told() {
    let stage = Stage::by_list(&RULES);
    assert_eq!(say(&stage.a, GOOD, 5432, b"too early"), "");
    assert!(stage.refused("tcp", "203.0.113.10:5432", "no allowed name"));
    assert_eq!(ask(&stage.a, RESOLVER, "db.example", 1), Some((0, vec![GOOD.into()])));
    assert!(say(&stage.a, GOOD, 5432, b"select").contains("ok"));
    assert_eq!(say(&stage.a, EVIL, 5432, b"elsewhere"), "");
    assert_eq!(say(&stage.a, GOOD, 8443, b"another's port"), "", "cdn.example was not asked for");
    assert!(!stage.heard.has("too early") && !stage.heard.has("elsewhere") && !stage.heard.has("another's"));
    // A range is open without a name, and past the sidecar.
    assert!(say(&stage.a, [10, 99, 0, 1], 9000, b"by range").contains("ok"));
}

#[test]
fn a_policy_changes_live_and_cuts_what_it_forbids() {
    let stage = Stage::by_list(&["good.example"]);
    let mut open = connect(&stage.a, GOOD, 443, PATIENCE).unwrap();
    open.write_all(&hello(Some("good.example"), "first")).unwrap();
    assert!(comes(|| stage.heard.has("first")));
    assert!(say(&stage.a, GOOD, 80, b"GET / HTTP/1.1\r\nHost: www.wild.example\r\n\r\n").contains("403"));

    let report = stage.order(Orders { policy: policy(&["*.wild.example"]), broker: None });
    assert_eq!(report.egress, "allow: *.wild.example");
    let mut rest = Vec::new();
    let ended = open.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(stage.refused("tcp", "good.example:443", "cut"));
    assert!(say(&stage.a, GOOD, 80, b"GET /two HTTP/1.1\r\nHost: www.wild.example\r\n\r\n").contains("200"));
    assert_eq!(ask(&stage.a, RESOLVER, "good.example", 1), Some((3, vec![])));

    // To `none` and to `public` and back, without a restart of anything.
    let mode = |mode| EgressPolicy { mode, allow: policy(&["good.example"]).allow };
    stage.order(Orders { policy: mode(EgressMode::None), broker: None });
    assert_eq!(say(&stage.a, GOOD, 80, GET), "");
    assert_eq!(say(&stage.a, GOOD, 9000, b"none"), "");
    stage.order(Orders { policy: mode(EgressMode::Public), broker: None });
    assert!(say(&stage.a, EVIL, 9000, b"public").contains("ok"));
    stage.order(Orders { policy: mode(EgressMode::Allow), broker: None });
    assert_eq!(say(&stage.a, EVIL, 9000, b"allow again"), "");
    assert!(say(&stage.a, GOOD, 80, GET).contains("200 OK"));
}

#[test]
fn a_name_that_turns_to_a_forbidden_address_is_not_followed() {
    let stage = Stage::by_list(&RULES);
    let mut forbidden: Vec<[u8; 4]> = FORBIDDEN.to_vec();
    // The host itself, a neighbour, the bridge, loopback.
    forbidden.extend([UPLINK, B, [172, 16, 0, 1], [127, 0, 0, 1]]);
    stage.lab.host.run(|| stage.heard.listen(&[80]));
    for (index, address) in forbidden.into_iter().enumerate() {
        let name = format!("r{index}.wild.example");
        stage.dns.set(&name, &[address]);
        let marker = format!("/rebound-{index}");
        let request = format!("GET {marker} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let answer = say(&stage.a, GOOD, 80, request.as_bytes());
        assert!(answer.contains("502 Bad Gateway"), "{address:?}: {answer}");
        assert!(stays_away(|| stage.heard.has(&marker)), "{address:?}");
        let learnt = ask(&stage.a, RESOLVER, &name, 1).unwrap().1;
        let may_learn = address == UPLINK || address == [10, 99, 0, 1];
        assert_eq!(learnt.is_empty(), !may_learn, "{address:?}: {learnt:?}");
    }
    assert!(stage.refused("http", "wild.example:80", "the host itself"));
}

#[test]
fn a_flood_of_one_guest_is_bounded_and_the_neighbour_is_served() {
    let stage = Stage::by_list(&["good.example"]);
    let stream = |from| connect(from, GOOD, 443, Duration::from_secs(2));
    // More than there is room for, each quiet: no ClientHello ever comes.
    let flood: Vec<_> = (0..1100).filter_map(|_| stream(&stage.a).ok()).collect();
    assert!(comes(|| stage.report().refusals.iter().any(|one| one.why.contains("too many"))));
    assert!(stage.report().open <= 1024);
    assert_eq!(
        ask(&stage.b, RESOLVER, "nobody.example", 1),
        Some((3, vec![])),
        "the neighbour's sidecar answers"
    );
    assert_eq!(
        ask(&stage.a, RESOLVER, "good.example", 1),
        Some((0, vec![GOOD.into()])),
        "and its own by UDP"
    );
    drop(flood);
    assert!(comes(|| stage.report().open == 0), "all is given back");
    say(&stage.a, GOOD, 443, &hello(Some("good.example"), "after the flood"));
    assert!(comes(|| stage.heard.has("after the flood")));
}
