use super::*;
use crate::guest::merge;

fn request(fields: &str) -> ProvisionRequest {
    ProvisionRequest::parse(&format!(
        r#"{{"version":1,"instance_id":"my-bot","host_port":18891,"gateway_token":"s3cr3t-gateway",
            "model":"anthropic/claude-opus-4-6",{fields}}}"#
    ))
    .unwrap()
}

fn rendered(request: &ProvisionRequest, facts: &Facts) -> String {
    let settings = settings(request, facts, None);
    merge::render_config(&merge::merge(&json!({}), None, &settings).config)
}

fn first_time() -> Facts {
    Facts { browser: None, gateway_token_changed: true, telegram_token_changed: true }
}

#[test]
fn a_local_gateway() {
    let request = request(r#""runtime":"native","skills":["github","tmux","coding-agent"]"#);
    let browser = Browser { executable: Some("/usr/bin/chromium".into()), sandbox: true };
    // The browser is there and was not asked for.
    insta::assert_snapshot!(rendered(&request, &Facts { browser: Some(browser), ..first_time() }));
}

#[test]
fn everything() {
    let request = request(
        r#""runtime":"native","skills":["github"],"telegram":{"token":"123:s3cr3t-telegram","users":[11,22]},
            "keys":{"openai":"s3cr3t-openai"},"browser":true,
            "providers":{"anthropic":"http://172.16.0.1:4000","openai":"http://172.16.0.1:4001/v1"}"#,
    );
    let browser = Browser { executable: Some("/usr/bin/chromium".into()), sandbox: false };
    let text = rendered(&request, &Facts { browser: Some(browser), ..first_time() });
    assert!(!text.contains("s3cr3t"), "no secret is in openclaw.json");
    insta::assert_snapshot!(text);
}

#[test]
fn a_container_brings_its_own_browser_and_forbids_its_sandbox() {
    let request = request(
        r#""runtime":"docker","openclaw_image":"ghcr.io/openclaw/openclaw:latest-browser","browser":true"#,
    );
    let browser = Browser { executable: None, sandbox: true };
    let settings = settings(&request, &Facts { browser: Some(browser), ..first_time() }, None);
    let find =
        |pointer: &str| settings.iter().find(|setting| setting.pointer == pointer).unwrap().value.clone();
    assert_eq!(find("/browser/executablePath"), None);
    assert_eq!(find("/browser/headless"), Some(json!(true)));
    assert_eq!(find("/browser/noSandbox"), Some(json!(true)));
    // No skills at all is not OpenClaw's empty list, which allows every one.
    assert_eq!(find("/skills/allowBundled"), Some(json!(["none"])));
}

/// OpenClaw's substitution as it was tried on 2026.9.6: `$${NAME}` is `${NAME}`, a lone `${NAME}` is the variable.
fn openclaw_reads(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if c == '$' && after.starts_with('$') && names_a_variable(&after[1..]) {
            let end = after.find('}').unwrap() + 1;
            out.push_str(&after[..end]);
            rest = &after[end..];
            continue;
        }
        if c == '$' && names_a_variable(after) {
            let end = after.find('}').unwrap() + 1;
            out.push_str("VALUE");
            rest = &after[end..];
            continue;
        }
        out.push(c);
        rest = after;
    }
    out
}

proptest::proptest! {
    #[test]
    fn a_text_arrives_byte_for_byte(value in r#"([$]{0,3}\{?[A-Z_a-z0-9]{0,3}\}?|["'\\🦀 ]){0,8}"#) {
        let Value::String(written) = text(&value) else { unreachable!() };
        proptest::prop_assert_eq!(openclaw_reads(&written), value);
    }
}

#[test]
fn a_variable_of_the_gateways_environment_is_not_let_in() {
    assert_eq!(text("a/${OPENCLAW_GATEWAY_TOKEN}"), json!("a/$${OPENCLAW_GATEWAY_TOKEN}"));
    assert_eq!(text("$5 ${lower} $X \"'🦀"), json!("$5 ${lower} $X \"'🦀"));
}

#[test]
fn a_provider_that_is_gone_is_taken_away() {
    let with = request(r#""runtime":"native","providers":{"a.b":"http://x"}"#);
    let first = settings(&with, &first_time(), None);
    let config = merge::merge(&json!({}), None, &first).config;
    assert_eq!(config["models"]["providers"]["a.b"]["apiKey"], "held-elsewhere");
    let base = merge::base(&first);
    let second = settings(&request(r#""runtime":"native""#), &Facts::default(), Some(&base));
    let merged = merge::merge(&config, Some(&base), &second);
    assert_eq!(merged.config.get("models"), None);
    assert!(merged.kept.is_empty());
}

#[test]
fn what_nobody_asked_for_is_not_taken_from_an_older_configuration() {
    let current = json!({
        "browser": {"executablePath": "/home/node/chrome", "noSandbox": true},
        "channels": {"telegram": {"dmPolicy": "pairing"}},
        "gateway": {"auth": {"token": "old"}},
    });
    let settings = settings(&request(r#""runtime":"native""#), &first_time(), None);
    let merged = merge::merge(&current, None, &settings);
    assert_eq!(merged.config["browser"], current["browser"]);
    assert_eq!(merged.config["channels"]["telegram"], json!({"dmPolicy": "pairing", "enabled": false}));
    assert_eq!(merged.config["gateway"]["auth"], json!({"mode": "token"}));
}
