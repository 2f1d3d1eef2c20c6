//! The stand-in of a gateway behind the proxies: answers small HTTP requests, sends without end, or holds a connection.
//! Listens on loopback, one thread a connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use fireclaw_core::error::{Context, Result};

/// What a client sends for one request.
pub const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n";
/// What it gets for it: the size of a gateway's health answer with a few headers.
pub const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"ok\":true,\"status\":\"live\"}";
/// Asks for bytes until the client hangs up.
pub const DOWNLOAD: u8 = b'D';
/// Asks for this byte back, and then for silence.
pub const HOLD: u8 = b'H';

/// Reading a request needs little; a thousand held connections are a thousand threads.
const STACK: usize = 64 << 10;

/// Serves until the process ends.
pub fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("listen on", address)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = thread::Builder::new().stack_size(STACK).spawn(move || answer(stream));
        }
    });
    Ok(())
}

/// One connection; its first byte says what the client came for. Any error means that the client is gone.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request[..1])?;
    match request[0] {
        DOWNLOAD => {
            let zeros = vec![0; 256 << 10];
            loop {
                stream.write_all(&zeros)?;
            }
        }
        HOLD => {
            stream.write_all(&[HOLD])?;
            stream.read(&mut request).map(drop)
        }
        _ => {
            stream.read_exact(&mut request[1..])?;
            loop {
                stream.write_all(RESPONSE)?;
                stream.read_exact(&mut request)?;
            }
        }
    }
}
