//! What the proxy refuses, notes, gives up and ends.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec},
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

use super::{PATIENCE, Proxy, Target, ending, free_port, is_closed};
use crate::proxy::{ProxySpec, listen, serve};

fn listen_on(port: u16) -> fireclaw_core::error::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _inside = runtime.enter();
    listen::bind(port).map(|listeners| listeners.len())
}

#[test]
fn nobody_is_talked_to_by_another_way_than_the_instances_network() {
    let target = Target::new();
    target.listener.set_nonblocking(true).unwrap();
    let elsewhere = Proxy::to(target.address, |spec| spec.network = Some("10.99.0.0/24".parse().unwrap()));
    assert_eq!(ending(&mut elsewhere.connect()), Err(ErrorKind::ConnectionReset));
    assert!(elsewhere.notes()[0].contains("10.99.0.0/24"), "{:?}", elsewhere.notes());
    assert_eq!(target.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    target.listener.set_nonblocking(false).unwrap();
    let there = Proxy::to(target.address, |spec| spec.network = Some("127.0.0.0/8".parse().unwrap()));
    let _client = there.connect();
    target.accept();
}

#[test]
fn a_gateway_that_is_down_resets_the_client_at_once_and_is_noted_once() {
    let target = Target::new();
    let address = target.address;
    drop(target);
    let proxy = Proxy::to(address, |_| {});
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(ending(&mut proxy.connect()), Err(ErrorKind::ConnectionReset));
    }
    assert!(begun.elapsed() < PATIENCE);

    let back = TcpListener::bind(address).unwrap();
    let mut client = proxy.connect();
    back.accept().unwrap().0.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let notes = proxy.notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("is not reachable: Connection refused"), "{notes:?}");
    assert!(notes[1].contains("reachable again"), "{notes:?}");
}

#[test]
fn beyond_the_limit_a_client_is_closed_and_a_free_place_is_given_again() {
    let target = Target::new();
    let proxy = Proxy::to(target.address, |spec| spec.max_connections = 2);
    let mut ends: Vec<_> = (0..2).map(|_| (proxy.connect(), target.accept())).collect();
    assert!(is_closed(ending(&mut proxy.connect())));
    assert!(is_closed(ending(&mut proxy.connect())));
    assert_eq!(proxy.notes(), ["2 connections are open; more are closed at once"]);

    drop(ends.pop());
    let requirement =
        Requirement { description: "a free place".into(), deadline: PATIENCE, hint: String::new() };
    until(&requirement, &Interrupt::default(), || {
        let mut client = proxy.connect();
        target.listener.set_nonblocking(true).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match ending(&mut client) {
            Err(ErrorKind::WouldBlock) => Probed::Ready(()),
            other => Probed::NotYet(format!("{other:?}")),
        }
    })
    .unwrap();
}

#[test]
fn the_idle_limit_ends_quiet_connections_and_only_those() {
    let target = Target::new();
    let proxy = Proxy::to(target.address, |spec| spec.idle = Some(Duration::from_millis(400)));
    let (mut busy, mut busy_end) = (proxy.connect(), target.accept());
    let (mut quiet, _quiet_end) = (proxy.connect(), target.accept());
    let begun = Instant::now();
    quiet.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // The probe of the quiet one paces the loop.
    while ending(&mut quiet) == Err(ErrorKind::WouldBlock) {
        assert!(begun.elapsed() < PATIENCE);
        busy_end.write_all(b"x").unwrap();
        busy.read_exact(&mut [0]).unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    busy.write_all(b"x").unwrap();
    busy_end.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_how_to_find_who_has_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error =
        serve(&ProxySpec::new(port, taken.local_addr().unwrap()), None, None, || panic!("ready"), |_| {})
            .unwrap_err();
    assert!(
        error.one_line().starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
        "{}",
        error.one_line()
    );
    assert_eq!(
        error.get_hint().unwrap(),
        format!("see which program has the port: `ss -ltnp 'sport = :{port}'`")
    );
}

#[test]
fn a_port_that_is_taken_on_the_ipv6_loopback_alone_is_an_error_too() {
    let Ok(taken) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        assert_eq!(listen_on(free_port().unwrap()).unwrap(), 1, "a host without IPv6 has one listener");
        return;
    };
    let port = taken.local_addr().unwrap().port();
    let error = listen_on(port).unwrap_err();
    assert!(error.one_line().contains(&format!("[::1]:{port}")), "{}", error.one_line());
}

