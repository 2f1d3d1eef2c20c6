use std::os::unix::fs::MetadataExt;

use fireclaw_core::guest::protocol::Event;
use fireclaw_host::exec::Output;
use serde_json::json;

use super::{super::*, world::*};

const IMAGE: &str = "172.16.0.1:5000/openclaw:e2e";

fn docker_request() -> String {
    let mut request: serde_json::Value = serde_json::from_str(REQUEST).unwrap();
    request["runtime"] = json!("docker");
    request["openclaw_image"] = json!(IMAGE);
    request.to_string()
}

/// A guest of somebody else's image: the container's user must be able to own the state, so these tests need to be root's or
/// user 1000's.
fn world() -> Option<World> {
    let uid = nix::unistd::getuid().as_raw();
    (uid == 0 || uid == 1000).then(World::new)
}

#[test]
fn a_container_is_pulled_configured_and_started() {
    let Some(world) = world() else { return };
    let (events, done) = world.provision(&docker_request());
    let done = done.unwrap();
    assert_eq!(done.changed, ["image", "openclaw.json", "environment", "unit"]);
    assert!(events.contains(&Event::Step { name: format!("pull {IMAGE}") }));
    assert!(events.contains(&Event::Log { line: "Status: Downloaded newer image".into() }));
    insta::assert_snapshot!(world.text(UNIT));
    assert_eq!(world.config()["browser"], json!({"headless": true, "noSandbox": true}));
    assert_eq!(world.path(CONFIG).metadata().unwrap().uid(), 1000);
}

/// What its gateway knew is what ours goes on with; only the place of its folder is another, and is found under the old name too.
#[test]
fn what_the_bash_fireclaw_kept_is_taken_over() {
    let Some(world) = world() else { return };
    let (config, workspace) =
        ("/home/ubuntu/.openclaw-my-bot/config", "/home/ubuntu/openclaw-my-bot/workspace");
    for (path, text) in [
        (
            format!("{config}/openclaw.json"),
            r#"{"gateway":{"auth":{"token":"old"}},"agents":{"list":[{"id":"mine"}]}}"#,
        ),
        (format!("{config}/sessions/one.jsonl"), "said"),
        (format!("{workspace}/NOTES.md"), "noted"),
        ("/home/ubuntu/openclaw-my-bot/tools/.playwright/chrome".to_owned(), "program"),
        ("/home/ubuntu/.openclaw-my-bot/openclaw.env".to_owned(), "ANTHROPIC_API_KEY=sk-old"),
    ] {
        std::fs::create_dir_all(world.path(&path).parent().unwrap()).unwrap();
        std::fs::write(world.path(&path), text).unwrap();
    }
    std::os::unix::fs::chown(world.path(config), Some(1000), Some(1000)).unwrap();
    // A run that was cut off before it came to anything.
    std::os::unix::fs::symlink("/home/ubuntu/.openclaw", world.path("/home/ubuntu/.openclaw")).unwrap();
    let (done, _) = world.provisioned(&docker_request());
    assert!(done.changed.contains(&"state".to_owned()), "{:?}", done.changed);
    assert_eq!(world.text("/home/ubuntu/.openclaw/sessions/one.jsonl"), "said");
    assert_eq!(
        std::fs::read_link(world.path(config)).unwrap(),
        std::path::Path::new("/home/ubuntu/.openclaw")
    );
    assert_eq!(world.config()["agents"]["list"], json!([{"id": "mine"}]));
    assert_eq!(world.config()["gateway"]["auth"], json!({"mode": "token"}));
    let unit = world.text(UNIT);
    for volume in [
        format!("{workspace}:/home/node/.openclaw/workspace"),
        "/home/ubuntu/openclaw-my-bot/tools:/home/node/clawd/tools".to_owned(),
    ] {
        assert!(unit.contains(&format!("--volume {volume}")), "{unit}");
    }
    assert!(!world.path("/home/ubuntu/.openclaw-my-bot/openclaw.env").exists());
    let (done, _) = world.provisioned(&docker_request());
    assert_eq!((done.changed, done.restarted), (Vec::new(), false));
}

#[test]
fn a_second_time_pulls_and_touches_nothing_else() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    let before = world.snapshot();
    let (done, commands) = world.provisioned(&docker_request());
    assert_eq!((done.changed.len(), done.restarted), (0, false));
    assert_eq!(world.snapshot(), before);
    assert!(!commands.iter().any(|line| line.starts_with("docker run") || line.starts_with("systemctl st")));
}

#[test]
fn a_registry_that_is_gone_is_a_warning_when_the_image_is_here() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    world.machine(|machine| machine.registry = false);
    let (events, done) = world.provision(&docker_request());
    assert!(!done.unwrap().restarted);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Warning { text } if text.contains("connection refused")))
    );

    let fresh = World::new();
    fresh.machine(|machine| machine.registry = false);
    let error = fresh.provision(&docker_request()).1.unwrap_err();
    assert!(error.to_string().contains(IMAGE), "{}", error.one_line());
    assert!(!fresh.path(CONFIG).exists());
}

