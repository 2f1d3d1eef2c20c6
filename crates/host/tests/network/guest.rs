//! A guest whose whole network stack is this file: it holds its tap as a VMM would, and sends what it likes.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use fireclaw_core::spec::NetworkSpec;
use fireclaw_host::{
    network::{Network, Port},
    tap,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    frame::{self, Ip, Mac},
    lab::{Namespace, network, port},
};

/// How long a thing may take that must come.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a thing that must not come is waited for.
const GRACE: Duration = Duration::from_millis(30);
/// `virtio_net_hdr`: all zeroes says nothing about the frame.
const HEADER: usize = 10;

pub const GATEWAY: Ip = [172, 16, 0, 1];
/// The port that the lab's servers listen on.
pub const SERVICE: u16 = 9000;
const SOURCE: u16 = 5555;

pub struct Guest {
    pub port: Port,
    tap: File,
}

impl Guest {
    /// Attaches a tap in the calling thread's namespace and takes it.
    pub fn boot(id: &str, ip: Ip) -> Self {
        Self::boot_in(&NetworkSpec::default(), id, ip)
    }

    pub fn boot_in(spec: &NetworkSpec, id: &str, ip: Ip) -> Self {
        let port = port(id, ip);
        network().attach(spec, &port).expect("attach");
        let tap = tap::open(&port.tap).expect("open").into();
        Self { port, tap }
    }

    pub fn ip(&self) -> Ip {
        self.port.ip.octets()
    }

    pub fn mac(&self) -> Mac {
        self.port.mac.octets()
    }

    pub fn send(&self, frame: &[u8]) {
        (&self.tap).write_all(&[&[0; HEADER][..], frame].concat()).expect("the tap takes a frame");
    }

    /// A frame to the gateway with this packet in it.
    pub fn routed(&self, packet: &[u8]) -> Vec<u8> {
        frame::ethernet(gateway_mac(), self.mac(), 0x0800, packet)
    }

    /// A datagram to the service port of an address.
    pub fn datagram(&self, to: Ip, data: &str) -> Vec<u8> {
        self.datagram_to(to, SERVICE, data)
    }

    pub fn datagram_to(&self, to: Ip, port: u16, data: &str) -> Vec<u8> {
        self.routed(&frame::udp((self.ip(), SOURCE), (to, port), data.as_bytes()))
    }

    /// Waits for a frame that `wanted` takes, answering ARP meanwhile.
    pub fn receive<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.receive_for(PATIENCE, wanted)
    }

    /// The same for a frame that must not come.
    pub fn receive_shortly<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.receive_for(GRACE, wanted)
    }

    fn receive_for<T>(&self, patience: Duration, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let begun = Instant::now();
        let mut buffer = [0; 2048];
        loop {
            let left = u16::try_from(patience.checked_sub(begun.elapsed())?.as_millis()).ok()?;
            let mut waiting = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waiting, PollTimeout::from(left)).expect("poll") == 0 {
                return None;
            }
            let length = (&self.tap).read(&mut buffer).expect("a frame");
            let frame = &buffer[HEADER..length];
            if let Some(value) = wanted(frame) {
                return Some(value);
            }
            self.answer_arp(frame);
        }
    }

    fn answer_arp(&self, frame: &[u8]) {
        if frame[12..14] == [8, 6] && frame[21] == 1 && frame[38..42] == self.ip() {
            let asker: Mac = frame[22..28].try_into().expect("six bytes");
            let asking: Ip = frame[28..32].try_into().expect("four bytes");
            let answer = frame::arp(2, (self.mac(), self.ip()), (asker, asking));
            self.send(&frame::ethernet(asker, self.mac(), 0x0806, &answer));
        }
    }

    /// The data of the next datagram to this guest.
    pub fn receive_datagram(&self) -> Option<String> {
        self.receive(|frame| self.datagram_in(frame))
    }

    pub fn datagram_in(&self, frame: &[u8]) -> Option<String> {
        let is_ours = frame[12..14] == [8, 0] && frame[23] == 17 && frame[30..34] == self.ip();
        let length = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
        is_ours.then(|| String::from_utf8_lossy(&frame[42..34 + length]).into_owned())
    }
}

pub fn gateway_mac() -> Mac {
    fireclaw_core::id::MacAddr::for_ip(GATEWAY.into()).octets()
}

/// A server that hears datagrams in a namespace.
pub struct Ear(UdpSocket);

impl Ear {
    pub fn at(namespace: &Namespace, port: u16) -> Self {
        let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).expect("a free port"));
        Self(socket)
    }

    pub fn at_six(namespace: &Namespace, port: u16) -> Self {
        Self(namespace.run(|| UdpSocket::bind(("::", port)).expect("a free port")))
    }

    /// The next datagram and who sent it.
    pub fn hear(&self) -> Option<(String, SocketAddr)> {
        self.hear_for(PATIENCE)
    }

    /// Whether this has come, where it must.
    pub fn hears(&self, wanted: &str) -> bool {
        self.waits_for(wanted, None)
    }

    /// Whether this has come, where it must not. A marker that the ear sends to itself bounds the wait.
    pub fn overhears(&self, unwanted: &str) -> bool {
        const MARKER: &str = "marker";
        let mut own = self.0.local_addr().expect("an address");
        own.set_ip(if own.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        self.0.send_to(MARKER.as_bytes(), own).expect("sent");
        self.waits_for(unwanted, Some(MARKER))
    }

    fn waits_for(&self, wanted: &str, marker: Option<&str>) -> bool {
        let mut patience = PATIENCE;
        while let Some((data, _)) = self.hear_for(patience) {
            if data == wanted {
                return true;
            }
            if Some(data.as_str()) == marker {
                patience = GRACE;
            }
        }
        assert!(marker.is_none() || patience == GRACE, "the marker never came");
        false
    }

    fn hear_for(&self, patience: Duration) -> Option<(String, SocketAddr)> {
        self.0.set_read_timeout(Some(patience)).expect("a timeout");
        let mut buffer = [0; 2048];
        let (length, from) = self.0.recv_from(&mut buffer).ok()?;
        Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
    }

    pub fn say(&self, data: &str, to: (Ip, u16)) {
        self.0.send_to(data.as_bytes(), SocketAddr::from(to)).expect("sent");
    }
}
