use std::os::unix::fs::PermissionsExt;

use fireclaw_core::{error::Kind, guest::protocol::Event};
use fireclaw_host::exec::Output;
use serde_json::json;

use super::{super::*, world::*};

fn steps(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| if let Event::Step { name } = event { Some(name.as_str()) } else { None })
        .collect()
}

#[test]
fn a_bare_guest_is_made_ready() {
    let world = World::new();
    let (events, done) = world.provision(REQUEST);
    let done = done.unwrap();
    assert_eq!(done.changed, ["openclaw.json", "environment", "unit"]);
    assert!(done.restarted && done.kept.is_empty());
    assert_eq!(steps(&events), ["prepare the guest", "start the gateway"]);
    assert!(world.machine(|machine| machine.active && machine.enabled));
    insta::assert_snapshot!(world.text(CONFIG));
    insta::assert_snapshot!(world.text(UNIT));
    assert!(world.text("/home/ubuntu/.openclaw/.env").contains("OPENCLAW_GATEWAY_TOKEN=s3cr3t-gateway"));
    let mode = |path: &str| world.path(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode("/home/ubuntu/.openclaw"), mode("/etc/fireclaw"), mode("/var/lib/fireclaw")],
        [0o700; 3]
    );
    let base = "/var/lib/fireclaw/openclaw-my-bot.json";
    assert_eq!(
        [mode(CONFIG), mode(ENVIRONMENT), mode(base), mode("/home/ubuntu/.openclaw/.env")],
        [0o600; 4]
    );
    assert!(!world.path(PENDING).exists());
}

#[test]
fn secrets_are_only_where_they_belong() {
    let world = World::new();
    let (lines, result) = world.run(GuestCommand::Provision, REQUEST);
    result.unwrap();
    let commands = world.exec.lines().join("\n");
    assert!(!lines.join("\n").contains("s3cr3t") && !commands.contains("s3cr3t"));
    let mut holders: Vec<String> = world
        .snapshot()
        .into_iter()
        .filter(|(_, text)| text.contains("s3cr3t"))
        .map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    holders.sort();
    assert_eq!(holders, [".env", "openclaw-my-bot.env"]);
}

#[test]
fn a_second_time_changes_nothing_and_restarts_nothing() {
    let world = World::new();
    world.provisioned(REQUEST);
    let before = world.snapshot();
    let (done, commands) = world.provisioned(REQUEST);
    assert_eq!((done.changed.len(), done.restarted), (0, false));
    assert_eq!(world.snapshot(), before);
    let looks =
        |line: &String| line.starts_with("systemctl show") || line.starts_with("systemctl is-enabled");
    assert!(commands.iter().all(looks), "{commands:?}");
}

#[test]
fn a_changed_request_restarts_the_gateway_once_and_costs_one_check() {
    let world = World::new();
    world.provisioned(REQUEST);
    let (done, commands) = world.provisioned(&request("model", r#""openai/gpt-6""#));
    assert_eq!((done.changed, done.restarted), (vec!["openclaw.json".to_owned()], true));
    assert_eq!(world.config()["agents"]["defaults"]["model"]["primary"], "openai/gpt-6");
    let count = |what: &str| commands.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count("systemctl stop"), count("systemctl start"), count("config validate")), (1, 1, 1));
}