#[test]
fn the_configuration_is_checked_by_the_image_in_one_run_without_secrets() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    let changed = docker_request().replace("claude-opus-4-6", "other");
    let (_, commands) = world.provisioned(&changed);
    let runs: Vec<&String> = commands.iter().filter(|line| line.starts_with("docker run")).collect();
    assert_eq!(runs.len(), 1);
    assert!(!runs[0].contains("s3cr3t") && runs[0].contains("/home/node/.openclaw/.openclaw.json.candidate"));
}

#[test]
fn an_old_image_that_cannot_check_is_taken_with_a_warning() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    world.machine(|machine| machine.verdict = Output::made(1, "", "error: unknown command 'validate'"));
    let (events, done) = world.provision(&docker_request().replace("claude-opus-4-6", "other"));
    assert!(done.unwrap().restarted);
    assert!(
        events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("cannot check")))
    );
}

#[test]
fn docker_is_installed_where_it_is_missing() {
    let Some(mut world) = world() else { return };
    world.exec = world.exec.clone().without("docker");
    // The fake has no docker to run afterwards, which is where this ends.
    world.provision(&docker_request()).1.unwrap_err();
    let installed: Vec<String> =
        world.exec.lines().into_iter().filter(|line| line.contains("--no-install-recommends")).collect();
    assert!(installed[0].ends_with(" docker.io ca-certificates") && installed[1].ends_with(" docker-cli"));
}

#[test]
fn a_kernel_with_apparmor_gets_what_an_old_docker_needs_for_it() {
    let Some(mut world) = world() else { return };
    let installs = |commands: Vec<String>| commands.iter().any(|line| line.ends_with(" apparmor"));
    world.put("/sys/module/apparmor/parameters/enabled", "Y\n");
    world.machine(|machine| machine.docker = "20.10.24+dfsg1");
    assert!(!installs(world.provisioned(&docker_request()).1), "it is there");
    world.exec = world.exec.clone().without("apparmor_parser");
    assert!(installs(world.provisioned(&docker_request()).1));
    // A guest that reaches no packages needs none.
    world.machine(|machine| machine.docker = "26.1.5+dfsg1");
    assert!(!installs(world.provisioned(&docker_request()).1));
    world.machine(|machine| machine.docker = "20.10.24+dfsg1");
    world.put("/sys/module/apparmor/parameters/enabled", "N\n");
    assert!(!installs(world.provisioned(&docker_request()).1));
}

#[test]
fn a_registry_without_tls_is_let_in_once() {
    let Some(world) = world() else { return };
    let mut request: serde_json::Value = serde_json::from_str(&docker_request()).unwrap();
    request["insecure_registries"] = json!(["172.16.0.1:5000"]);
    let (done, commands) = world.provisioned(&request.to_string());
    assert_eq!(done.changed[0], "docker");
    assert!(commands.contains(&"systemctl restart docker.service".to_owned()));
    assert!(world.text("/etc/docker/daemon.json").contains("172.16.0.1:5000"));
    let (done, commands) = world.provisioned(&request.to_string());
    assert!(done.changed.is_empty() && !commands.iter().any(|line| line.contains("restart docker")));
}

#[test]
fn a_kernel_without_a_packet_filter_gets_docker_without_networks() {
    let Some(world) = world() else { return };
    world.machine(|machine| {
        (machine.docker_up, machine.netfilter, machine.docker_needs) =
            (false, false, Some("\"bridge\": \"none\""));
    });
    let (events, done) = world.provision(&docker_request());
    assert!(done.unwrap().changed.contains(&"docker".to_owned()));
    assert!(
        events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("packet filter")))
    );
}

#[test]
fn a_daemon_that_does_not_start_for_another_reason_is_reported() {
    let Some(world) = world() else { return };
    world.machine(|machine| (machine.docker_up, machine.docker_needs) = (false, Some("never")));
    let error = world.provision(&docker_request()).1.unwrap_err();
    assert!(error.one_line().contains("docker.service failed"), "{}", error.one_line());
    assert!(!world.path("/etc/docker/daemon.json").exists());
}

#[test]
fn a_hanging_container_is_killed_by_its_name() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    world.machine(|machine| machine.hangs = true);
    let command = GuestCommand::Stop { id: "my-bot".into(), timeout: 60 };
    world.run(command, "").1.unwrap();
    assert!(world.exec.lines().contains(&"docker kill openclaw-my-bot".to_owned()));
}

#[test]
fn the_runtime_can_be_changed() {
    let Some(world) = world() else { return };
    world.provisioned(&docker_request());
    assert!(world.text(UNIT).contains("docker run"));
    let (done, _) = world.provisioned(REQUEST);
    assert!(done.restarted && world.text(UNIT).contains("openclaw.mjs"));
    assert_eq!(world.config()["browser"]["executablePath"], "/usr/bin/chromium");
}
