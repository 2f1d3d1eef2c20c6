//! What a program in a guest does: asks for names, speaks HTTP and TLS, or only looks as if.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use fireclaw_testkit::{
    dns::{question, read_answer},
    tls::Authority,
};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{lab::Namespace, stage::PATIENCE};

/// What must not be answered is not waited for long.
const SHORT: Duration = Duration::from_millis(400);

pub fn connect(from: &Namespace, to: [u8; 4], port: u16, patience: Duration) -> std::io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&SocketAddr::from((to, port)), patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Sends and returns what comes back until the other end is quiet or gone. Nothing when there is no connection.
pub fn say(from: &Namespace, to: [u8; 4], port: u16, text: &[u8]) -> String {
    say_in(from, to, port, &[text])
}

/// The same in pieces, each a segment of its own.
pub fn say_in(from: &Namespace, to: [u8; 4], port: u16, pieces: &[&[u8]]) -> String {
    let Ok(mut stream) = connect(from, to, port, SHORT) else { return String::new() };
    let _ = stream.set_nodelay(true);
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(&buffer[..length]);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(60)));
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Reads until the other end is done or says nothing more; megabytes a second.
pub fn speed(mut from: impl Read) -> f64 {
    let (begun, mut bytes, mut buffer) = (std::time::Instant::now(), 0, vec![0; 256 << 10]);
    let mut took = Duration::ZERO;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        bytes += length;
        took = begun.elapsed();
    }
    assert!(bytes > 1 << 20, "only {bytes} bytes came");
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = bytes as f64 / 1e6;
    megabytes / took.as_secs_f64()
}

pub fn datagram(from: &Namespace, to: [u8; 4], port: u16, data: &[u8]) {
    let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    // A refusal comes back as an error, here or at the next call.
    let _ = socket.send_to(data, SocketAddr::from((to, port)));
}

/// Asks a resolver; `None` without an answer.
pub fn ask(from: &Namespace, resolver: [u8; 4], name: &str, kind: u16) -> Option<(u8, Vec<Ipv4Addr>)> {
    let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&question(77, name, kind), SocketAddr::from((resolver, 53))).ok()?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    assert_eq!(buffer[..2], [0, 77]);
    Some(read_answer(&buffer[..length]))
}

/// The same by TCP.
pub fn ask_stream(from: &Namespace, resolver: [u8; 4], name: &str) -> Option<(u8, Vec<Ipv4Addr>)> {
    let mut stream = connect(from, resolver, 53, SHORT).ok()?;
    let asked = question(78, name, 1);
    stream
        .write_all(&[&u16::try_from(asked.len()).unwrap().to_be_bytes(), asked.as_slice()].concat())
        .ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(read_answer(&answer))
}

/// A `ClientHello` as a real client makes it, with a marker in its list of protocols.
pub fn hello(name: Option<&str>, marker: &str) -> Vec<u8> {
    let mut config = Authority::new().client();
    config.alpn_protocols = vec![marker.as_bytes().to_vec()];
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("unsaid.example").to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same with an encrypted `ClientHello` beside the one that is read.
pub fn hello_with_ech(name: &str, marker: &str) -> Vec<u8> {
    let mut bytes = hello(Some(name), marker);
    let extension = [&[0xfe, 0x0d, 0, 8][..], b"\0encrypt"].concat();
    bytes.extend_from_slice(&extension);
    let grow = |bytes: &mut Vec<u8>, at: usize| {
        let length = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + u16::try_from(extension.len()).unwrap();
        bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    };
    // Record, handshake (three bytes, of which the last two suffice), and the list of extensions.
    grow(&mut bytes, 3);
    grow(&mut bytes, 7);
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(bytes[at]);
    at += 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    at += 1 + usize::from(bytes[at]);
    grow(&mut bytes, at);
    bytes
}

/// A whole TLS connection.
pub fn tls(stream: TcpStream, authority: &Authority, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(authority.client()), name).unwrap(), stream)
}
