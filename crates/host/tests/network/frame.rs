//! Ethernet frames as bytes, well formed but for what a test makes wrong on purpose.

pub type Mac = [u8; 6];
pub type Ip = [u8; 4];

pub const BROADCAST: Mac = [0xff; 6];

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A MAC as programs print it.
pub fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Puts a VLAN tag behind the addresses of a frame.
pub fn tagged(frame: &[u8], protocol: u16, vlan: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &vlan.to_be_bytes(), &frame[12..]].concat()
}

pub fn ipv4(from: Ip, to: Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short packet").to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend_from_slice(&from);
    header.extend_from_slice(&to);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// A UDP datagram in IPv4, where a checksum of zero means none.
pub fn udp(from: (Ip, u16), to: (Ip, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a short datagram");
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    ipv4(from.0, to.0, 17, &[&ports, data].concat())
}

/// The first segment of a TCP connection.
pub fn syn(from: (Ip, u16), to: (Ip, u16)) -> Vec<u8> {
    tcp(from, to, 0x02)
}

/// The end of a TCP connection.
pub fn reset(from: (Ip, u16), to: (Ip, u16)) -> Vec<u8> {
    tcp(from, to, 0x04)
}

fn tcp(from: (Ip, u16), to: (Ip, u16), flags: u8) -> Vec<u8> {
    let mut segment = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes()].concat();
    segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&from.0[..], &to.0, &[0, 6, 0, 20]].concat();
    let sum = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&sum);
    ipv4(from.0, to.0, 6, &segment)
}

pub fn echo_request(from: Ip, to: Ip) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 7, 0, 1];
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum);
    ipv4(from, to, 1, &message)
}

/// A UDP datagram in IPv6.
pub fn udp6(from: ([u8; 16], u16), to: ([u8; 16], u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a short datagram").to_be_bytes();
    let mut datagram = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &length, &[0, 0], data].concat();
    let pseudo = [&from.0[..], &to.0, &[0, 0], &length, &[0, 0, 0, 17]].concat();
    let sum = checksum(&[&pseudo, &datagram]);
    datagram[6..8].copy_from_slice(&sum);
    [&[0x60, 0, 0, 0][..], &length, &[17, 64], &from.0, &to.0, &datagram].concat()
}

/// An ARP packet: operation 1 asks, 2 answers.
pub fn arp(operation: u8, sender: (Mac, Ip), target: (Mac, Ip)) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender.0, &sender.1, &target.0, &target.1].concat()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}
