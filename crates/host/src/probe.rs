//! A gateway's gates over HTTP. What they mean is decided in `fireclaw_core::guest::gate`; this only asks. Opens
//! connections.

use std::time::Duration;

use fireclaw_core::guest::gate::{self, Answer, Reading};

use crate::http::{self, Server};

/// Asks a gateway what there is to ask: one GET when nobody answers, at most three, each with the deadline.
pub async fn read(gateway: &Server, deadline: Duration) -> Reading {
    let mut known: Vec<(String, Answer)> = Vec::new();
    loop {
        // The reader is told what is known so far. The first thing that it misses is asked, and it reads again.
        let mut missing = None;
        let reading = gate::read(|path| {
            if let Some((_, answer)) = known.iter().find(|(asked, _)| asked == path) {
                return answer.clone();
            }
            missing.get_or_insert_with(|| path.to_owned());
            Answer::Silence(String::new())
        });
        let Some(path) = missing else { return reading };
        let answer = match http::get(gateway, &path, deadline).await {
            Ok(reply) => answer(reply.status, &reply.body),
            Err(error) => Answer::Silence(error.causes().join(": ")),
        };
        known.push((path, answer));
    }
}

fn answer(status: u16, body: &[u8]) -> Answer {
    Answer::Http { status, body: String::from_utf8_lossy(body).into_owned() }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpListener},
        sync::{Arc, Mutex},
        thread,
    };

    use fireclaw_core::report::Health;

    use super::*;

    const PAGE: &str = "<!doctype html><title>OpenClaw</title>";
    const STARTED: &str = r#"{"ok":true,"status":"started"}"#;
    const LIVE: &str = r#"{"ok":true,"status":"live"}"#;

    type Answers = &'static [(&'static str, u16, &'static str)];

    /// A gateway that answers each path with a status and body and writes down what it was asked. It stops with the test.
    fn gateway(answers: Answers) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let (_, status, body) = answers
                    .iter()
                    .find(|(known, ..)| *known == path)
                    .copied()
                    .unwrap_or(("", 404, "Not Found"));
                seen.lock().unwrap().push(path);
                let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        (address, asked)
    }

    fn ask(address: SocketAddr) -> Reading {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(read(&Server::Tcp(address), Duration::from_secs(10)))
    }

    #[test]
    fn gateways_of_every_kind() {
        use Health::{Degraded, Down, Starting, Up};
        let cases: [(Answers, Health, &[&str]); 8] = [
            (
                &[("/startupz", 200, STARTED), ("/readyz", 200, r#"{"ready":true}"#)],
                Up,
                &["/startupz", "/readyz"],
            ),
            (
                &[("/startupz", 200, STARTED), ("/readyz", 503, r#"{"ready":false}"#)],
                Degraded,
                &["/startupz", "/readyz"],
            ),
            (&[("/startupz", 503, r#"{"ok":false,"status":"starting"}"#)], Starting, &["/startupz"]),
            (&[("/startupz", 503, r#"{"ok":false,"status":"draining"}"#)], Starting, &["/startupz"]),
            // Before there was a start gate.
            (&[("/healthz", 200, LIVE)], Up, &["/startupz", "/healthz"]),
            // The same, where unknown addresses give the page of the UI.
            (&[("/startupz", 200, PAGE), ("/healthz", 200, LIVE)], Up, &["/startupz", "/healthz"]),
            // A page everywhere is no gateway's answer, whatever its status.
            (&[("/startupz", 200, PAGE), ("/healthz", 200, PAGE)], Down, &["/startupz", "/healthz"]),
            (&[], Down, &["/startupz", "/healthz"]),
        ];
        for (answers, health, paths) in cases {
            let (address, asked) = gateway(answers);
            assert_eq!(ask(address).health, health, "{answers:?}");
            assert_eq!(*asked.lock().unwrap(), paths, "{answers:?}");
        }
    }

    #[test]
    fn where_nobody_answers_one_question_is_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let reading = ask(address);
        assert_eq!(reading.health, Health::Down);
        assert!(reading.detail.unwrap().contains("refused"));
    }
}
