//! The gateway's probe addresses, asked in the guest. Connects to the guest's own loopback.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use fireclaw_core::guest::gate::Answer;

/// A gateway that can be asked.
pub(super) trait Gateway {
    /// One GET.
    fn get(&self, path: &str) -> Answer;

    /// Whether anybody listens.
    fn listening(&self) -> bool;
}

/// The gateway on a port of the loopback.
pub(super) struct Loopback(pub(super) u16);

/// An emulated guest under load takes seconds for what is instant elsewhere.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is read. Probes answer in a few hundred bytes, the UI's page in some thousand.
const ANSWER_MAX: u64 = 1 << 18;

impl Loopback {
    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.0)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        // HTTP/1.0: the end of the body is the end of the connection, and nothing is chunked.
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.0);
        // In one piece: who answers the first of many and closes would break the rest.
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Gateway for Loopback {
    fn get(&self, path: &str) -> Answer {
        match self.ask(path) {
            Err(error) => Answer::Silence(error.to_string()),
            Ok(text) => parse(&text).unwrap_or_else(|| Answer::Silence("the answer is not HTTP".to_owned())),
        }
    }

    fn listening(&self) -> bool {
        self.connect().is_ok()
    }
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Answer::Http { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Answers one connection with these bytes.
    fn answering(answer: &'static str) -> Loopback {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Loopback(port)
    }

    #[test]
    fn a_status_and_a_body_are_read() {
        let gateway = answering("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\n{\"ok\":false}");
        assert_eq!(gateway.get("/readyz"), Answer::Http { status: 503, body: "{\"ok\":false}".into() });
    }

    #[test]
    fn anything_else_is_silence() {
        assert!(matches!(answering("SSH-2.0-x\r\n").get("/"), Answer::Silence(_)));
        let closed = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            Loopback(listener.local_addr().unwrap().port())
        };
        assert!(matches!(closed.get("/"), Answer::Silence(why) if why.contains("refused")));
        assert!(!closed.listening());
    }
}
