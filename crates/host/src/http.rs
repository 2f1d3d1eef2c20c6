//! A small HTTP/1.1 client over TCP and Unix sockets: one request a connection, a deadline over all of it, a bounded
//! answer. Opens sockets, nothing else.
//!
//! [`send`] blocks; [`send_async`] and [`get`] are for callers that ask hundreds of servers at once in one runtime.

use std::{fmt, future::Future, net::SocketAddr, path::PathBuf, pin::pin, time::Duration};

use fireclaw_core::error::{Context, Error, Result};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: &'a str,
    /// Sent as JSON. Never shown in an error.
    pub body: Option<&'a Value>,
    /// For connecting, sending and the whole answer together.
    pub deadline: Duration,
    /// How much of the answer's body is kept, in bytes.
    pub limit: usize,
}

/// What is kept of an answer when nobody says otherwise: more than any of the APIs here answer.
pub const LIMIT: usize = 1 << 20;

impl<'a> Request<'a> {
    /// A `GET` with the usual limit.
    pub const fn get(path: &'a str, deadline: Duration) -> Self {
        Self { method: Method::GET, path, body: None, deadline, limit: LIMIT }
    }
}

/// What was answered, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body, cut at the request's limit.
    pub body: Vec<u8>,
    /// Whether there was more than the limit.
    pub cut: bool,
}

