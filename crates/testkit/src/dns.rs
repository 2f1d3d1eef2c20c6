//! A stand-in of a DNS server: it knows a few names and remembers what it was asked. Listens where it is told, UDP and TCP.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

/// Names in lower case, without a dot at the end, with their addresses.
pub type Zone = BTreeMap<String, Vec<Ipv4Addr>>;

/// The server. Its threads end with the process.
pub struct Dns {
    asked: Arc<Mutex<Vec<String>>>,
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    /// Listens in the calling thread's network.
    pub fn start(at: SocketAddr, zone: &[(&str, &[[u8; 4]])]) -> io::Result<Self> {
        let known =
            zone.iter().map(|(name, ips)| ((*name).to_owned(), ips.iter().map(|ip| (*ip).into()).collect()));
        let this = Self { asked: Arc::default(), zone: Arc::new(Mutex::new(known.collect())) };
        let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
        let (asked, zone) = (Arc::clone(&this.asked), Arc::clone(&this.zone));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..length], &asked, &zone) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let (asked, zone) = (Arc::clone(&this.asked), Arc::clone(&this.zone));
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                let _ = stream.read_exact(&mut length);
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut question).is_ok()
                    && let Some(answer) = answer(&question, &asked, &zone)
                {
                    let length = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        });
        Ok(this)
    }

    /// Every name that was asked for, as it was written, and whatever else was sent.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while held").clone()
    }

    /// Gives a name other addresses.
    pub fn set(&self, name: &str, ips: &[[u8; 4]]) {
        let ips = ips.iter().map(|ip| (*ip).into()).collect();
        self.zone.lock().expect("no panic while held").insert(name.to_owned(), ips);
    }
}

/// A question for a name's addresses (RFC 1035, 4.1).
pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [id.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend([kind.to_be_bytes(), [0, 1]].concat());
    bytes
}

/// The response code and the addresses of an answer.
pub fn read_answer(bytes: &[u8]) -> (u8, Vec<Ipv4Addr>) {
    let count = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
    let (_, mut at) = name_at(bytes, 12).unwrap_or_default();
    at += 4;
    let mut addresses = Vec::new();
    for _ in 0..count {
        at = name_at(bytes, at).map_or(bytes.len(), |(_, end)| end);
        let Some(head) = bytes.get(at..at + 10) else { break };
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        if head[1] == 1
            && let Some(&[a, b, c, d]) = bytes.get(at + 10..at + 10 + length)
        {
            addresses.push(Ipv4Addr::new(a, b, c, d));
        }
        at += 10 + length;
    }
    (bytes[3] & 15, addresses)
}

/// The name at a place, and where it ends. A pointer ends it.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some((labels.join("."), at + 1)),
            192.. => return Some((labels.join("."), at + 2)),
            length => {
                labels.push(String::from_utf8_lossy(bytes.get(at + 1..at + 1 + length)?).into_owned());
                at += 1 + length;
            }
        }
    }
}

fn answer(question: &[u8], asked: &Mutex<Vec<String>>, zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let Some((name, end)) = name_at(question, 12) else {
        asked.lock().expect("no panic while held").push(String::from_utf8_lossy(question).into_owned());
        return None;
    };
    asked.lock().expect("no panic while held").push(name.clone());
    let kind = question.get(end..end + 2)?;
    let zone = zone.lock().expect("no panic while held");
    let known = zone.get(&name.to_ascii_lowercase());
    let addresses = known.filter(|_| kind == [0, 1]).cloned().unwrap_or_default();
    let code = if known.is_some() { 0 } else { 3 };
    let count = u16::try_from(addresses.len()).ok()?.to_be_bytes();
    let mut answer =
        [&question[..2], &[0x81, 0x80 | code, 0, 1], &count, &[0; 4], &question[12..end + 4]].concat();
    for ip in addresses {
        answer.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4], &ip.octets()[..]].concat());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_answered_and_remembered() {
        let at = (1..100).map(|n| SocketAddr::from(([127, 0, 0, 1], 20_000 + n * 7)));
        let (at, dns) = at
            .into_iter()
            .find_map(|at| Some((at, Dns::start(at, &[("a.example", &[[1, 2, 3, 4]])]).ok()?)))
            .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (name, expected) in
            [("A.example", (0, vec![Ipv4Addr::new(1, 2, 3, 4)])), ("b.example", (3, vec![]))]
        {
            socket.send_to(&question(7, name, 1), at).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(read_answer(&buffer[..length]), expected);
        }
        assert_eq!(dns.asked(), ["A.example", "b.example"]);
    }
}