#[test]
fn told_to_stop_it_refuses_at_once_and_ends_quiet_connections_soon() {
    let target = Target::new();
    let mut proxy = Proxy::to(target.address, |_| {});
    let (mut client, mut gateway) = (proxy.connect(), target.accept());
    let begun = Instant::now();
    proxy.stop();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(is_closed(ending(&mut client)) && is_closed(ending(&mut gateway)));
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn told_to_stop_it_lets_an_answer_that_is_under_way_finish() {
    let target = Target::new();
    let mut proxy = Proxy::to(target.address, |_| {});
    let (mut client, mut gateway) = (proxy.connect(), target.accept());
    gateway.write_all(b"begun ").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    let answer = std::thread::spawn(move || {
        // The client's read times pace the pieces: together they last longer than a quiet connection is left.
        for _ in 0..8 {
            gateway.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
            let _ = ending(&mut gateway);
            gateway.write_all(b"piece ").unwrap();
        }
    });
    proxy.stop();
    answer.join().unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "piece ".repeat(8));
}

#[test]
fn sigterm_ends_it_with_success() {
    let target = Target::new();
    let port = free_port().unwrap();
    let (sender, receiver) = channel();
    let spec = ProxySpec::new(port, target.address);
    let served = std::thread::spawn(move || serve(&spec, None, None, || sender.send(()).unwrap(), |_| {}));
    receiver.recv_timeout(PATIENCE).unwrap();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let _gateway = target.accept();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    served.join().unwrap().unwrap();
    assert!(is_closed(ending(&mut client)));
}

/// The variable that makes the next test the child that it starts: giving up root is for good.
const AS_CHILD: &str = "FIRECLAW_TEST_GIVE_UP_ROOT";

#[test]
fn root_is_given_up_before_anything_is_accepted() {
    if std::env::var_os(AS_CHILD).is_some() {
        let spec = ProxySpec {
            user: Some((65_534, 65_533)),
            ..ProxySpec::new(free_port().unwrap(), Target::new().address)
        };
        let ready = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            for line in status.lines() {
                if ["Uid:", "Gid:", "Groups:", "NoNewPrivs:", "CapEff:", "CapPrm:"]
                    .iter()
                    .any(|it| line.starts_with(it))
                {
                    std::io::stdout().write_all(format!("{}\n", line.replace('\t', " ")).as_bytes()).unwrap();
                }
            }
            std::process::exit(0);
        };
        serve(&spec, None, None, ready, |_| {}).unwrap();
    }
    let name = "proxy::tests::limits::root_is_given_up_before_anything_is_accepted";
    let this = std::env::current_exe().unwrap();
    let cmd = Cmd::new(this).args(["--exact", name, "--nocapture"]).env(AS_CHILD, "1");
    let output = SystemExec::default().run(cmd).unwrap();
    let said: Vec<String> = output.text().lines().map(|line| line.trim_end().to_owned()).collect();
    if !nix::unistd::geteuid().is_root() {
        assert!(!output.status.success() && !said.iter().any(|line| line.starts_with("Uid:")), "{said:?}");
        return;
    }
    for line in [
        "Uid: 65534 65534 65534 65534",
        "Gid: 65533 65533 65533 65533",
        "Groups:",
        "NoNewPrivs: 1",
        "CapEff: 0000000000000000",
        "CapPrm: 0000000000000000",
    ] {
        assert!(said.iter().any(|it| it == line), "no {line:?} in {said:?}: {}", output.last_words());
    }
}
