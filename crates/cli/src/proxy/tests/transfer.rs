//! Bytes: half-close, resets, integrity, back-pressure, many connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, Shutdown, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{Proxy, Target, ending, pair, patient};

/// Bytes that no shift, loss or repetition leaves unchanged.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for bytes in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes()[..bytes.len()]);
        }
    }
}

fn send_noise(to: &mut TcpStream, seed: u64, bytes: usize) {
    let (mut noise, mut buffer) = (Noise(seed), vec![0; 64 << 10]);
    for _ in 0..bytes / buffer.len() {
        noise.fill(&mut buffer);
        to.write_all(&buffer).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Compares all that comes with the noise that was sent; gives the number of bytes until the end.
fn check_noise(from: &mut TcpStream, seed: u64) -> usize {
    let (mut noise, mut buffer, mut wanted) = (Noise(seed), vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut bytes = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]).unwrap() {
                0 => return bytes + filled,
                read => filled += read,
            }
        }
        noise.fill(&mut wanted);
        assert!(buffer == wanted, "different within 64 KiB of byte {bytes}");
        bytes += filled;
    }
}

fn reset_on_close(stream: &TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &at_once).unwrap();
}

#[test]
fn a_client_that_is_done_sending_still_gets_its_answer() {
    let (_target, _proxy, mut client, mut gateway) = pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    gateway.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "question");
    gateway.write_all(b"answer").unwrap();
    drop(gateway);
    heard.clear();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "answer");
}

#[test]
fn a_gateway_that_is_done_sending_still_hears_the_client() {
    let (_target, _proxy, mut client, mut gateway) = pair();
    gateway.write_all(b"hello").unwrap();
    gateway.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    client.write_all(b"and more").unwrap();
    drop(client);
    heard.clear();
    gateway.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "and more");
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let (_target, _proxy, mut client, gateway) = pair();
    reset_on_close(&gateway);
    drop(gateway);
    assert_eq!(ending(&mut client), Err(ErrorKind::ConnectionReset));

    let (_target, _proxy, client, mut gateway) = pair();
    reset_on_close(&client);
    drop(client);
    assert_eq!(ending(&mut gateway), Err(ErrorKind::ConnectionReset));
}

#[test]
fn sixty_four_megabytes_each_way_at_once_arrive_unchanged() {
    const BYTES: usize = 64 << 20;
    let (_target, _proxy, mut client, mut gateway) = pair();
    std::thread::scope(|scope| {
        let (mut up, mut down) = (client.try_clone().unwrap(), gateway.try_clone().unwrap());
        scope.spawn(move || send_noise(&mut up, 1, BYTES));
        scope.spawn(move || send_noise(&mut down, 2, BYTES));
        let heard = scope.spawn(move || check_noise(&mut gateway, 1));
        assert_eq!(check_noise(&mut client, 2), BYTES);
        assert_eq!(heard.join().unwrap(), BYTES);
    });
}

#[test]
fn a_thousand_connections_at_once_do_not_mix() {
    let target = Target::new();
    let proxy = Proxy::to(target.address, |_| {});
    let mut ends: Vec<(TcpStream, TcpStream)> =
        (0..1000).map(|_| (proxy.connect(), target.accept())).collect();
    for (number, (client, gateway)) in ends.iter_mut().enumerate() {
        client.write_all(format!("up {number:05}").as_bytes()).unwrap();
        gateway.write_all(format!("dn {number:05}").as_bytes()).unwrap();
    }
    for (number, (client, gateway)) in ends.iter_mut().enumerate() {
        let mut heard = [0; 8];
        gateway.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *format!("up {number:05}").as_bytes());
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *format!("dn {number:05}").as_bytes());
    }
}

#[test]
fn a_slow_reader_holds_its_own_sender_back_and_nobody_else() {
    // More than all socket buffers on the way can hold (net.ipv4.tcp_wmem and tcp_rmem end at 4 and 32 MiB at most).
    const FAR_TOO_MUCH: usize = 160 << 20;
    let (target, proxy, mut client, mut gateway) = pair();
    gateway.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut noise, mut sent, mut buffer) = (Noise(3), 0, vec![0; 64 << 10]);
    let held_back = loop {
        noise.fill(&mut buffer);
        let mut written = 0;
        let blocked = loop {
            match gateway.write(&buffer[written..]) {
                Ok(taken) => written += taken,
                Err(error) => break Some(error.kind()),
            }
            if written == buffer.len() {
                break None;
            }
        };
        sent += written;
        assert!(sent < FAR_TOO_MUCH, "the proxy takes without end");
        if let Some(kind) = blocked {
            break kind;
        }
    };
    assert_eq!(held_back, ErrorKind::WouldBlock);

    let (mut other, begun) = (proxy.connect(), Instant::now());
    let mut other_gateway = target.accept();
    other.write_all(b"x").unwrap();
    other_gateway.read_exact(&mut [0]).unwrap();
    assert!(begun.elapsed() < super::PATIENCE);

    gateway.shutdown(Shutdown::Write).unwrap();
    assert_eq!(check_noise(&mut client, 3), sent);
}

#[test]
fn the_ipv6_loopback_leads_to_the_same_gateway() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        let listeners = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = listeners.enter();
        let port = super::free_port().unwrap();
        assert_eq!(super::listen::bind(port).unwrap().len(), 1, "a host without IPv6 has one listener");
        return;
    }
    let target = Target::new();
    let proxy = Proxy::to(target.address, |_| {});
    let mut client = patient(TcpStream::connect((Ipv6Addr::LOCALHOST, proxy.port)).unwrap());
    client.write_all(b"six").unwrap();
    let mut heard = [0; 3];
    target.accept().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"six");
}
