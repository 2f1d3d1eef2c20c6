//! An instance that sleeps, played by the test: it takes requests up and begins to listen when it is woken.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fireclaw_host::{
    interrupt::Interrupt,
    requests::{Inbox, Requests, Want},
    wait::{Probed, Requirement, until},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{PATIENCE, Proxy, ending, free_port, patient};
use crate::proxy::Rest;

struct Bed {
    _dir: tempfile::TempDir,
    inbox: Inbox,
    target: SocketAddr,
    proxy: Proxy,
}

/// A proxy before a gateway that does not listen yet.
fn bed(after: Option<Duration>) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("requests");
    let requests = Requests::make(&path, (0, 0)).unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let proxy = Proxy::with(target, Some(Rest { after, requests }), |_| {});
    Bed { inbox: Inbox::new(path), _dir: dir, target, proxy }
}

impl Bed {
    /// Waits until something is asked for.
    fn wanted(&self) -> Want {
        wait_for("a request", || self.inbox.wanted())
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let requirement = Requirement { description: what.into(), deadline: PATIENCE, hint: String::new() };
    until(&requirement, &Interrupt::default(), || match look() {
        Some(seen) => Probed::Ready(seen),
        None => Probed::NotYet("not yet".into()),
    })
    .unwrap()
}

/// A gateway that greets each client.
fn greet(listener: TcpListener) {
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || client.unwrap().write_all(b"hello"));
        }
    });
}

fn greeting(client: &mut TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_thousand_clients_wake_it_once_and_all_are_served() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8192).min(hard), hard).unwrap();
    let bed = bed(None);
    bed.inbox.slept(true).unwrap();
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| bed.proxy.connect()).collect();
    assert_eq!(bed.wanted(), Want::Wake);
    let woken = Arc::new(AtomicUsize::new(0));
    let (inbox, count) = (bed.inbox.clone(), Arc::clone(&woken));
    // It wakes, and a moment later its gateway listens.
    thread::spawn(move || {
        loop {
            wait_for("a request", || inbox.wanted());
            count.fetch_add(1, Ordering::SeqCst);
            inbox.woke(None).unwrap();
        }
    });
    wait_for("the wake", || (woken.load(Ordering::SeqCst) > 0).then_some(()));
    greet(TcpListener::bind(bed.target).unwrap());
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(greeting(client), "hello", "client {number}");
    }
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    // It is awake: the next one goes straight through.
    assert_eq!(greeting(&mut bed.proxy.connect()), "hello");
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert!(bed.proxy.notes().is_empty(), "{:?}", bed.proxy.notes());
}

#[test]
fn who_waits_in_vain_is_reset_and_the_reason_noted() {
    let bed = bed(None);
    bed.inbox.slept(true).unwrap();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| bed.proxy.connect()).collect();
    assert_eq!(bed.wanted(), Want::Wake);
    bed.inbox.woke(Some("there is no KVM")).unwrap();
    for client in &mut clients {
        assert_eq!(ending(client), Err(ErrorKind::ConnectionReset));
    }
    let notes = bed.proxy.notes();
    assert!(notes.len() == 1 && notes[0].contains("there is no KVM"), "{notes:?}");
    // The next one tries again.
    bed.inbox.slept(true).unwrap();
    let mut client = bed.proxy.connect();
    assert_eq!(bed.wanted(), Want::Wake);
    greet(TcpListener::bind(bed.target).unwrap());
    bed.inbox.woke(None).unwrap();
    assert_eq!(greeting(&mut client), "hello");
}

#[test]
fn a_client_in_time_keeps_it_awake() {
    let bed = bed(Some(Duration::from_millis(100)));
    greet(TcpListener::bind(bed.target).unwrap());
    assert_eq!(bed.wanted(), Want::Sleep);
    assert_eq!(greeting(&mut bed.proxy.connect()), "hello");
    // Taken back: there is nothing left to take up, or it was asked again since.
    wait_for("the next wish", || bed.inbox.wanted());
    // A client that stays: nobody asks.
    let stays = bed.proxy.connect();
    wait_for("the wish taken back", || bed.inbox.wanted().is_none().then_some(()));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(50) {
        assert_eq!(bed.inbox.wanted(), None);
    }
    drop(stays);
    assert_eq!(bed.wanted(), Want::Sleep);
    // Not put to sleep, for it works: the wish comes back later.
    bed.inbox.slept(false).unwrap();
    assert_eq!(bed.wanted(), Want::Sleep);
}

#[test]
fn a_client_that_comes_while_it_falls_asleep_is_held_until_it_is_woken() {
    let bed = bed(Some(Duration::from_millis(100)));
    let listener = TcpListener::bind(bed.target).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(bed.wanted(), Want::Sleep);
    assert!(bed.inbox.take_up().unwrap());
    // The VM still runs, and is about to be paused.
    let mut client = patient(bed.proxy.connect());
    assert_eq!(bed.wanted(), Want::Wake);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(400) {
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "reached a VM that was being paused"
        );
    }
    bed.inbox.slept(true).unwrap();
    bed.inbox.woke(None).unwrap();
    listener.set_nonblocking(false).unwrap();
    greet(listener);
    assert_eq!(greeting(&mut client), "hello");
}

#[test]
fn a_guest_that_refuses_is_awake() {
    let bed = bed(None);
    assert_eq!(ending(&mut bed.proxy.connect()), Err(ErrorKind::ConnectionReset));
    assert_eq!(bed.inbox.wanted(), None);
}