impl Reply {
    /// Whether the status is of the 2xx kind.
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The body as JSON, `None` when it is anything else.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Asks and waits for the answer. Any status is an `Ok`.
pub fn send(server: &Server, request: &Request<'_>) -> Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start", "the network event loop")?;
    runtime.block_on(send_async(server, request))
}

/// [`send`] for callers that have a runtime.
pub async fn send_async(server: &Server, request: &Request<'_>) -> Result<Reply> {
    let failed = || Error::new("ask", format!("{server} for {} {}", request.method, request.path));
    match tokio::time::timeout(request.deadline, exchange(server, request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(failed().source(error)),
        Err(_) => Err(failed().because(format!("no answer within {} ms", request.deadline.as_millis()))),
    }
}

/// A `GET` for callers that have a runtime. Keeps at most [`LIMIT`] bytes of the answer.
pub async fn get(server: &Server, path: &str, deadline: Duration) -> Result<Reply> {
    send_async(server, &Request::get(path, deadline)).await
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(server: &Server, request: &Request<'_>) -> Result<Reply, Failure> {
    match server {
        Server::Tcp(address) => {
            converse(TcpStream::connect(address).await?, &address.to_string(), request).await
        }
        Server::Unix(path) => converse(UnixStream::connect(path).await?, "localhost", request).await,
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let body = match request.body {
        Some(body) => Bytes::from(serde_json::to_vec(body)?),
        None => Bytes::new(),
    };
    let mut message = hyper::Request::builder()
        .method(&request.method)
        .uri(request.path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close");
    if request.body.is_some() {
        message = message.header(header::CONTENT_TYPE, "application/json");
    }
    let message = message.body(Full::new(body))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(message).await?;
        let status = response.status().as_u16();
        let (body, cut) = collect(response.into_body(), request.limit).await?;
        Ok(Reply { status, body, cut })
    };
    drive(answer, connection).await
}

/// The connection does the work and must be polled; the answer may outlive it when the server closes first.
async fn drive<T>(answer: impl Future<Output = T>, connection: impl Future) -> T {
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

async fn collect(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = limit - kept.len();
        if data.len() > room {
            kept.extend_from_slice(&data[..room]);
            return Ok((kept, true));
        }
        kept.extend_from_slice(&data);
    }
    Ok((kept, false))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::{TcpListener, TcpStream as StdTcpStream},
        os::unix::net::UnixListener,
        thread,
        time::Instant,
    };

    use serde_json::json;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    /// A server for one request, which it hands back as text.
    fn serve(answer: &'static str) -> (Server, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::Tcp(listener.local_addr().unwrap());
        (server, thread::spawn(move || talk(listener.accept().unwrap().0, answer)))
    }

    fn talk(mut stream: impl Read + Write, answer: &str) -> String {
        let mut reader = BufReader::new(&mut stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the request ended early: {head}");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        // A client that has enough may close before all is written.
        let _ = stream.write_all(answer.as_bytes());
        head + &String::from_utf8(body).unwrap()
    }

    #[test]
    fn a_json_body_arrives_and_any_status_is_an_answer() {
        let (server, thread) = serve("HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\n\r\n{\"a\": 1}");
        let body = json!({"x": "é\n"});
        let request = Request { method: Method::PUT, body: Some(&body), ..Request::get("/p?q=1", LONG) };
        let reply = send(&server, &request).unwrap();
        assert_eq!((reply.status, reply.is_success(), reply.cut), (400, false, false));
        assert_eq!(reply.json(), Some(json!({"a": 1})));
        let seen = thread.join().unwrap();
        assert!(seen.starts_with("PUT /p?q=1 HTTP/1.1\r\n"), "{seen}");
        assert!(seen.to_ascii_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{seen}");
        assert!(seen.ends_with("{\"x\":\"é\\n\"}"), "{seen}");
    }

    #[test]
    fn a_get_has_no_body_and_an_answer_may_end_with_the_connection() {
        let (server, thread) = serve("HTTP/1.1 200 OK\r\n\r\nlive");
        let reply = send(&server, &Request::get("/", LONG)).unwrap();
        assert_eq!((reply.status, reply.body.as_slice(), reply.json()), (200, &b"live"[..], None));
        assert!(!thread.join().unwrap().to_ascii_lowercase().contains("content-length"));
    }

    #[test]
    fn chunks_are_put_together_and_cut_at_the_limit() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n4\r\nefgh\r\n0\r\n\r\n";
        for (limit, body, cut) in [(8, "abcdefgh", false), (6, "abcdef", true)] {
            let (server, thread) = serve(chunked);
            let reply = send(&server, &Request { limit, ..Request::get("/", LONG) }).unwrap();
            assert_eq!((String::from_utf8(reply.body).unwrap().as_str(), reply.cut), (body, cut));
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_unix_socket_works_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread =
            thread::spawn(move || talk(listener.accept().unwrap().0, "HTTP/1.1 204 No Content\r\n\r\n"));
        assert_eq!(send(&Server::Unix(path), &Request::get("/", LONG)).unwrap().status, 204);
        thread.join().unwrap();
    }

    #[test]
    fn a_silent_server_costs_the_deadline_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Instant::now();
        let error = send(&Server::Tcp(address), &Request::get("/health", SOON)).unwrap_err();
        assert_eq!(
            error.one_line(),
            format!("cannot ask {address} for GET /health: no answer within 200 ms")
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn nobody_there_and_nonsense_are_errors_that_name_the_server() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = send(&Server::Tcp(free), &Request::get("/", LONG)).unwrap_err().one_line();
        assert!(error.contains(&free.to_string()) && error.contains("refused"), "{error}");
        let error = send(&Server::Unix("/nonexistent/sock".into()), &Request::get("/", LONG)).unwrap_err();
        assert!(error.one_line().contains("/nonexistent/sock"), "{}", error.one_line());
        let (server, thread) = serve("SSH-2.0-x\r\n\r\n");
        assert!(send(&server, &Request::get("/", LONG)).is_err());
        thread.join().unwrap();
        let (server, thread) = serve("");
        assert!(send(&server, &Request::get("/", LONG)).is_err());
        thread.join().unwrap();
    }

    /// 250 servers that answer after 100 ms each are asked in far less than 25 s by one thread.
    #[test]
    fn many_are_asked_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::Tcp(listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || slow(stream.unwrap()));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begun = Instant::now();
        let asked: Vec<_> = (0..250).map(|_| get(&server, "/health", LONG)).collect();
        let replies = runtime.block_on(async {
            let mut replies = Vec::new();
            let mut asked: Vec<_> = asked.into_iter().map(Box::pin).collect();
            while !asked.is_empty() {
                let (reply, _, rest) = futures_util::future::select_all(asked).await;
                replies.push(reply);
                asked = rest;
            }
            replies
        });
        assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(Reply::is_success)));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    fn slow(stream: StdTcpStream) {
        crate::wait::pause_for(Duration::from_millis(100));
        talk(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
}
