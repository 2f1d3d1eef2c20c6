//! A small HTTP/1.1 server on threads, for the stand-ins. Listens where it is told.

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The longest head and the longest body of a request.
const HEAD_MAX: u64 = 64 << 10;
const BODY_MAX: u64 = 16 << 20;

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// `GET`, `POST`, …
    pub method: String,
    /// With its query.
    pub path: String,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Received {
    /// The first header of a name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

/// What follows the head.
pub(crate) enum Body {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of this length.
    File(std::fs::File, u64),
    /// These pieces, each sent by itself.
    Pieces(Vec<String>),
    /// The first half of these bytes, then the connection ends.
    Half(Vec<u8>),
}

impl Reply {
    pub(crate) fn json(status: &'static str, body: &serde_json::Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { status, headers, body: Body::Bytes(body.to_string().into_bytes()) }
    }
}

type Answer = dyn Fn(&Received) -> Reply + Send + Sync;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        bind: impl ToSocketAddrs,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_with(bind, None, answer)
    }

    /// The same, over TLS where there is a configuration for it.
    pub(crate) fn start_with(
        bind: impl ToSocketAddrs,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(bind)?;
        let address = listener.local_addr()?;
        let (ending, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let answer: Arc<Answer> = Arc::new(answer);
        let (stop, connections) = (Arc::clone(&ending), Arc::clone(&open));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(copy) = stream.try_clone() {
                    connections.lock().expect("no panic while held").push(copy);
                }
                let (answer, tls) = (Arc::clone(&answer), tls.clone());
                thread::spawn(move || {
                    match tls.map(ServerConnection::new) {
                        None => serve(&stream, &*answer),
                        Some(Ok(server)) => serve(StreamOwned::new(server, &stream), &*answer),
                        Some(Err(_)) => {}
                    }
                    // Its copy in the list keeps it open otherwise.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, ending, open, accepting: Some(accepting) })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.open.lock().expect("no panic while held").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Answers the requests of one connection until either side ends it.
fn serve(stream: impl Read + Write, answer: &Answer) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = receive(&mut stream) {
        let last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let reply = answer(&request);
        let mut writer = BufWriter::new(stream.get_mut());
        if send(&mut writer, reply, request.method == "HEAD").is_err() || last {
            break;
        }
    }
}

fn receive<S: Read + Write>(reader: &mut BufReader<S>) -> io::Result<Option<Received>> {
    let bad = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut head = reader.by_ref().take(HEAD_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(bad("not a request")) };
    let mut received =
        Received { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(bad("the head does not end"));
        }
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { break };
        received.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if received.header("expect").is_some() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        reader.get_mut().flush()?;
    }
    let length = received.header("content-length").map_or(Ok(0), str::parse).map_err(|_| bad("no length"))?;
    if length > BODY_MAX || received.header("transfer-encoding").is_some() {
        return Err(bad("a body that is not taken"));
    }
    reader.take(length).read_to_end(&mut received.body)?;
    Ok(Some(received))
}

fn send(writer: &mut impl Write, reply: Reply, head_only: bool) -> io::Result<()> {
    write!(writer, "HTTP/1.1 {}\r\n", reply.status)?;
    for (name, value) in &reply.headers {
        write!(writer, "{name}: {value}\r\n")?;
    }
    match &reply.body {
        Body::Bytes(bytes) | Body::Half(bytes) => {
            write!(writer, "Content-Length: {}\r\n\r\n", bytes.len())?;
        }
        Body::File(_, length) => write!(writer, "Content-Length: {length}\r\n\r\n")?,
        Body::Pieces(_) => write!(writer, "Transfer-Encoding: chunked\r\n\r\n")?,
    }
    if head_only {
        return writer.flush();
    }
    match reply.body {
        Body::Bytes(bytes) => writer.write_all(&bytes)?,
        Body::Half(bytes) => {
            writer.write_all(&bytes[..bytes.len() / 2])?;
            writer.flush()?;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "as it was asked for"));
        }
        Body::File(file, length) => {
            io::copy(&mut file.take(length), writer)?;
        }
        Body::Pieces(pieces) => {
            for piece in pieces {
                write!(writer, "{:x}\r\n{piece}\r\n", piece.len())?;
                writer.flush()?;
            }
            writer.write_all(b"0\r\n\r\n")?;
        }
    }
    writer.flush()
}
