use super::*;
use crate::{error::Kind, spec::Runtime};

const SMALLEST: &str = r#"{"version":1,"instance_id":"a","runtime":"native","host_port":18891,
    "gateway_token":"t0k3n","model":"anthropic/claude-opus-4-6"}"#;

fn with(field: &str, value: &str) -> String {
    let mut request: serde_json::Value = serde_json::from_str(SMALLEST).unwrap();
    request[field] = serde_json::from_str(value).unwrap();
    request.to_string()
}

#[test]
fn the_smallest_request_is_enough_and_unknown_fields_are_passed_over() {
    let request = ProvisionRequest::parse(&with("from_the_future", "[1]")).unwrap();
    assert_eq!(request.runtime, Runtime::Native);
    assert!(request.telegram.is_none() && !request.keys.has("anthropic") && !request.browser);
}

#[test]
fn a_request_survives_the_way() {
    let full = r#"{"version":1,"instance_id":"my-bot","runtime":"docker","host_port":18891,"gateway_token":"t0k3n",
        "model":"anthropic/x","skills":["github"],"telegram":{"token":"1:a","users":[7]},
        "keys":{"anthropic":"sk-\"$'\\`a"},"openclaw_image":"ghcr.io/openclaw/openclaw:latest","browser":true,
        "providers":{"anthropic":"http://172.16.0.1:9"},"insecure_registries":["172.16.0.1:5000"]}"#;
    let request = ProvisionRequest::parse(full).unwrap();
    let sent = serde_json::to_string(&request).unwrap();
    let original: serde_json::Value = serde_json::from_str(full).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sent).unwrap(), original);
}

#[test]
fn what_cannot_arrive_is_refused_by_name() {
    let cases = [
        ("gateway_token", r#""a b""#, "gateway_token"),
        ("gateway_token", r#""""#, "gateway_token"),
        ("model", r#""a/b\nc""#, "--model"),
        ("skills", r#"["a\nb"]"#, "--skills"),
        ("telegram", r#"{"token":"1:a","users":[]}"#, "--telegram-users"),
        ("telegram", r#"{"token":"nope","users":[1]}"#, "--telegram-token"),
        ("keys", r#"{"openai":"a\nb"}"#, "--openai-api-key"),
        ("runtime", r#""docker""#, "--openclaw-image"),
        ("providers", r#"{"anthropic":"file:///etc"}"#, "provider URL"),
        ("providers", r#"{"a/b":"http://x"}"#, "provider"),
        ("insecure_registries", r#"["a b"]"#, "insecure registry"),
    ];
    for (field, value, named) in cases {
        let error = ProvisionRequest::parse(&with(field, value)).unwrap_err();
        assert!(error.to_string().contains(named), "{field}: {}", error.one_line());
        assert_eq!(error.get_kind(), Kind::Refused);
    }
}

#[test]
fn a_newer_request_is_refused_before_it_is_read() {
    let error = ProvisionRequest::parse(r#"{"version":2,"all":"different"}"#).unwrap_err();
    assert!(error.one_line().contains("knows up to 1"), "{}", error.one_line());
}

#[test]
fn no_secret_is_shown_by_an_error_or_by_debug() {
    let broken = with("host_port", r#""s3cr3t""#).replace("t0k3n", "s3cr3t");
    let error = ProvisionRequest::parse(&broken).unwrap_err();
    assert!(!error.one_line().contains("s3cr3t"), "{}", error.one_line());
    let request = ProvisionRequest::parse(&with("keys", r#"{"openai":"s3cr3t"}"#)).unwrap();
    assert!(!format!("{request:?}").contains("s3cr3t"));
}

#[test]
fn events_are_one_line_each() {
    let events = [
        Event::Step { name: "write openclaw.json".into() },
        Event::Log { line: "a\u{1b}[0m \"b\"\n".into() },
        Event::Warning { text: "no browser".into() },
        Event::Done(Done { changed: vec!["unit".into()], restarted: true, kept: vec![] }),
        Event::Error(Failure::from(&Error::refused("--model", "x", "is not provider/name").hint("try"))),
    ];
    let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')));
    insta::assert_snapshot!(lines.join("\n"));
    for (line, event) in lines.iter().zip(events) {
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
    }
}

#[test]
fn an_event_of_a_newer_guest_is_known_as_unknown() {
    let event: Event = serde_json::from_str(r#"{"event":"sparkle","x":1}"#).unwrap();
    assert_eq!(event, Event::Unknown);
}

#[test]
fn an_error_keeps_its_kind_and_hint_on_the_way() {
    let error = Error::new("accept", "openclaw.json").kind(Kind::Refused).because("bogus").hint("look");
    let arrived = Error::from(Failure::from(&error));
    assert_eq!(arrived.one_line(), error.one_line());
    assert_eq!((arrived.get_kind(), arrived.get_hint()), (Kind::Refused, Some("look")));
}
