use fireclaw_core::guest::protocol::{InfoReport, StopReport};
use serde_json::json;

use super::{super::*, world::*};

fn stop(world: &World, timeout: u64) -> StopReport {
    let command = GuestCommand::Stop { id: "my-bot".into(), timeout };
    let (lines, result) = world.run(command, "");
    result.unwrap();
    serde_json::from_str(&lines[0]).unwrap()
}

#[test]
fn stopping() {
    let mut world = World::new();
    world.provisioned(REQUEST);
    let report = stop(&world, 10);
    assert_eq!((report.stopped, report.killed), (true, false));
    assert_eq!(stop(&world, 10), StopReport { stopped: true, killed: false, seconds: 0 });

    // Hanging with its port closed: killed long before the time is up.
    world.machine(|machine| (machine.active, machine.hangs) = (true, true));
    let report = stop(&world, 60);
    assert_eq!((report.stopped, report.killed), (true, true));
    assert!(report.seconds < 30);

    // Still answering when the time is up.
    world.port.open_while_hanging = true;
    world.machine(|machine| machine.active = true);
    let report = stop(&world, 0);
    assert_eq!((report.stopped, report.killed), (true, true));
}

#[test]
fn health_and_info() {
    let world = World::new();
    world.provisioned(REQUEST);
    let (lines, result) = world.run(GuestCommand::Health { id: "my-bot".into() }, "");
    result.unwrap();
    let report: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&report["health"], &report["started"], &report["refused"]),
        (&json!("up"), &json!(true), &json!(false))
    );
    world.machine(|machine| machine.active = false);
    let (lines, _) = world.run(GuestCommand::Health { id: "my-bot".into() }, "");
    let report: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(report["detail"], "openclaw-my-bot.service is inactive (success)");

    let (lines, result) = world.run(GuestCommand::Info, "");
    result.unwrap();
    let report: InfoReport = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        report,
        InfoReport {
            fireclaw: env!("CARGO_PKG_VERSION").into(),
            os: "Debian GNU/Linux 13 (trixie)".into(),
            kernel: "6.12.48".into(),
            node: Some("26.10.0".into()),
            openclaw: Some("2026.9.6".into()),
            docker: Some("26.1.5+dfsg1".into()),
            browser: Some("/usr/bin/chromium".into()),
        }
    );
}