#[test]
fn a_changed_key_restarts_without_a_check() {
    let world = World::new();
    world.provisioned(REQUEST);
    let (done, commands) = world.provisioned(&request("keys", r#"{"anthropic":"other","openai":"new"}"#));
    assert_eq!((done.changed, done.restarted), (vec!["environment".to_owned()], true));
    assert!(!commands.iter().any(|line| line.contains("validate")));
    assert!(world.text(ENVIRONMENT).contains("OPENAI_API_KEY=\"new\""));
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let world = World::new();
    world.provisioned(REQUEST);
    let before = world.snapshot();
    let refusal =
        r#"{"ok":false,"valid":false,"issues":[{"path":"agents.defaults.model","message":"Invalid input"}]}"#;
    world.machine(|machine| machine.verdict = Output::made(1, refusal, ""));
    let error = world.provision(&request("model", r#""openai/gpt-6""#)).1.unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("agents.defaults.model: Invalid input"), "{}", error.one_line());
    assert_eq!(world.snapshot(), before);
    assert!(world.machine(|machine| machine.active));
}

#[test]
fn a_hand_edit_stays_until_the_request_changes() {
    let world = World::new();
    world.provisioned(REQUEST);
    let mut config = world.config();
    config["agents"]["defaults"]["model"]["primary"] = json!("mine/own");
    config["agents"]["defaults"]["workspace"] = json!("~/work");
    world.put(CONFIG, &format!("// JSON5, by hand\n{config}"));
    let (done, _) = world.provisioned(&request("skills", r#"["tmux"]"#));
    assert_eq!(done.kept, ["/agents/defaults/model/primary"]);
    assert_eq!(world.config()["agents"]["defaults"]["model"]["primary"], "mine/own");
    assert_eq!(world.config()["skills"]["allowBundled"], json!(["tmux"]));
    let (done, _) = world.provisioned(&request("model", r#""openai/gpt-6""#));
    assert!(done.kept.is_empty());
    assert_eq!(world.config()["agents"]["defaults"]["model"]["primary"], "openai/gpt-6");
    assert_eq!(world.config()["agents"]["defaults"]["workspace"], "~/work");
}

#[test]
fn a_secret_in_the_configuration_of_an_older_tool_does_not_hide_ours() {
    let world = World::new();
    world.put(CONFIG, r#"{gateway: {auth: {token: "old"}}, channels: {telegram: {botToken: "old"}}}"#);
    world.provisioned(REQUEST);
    assert!(!world.text(CONFIG).contains("old"));
    // By hand afterwards it stays, until the token changes.
    let mut config = world.config();
    config["channels"]["telegram"]["botToken"] = json!("by-hand");
    world.put(CONFIG, &config.to_string());
    assert_eq!(world.provisioned(REQUEST).0.kept, ["/channels/telegram/botToken"]);
    world.provisioned(&request("telegram", r#"{"token":"9:new","users":[7]}"#));
    assert!(!world.text(CONFIG).contains("by-hand"));
}

#[test]
fn a_broken_configuration_is_named_and_left() {
    let world = World::new();
    world.put(CONFIG, "{gateway: ");
    let error = world.provision(REQUEST).1.unwrap_err();
    assert!(error.to_string().contains("openclaw.json") && error.get_kind() == Kind::Refused);
    assert_eq!(world.text(CONFIG), "{gateway: ");
}

#[test]
fn nasty_values_arrive_byte_for_byte() {
    let world = World::new();
    let nasty = r##"["a\"b", "$HOME", "${HOME}", "'`\\", "🦀", "#;%n{}"]"##;
    world.provisioned(&request("skills", nasty));
    // `$${HOME}` is how OpenClaw is told the text `${HOME}`.
    let written: serde_json::Value = serde_json::from_str(&nasty.replace("${", "$${")).unwrap();
    assert_eq!(world.config()["skills"]["allowBundled"], written);
    assert!(world.text(ENVIRONMENT).contains(r#"ANTHROPIC_API_KEY="s3cr3t-key\"\$'\\\`""#));
}

#[test]
fn a_refused_request_touches_nothing() {
    let world = World::new();
    let before = world.snapshot();
    for bad in [
        "",
        "{",
        "[]",
        &request("version", "99"),
        &request("model", r#""a/b\nc""#),
        &request("instance_id", r#""../x""#),
    ] {
        world.provision(bad).1.unwrap_err();
    }
    assert_eq!((world.snapshot(), world.exec.lines().len()), (before, 0));
}

#[test]
fn a_crash_between_any_two_programs_is_mended_by_the_next_run() {
    let whole = World::new();
    whole.provisioned(REQUEST);
    let (_, commands) = whole.provisioned(&request("model", r#""openai/gpt-6""#));
    let wanted = whole.config();
    for broken in [
        "systemctl show",
        "systemctl stop",
        "systemctl is-enabled",
        "systemctl daemon-reload",
        "systemctl start",
    ] {
        assert!(commands.iter().any(|line| line.starts_with(broken)), "{broken} is not run");
        let world = World::new();
        world.provisioned(REQUEST);
        world.machine(|machine| machine.breaks = Some(broken));
        world.provision(&request("model", r#""openai/gpt-6""#)).1.unwrap_err();
        world.machine(|machine| machine.breaks = None);
        world.provisioned(&request("model", r#""openai/gpt-6""#));
        assert_eq!(world.config(), wanted, "{broken}");
        assert!(world.machine(|machine| machine.active) && !world.path(PENDING).exists());
        let runs_with = world.machine(|machine| machine.runs_with.clone());
        assert_eq!(
            runs_with,
            gateway_files(world.root.path()),
            "{broken}: the gateway runs with something else"
        );
    }
}

#[test]
fn a_stopped_gateway_is_started_even_when_nothing_changed() {
    let world = World::new();
    world.provisioned(REQUEST);
    world.machine(|machine| machine.active = false);
    let (done, _) = world.provisioned(REQUEST);
    assert!(done.restarted && done.changed.is_empty());
}

#[test]
fn a_link_in_place_of_the_state_is_refused() {
    let world = World::new();
    world.dir("/elsewhere");
    std::os::unix::fs::symlink(world.path("/elsewhere"), world.path("/home/ubuntu/.openclaw")).unwrap();
    let error = world.provision(REQUEST).1.unwrap_err();
    assert!(error.one_line().contains("not a folder"), "{}", error.one_line());
    assert_eq!(std::fs::read_dir(world.path("/elsewhere")).unwrap().count(), 0);
}

#[test]
fn an_image_without_openclaw_says_what_to_do() {
    let world = World::new();
    world.remove("/opt/openclaw/lib/node_modules/openclaw/openclaw.mjs");
    let error = world.provision(REQUEST).1.unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.get_hint().unwrap().contains("--runtime docker"));
}
