//! A stand-in of Anthropic's Messages API: it answers every conversation with one text and remembers what it was asked. Listens
//! where it is told.
//!
//! A real OpenClaw does a whole agent turn against it, with a configuration that points its provider here:
//!
//! ```text
//! { models: { providers: { anthropic: { baseUrl: "http://ADDRESS", models: [] } } },
//!   agents: { defaults: { model: { primary: "anthropic/claude-opus-4-6" } } } }
//!
//! ANTHROPIC_API_KEY=anything  openclaw agent --local --agent main -m "a question"
//! ```

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

pub use crate::http::Received;
use crate::http::{Body, Reply, Server};

/// The server; it ends when it is dropped.
pub struct Provider {
    server: Server,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Provider {
    /// Listens at `bind` (port 0 takes a free one) and answers with `text`.
    pub fn start(bind: impl ToSocketAddrs, text: &str) -> io::Result<Self> {
        Self::start_with(bind, None, text)
    }

    /// The same, over TLS where there is a configuration for it ([`crate::tls::Authority::server`]).
    pub fn start_with(
        bind: impl ToSocketAddrs,
        tls: Option<Arc<rustls::ServerConfig>>,
        text: &str,
    ) -> io::Result<Self> {
        let requests: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (seen, text) = (Arc::clone(&requests), text.to_owned());
        let server = Server::start_with(bind, tls, move |request| {
            seen.lock().expect("no panic while held").push(request.clone());
            reply(request, &text)
        })?;
        Ok(Self { server, requests })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its base URL as a provider's `baseUrl`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("no panic while held").clone()
    }

    /// The conversations among them: what was posted to `/v1/messages`.
    pub fn conversations(&self) -> Vec<Received> {
        self.requests().into_iter().filter(is_conversation).collect()
    }
}

fn path(request: &Received) -> &str {
    request.path.split('?').next().unwrap_or_default()
}

fn is_conversation(request: &Received) -> bool {
    request.method == "POST" && path(request) == "/v1/messages"
}

fn reply(request: &Received, text: &str) -> Reply {
    if is_conversation(request) {
        let asked = request.json();
        let model = asked.get("model").cloned().unwrap_or_default();
        return match asked.get("stream").and_then(Value::as_bool) {
            Some(true) => streamed(&model, text),
            _ => {
                Reply::json("200 OK", &message(&model, &json!([{"type": "text", "text": text}]), "end_turn"))
            }
        };
    }
    if path(request) == "/v1/models" {
        let none = json!({"data": [], "has_more": false, "first_id": null, "last_id": null});
        return Reply::json("200 OK", &none);
    }
    let error = json!({"type": "not_found_error", "message": "this stand-in only holds conversations"});
    Reply::json("404 Not Found", &json!({"type": "error", "error": error}))
}

fn message(model: &Value, content: &Value, stop: &str) -> Value {
    let stop = if stop.is_empty() { Value::Null } else { json!(stop) };
    json!({
        "id": "msg_standin", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1},
    })
}

/// The six server-sent events of a streamed answer.
fn streamed(model: &Value, text: &str) -> Reply {
    let events = [
        json!({"type": "message_start", "message": message(model, &json!([]), "")}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    let pieces = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
        .collect();
    let headers = vec![
        ("Content-Type", "text/event-stream; charset=utf-8".to_owned()),
        ("Cache-Control", "no-cache".to_owned()),
    ];
    Reply { status: "200 OK", headers, body: Body::Pieces(pieces) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{body, exchange};

    #[test]
    fn a_streamed_conversation_is_six_events_and_remembered() {
        let provider = Provider::start("127.0.0.1:0", "forty-two").unwrap();
        let asked = r#"{"model":"m","stream":true,"messages":[]}"#;
        let request = format!(
            "POST /v1/messages?beta=true HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{asked}",
            asked.len()
        );
        let answer = exchange(provider.address(), &request);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"), "{answer}");
        let kinds: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(
            kinds,
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop"
            ]
        );
        assert!(answer.contains(r#""text":"forty-two""#) && answer.ends_with("0\r\n\r\n"));
        let seen = provider.conversations();
        assert_eq!((seen.len(), seen[0].header("x-api-key")), (1, Some("k")));
        assert_eq!(seen[0].json()["model"], "m");
    }

    #[test]
    fn a_plain_conversation_is_one_message() {
        let provider = Provider::start("127.0.0.1:0", "forty-two").unwrap();
        let answer = exchange(
            provider.address(),
            "POST /v1/messages HTTP/1.1\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{\"model\":\"m\"}",
        );
        let answer: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!((&answer["content"][0]["text"], &answer["model"]), (&json!("forty-two"), &json!("m")));
    }

    #[test]
    fn one_connection_carries_several_requests_and_other_addresses_are_not_there() {
        let provider = Provider::start("127.0.0.1:0", "x").unwrap();
        let answer = exchange(
            provider.address(),
            "GET /v1/models HTTP/1.1\r\n\r\nPOST /chat/completions HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        );
        assert!(
            answer.contains("\"has_more\":false") && answer.contains("HTTP/1.1 404 Not Found"),
            "{answer}"
        );
        assert_eq!((provider.requests().len(), provider.conversations().len()), (2, 0));
    }

    #[test]
    fn it_is_gone_when_it_is_dropped() {
        let provider = Provider::start("127.0.0.1:0", "x").unwrap();
        let address = provider.address();
        drop(provider);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
