use fireclaw_core::guest::protocol::Event;

use super::world::*;

/// A guest of an image that is not ours and has OpenClaw and no browser.
fn foreign() -> World {
    let world = World::new();
    world.remove("/usr/bin/chromium");
    world.remove("/opt/openclaw/lib/node_modules/openclaw/openclaw.mjs");
    world.put("/usr/lib/node_modules/openclaw/openclaw.mjs", "");
    world
}

fn installs(commands: &[String]) -> bool {
    commands.iter().any(|line| line.starts_with("apt-get"))
}

#[test]
fn a_missing_browser_is_installed() {
    let world = foreign();
    let (done, _) = world.provisioned(REQUEST);
    assert!(done.changed.contains(&"browser".to_owned()));
    assert_eq!(world.config()["browser"]["executablePath"], "/usr/bin/chromium");
    let policy = world.text("/etc/chromium/policies/managed/fireclaw.json");
    let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
    assert_eq!(policy["EncryptedClientHelloEnabled"], false);
}

#[test]
fn a_browser_that_cannot_be_had_stops_no_gateway() {
    let world = foreign();
    world.machine(|machine| machine.breaks = Some("apt-get"));
    let (events, done) = world.provision(REQUEST);
    assert!(done.unwrap().restarted);
    assert!(
        events.iter().any(|event| matches!(event, Event::Warning { text } if text.starts_with("no browser")))
    );
    assert!(world.config().get("browser").is_none());
}

#[test]
fn no_browser_is_installed_where_none_is_wanted_or_works() {
    let ubuntu = foreign();
    ubuntu.put("/etc/os-release", "ID=ubuntu\n");
    assert!(!installs(&ubuntu.provisioned(REQUEST).1));
    assert!(!installs(&foreign().provisioned(&request("browser", "false")).1));
    // An image that was built without one.
    let own = World::new();
    own.remove("/usr/bin/chromium");
    assert!(!installs(&own.provisioned(REQUEST).1));
}

#[test]
fn a_kernel_that_forbids_namespaces_gets_a_browser_without_a_sandbox() {
    let world = World::new();
    world.put("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
    world.provisioned(REQUEST);
    assert_eq!(world.config()["browser"]["noSandbox"], true);
}
