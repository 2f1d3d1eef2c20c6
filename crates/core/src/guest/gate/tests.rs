use super::*;

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, body: body.to_owned() }
}

/// Asks a gateway that answers from a table; an address that is not in it gives the UI's page, as OpenClaw does.
fn ask(table: &[(&str, u16, &str)]) -> (Reading, Vec<String>) {
    let mut asked = Vec::new();
    let reading = read(|path| {
        asked.push(path.to_owned());
        table.iter().find(|(known, ..)| *known == path).map_or_else(
            || http(200, "<!doctype html><title>OpenClaw Control</title>"),
            |(_, status, body)| http(*status, body),
        )
    });
    (reading, asked)
}

const STARTED: &str = r#"{"ok":true,"status":"started","version":"2026.9.6","uptimeMs":4879}"#;

#[test]
fn a_started_and_ready_gateway_is_up() {
    let (reading, asked) = ask(&[(STARTUP, 200, STARTED), (READY, 200, r#"{"ready":true,"failing":[]}"#)]);
    assert_eq!((reading.health, reading.started), (Health::Up, true));
    assert_eq!(reading.version.as_deref(), Some("2026.9.6"));
    assert_eq!(asked, [STARTUP, READY]);
}

#[test]
fn a_broken_channel_degrades_and_does_not_undo_the_start() {
    let (reading, _) =
        ask(&[(STARTUP, 200, STARTED), (READY, 503, r#"{"ready":false,"failing":["telegram:default"]}"#)]);
    assert_eq!((reading.health, reading.started), (Health::Degraded, true));
    assert_eq!(reading.detail.as_deref(), Some("not ready: telegram:default"));
}

#[test]
fn readiness_that_is_not_json_says_nothing() {
    let (reading, _) = ask(&[(STARTUP, 200, STARTED)]);
    assert_eq!(reading.health, Health::Up);
}

#[test]
fn a_pending_or_draining_gateway_is_starting() {
    let pending =
        r#"{"ok":false,"status":"starting","version":"2026.9.6","pendingReason":"startup-sidecars"}"#;
    let (reading, asked) = ask(&[(STARTUP, 503, pending)]);
    assert_eq!((reading.health, reading.started), (Health::Starting, false));
    assert_eq!(reading.detail.as_deref(), Some("starting: startup-sidecars"));
    assert_eq!(asked, [STARTUP]);
    let (reading, _) = ask(&[(STARTUP, 503, r#"{"ok":false,"status":"draining"}"#)]);
    assert_eq!((reading.health, reading.started), (Health::Starting, false));
}

#[test]
fn an_older_gateway_is_judged_by_its_liveness() {
    let live = (LIVE, 200, r#"{"ok":true,"status":"live"}"#);
    // The UI's page for the unknown address, or 404.
    for table in [vec![live], vec![(STARTUP, 404, "Not Found"), live]] {
        let (reading, _) = ask(&table);
        assert_eq!((reading.health, reading.started), (Health::Up, true));
    }
}

#[test]
fn pages_of_somebody_else_are_not_a_gateway() {
    let (reading, _) = ask(&[]);
    assert_eq!((reading.health, reading.started), (Health::Down, false));
    let reading = read(|_| Answer::Silence("connection refused".into()));
    assert_eq!(reading.detail.as_deref(), Some("connection refused"));
}

fn unit(show: &str) -> GatewayUnit {
    GatewayUnit::parse("openclaw-a.service", show)
}

const SILENCE: fn(&str) -> Answer = |_| Answer::Silence("connection refused".to_owned());

#[test]
fn a_unit_that_comes_up_makes_silence_a_start() {
    for show in ["ActiveState=active\nSubState=running", "ActiveState=activating\nSubState=start"] {
        let report = HealthReport::new(unit(show), read(SILENCE), vec![]);
        assert_eq!(report.reading.health, Health::Starting);
    }
}

#[test]
fn a_refused_configuration_is_told_apart() {
    let show = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nNRestarts=0";
    let report = HealthReport::new(unit(show), read(SILENCE), vec!["Invalid config".into()]);
    assert!(report.refused);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}

#[test]
fn a_missing_unit_is_said() {
    let report = HealthReport::new(unit("LoadState=not-found\nActiveState=inactive"), read(SILENCE), vec![]);
    assert_eq!(report.reading.detail.as_deref(), Some("there is no openclaw-a.service"));
}

#[test]
fn a_unit_that_fails_again_and_again_is_down() {
    let show = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=127\nNRestarts=4";
    let report = HealthReport::new(unit(show), read(SILENCE), vec![]);
    assert_eq!(report.reading.health, Health::Down);
    assert_eq!(
        report.reading.detail.as_deref(),
        Some("openclaw-a.service ended with 127 (exit-code) and is started again, for the 5. time")
    );
}
