//! `audit` on a host of fakes over real files, with a `/proc` of the test's own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use fireclaw::{audit::look, commands::audit::text};
use fireclaw_core::{audit::Report, id::InstanceId};
use fireclaw_host::{
    exec::{Output, fake::FakeExec},
    inspect::Proc,
    proc::ProcessId,
    supervisor::{Service, ServiceStatus, State},
};
use world::{World, run_setup_with, world};

const KEY: &str = "sk-ant-of-the-host";

/// A host with systemd and two instances, `one` running as it should.
fn host() -> (World, tempfile::TempDir) {
    let mut world = world().with_systemd();
    let exec = FakeExec::new(|cmd| {
        let said = match cmd.line() {
            line if line.contains("systemd-analyze") && line.contains("proxy") => {
                "→ Overall exposure level for x: 1.2 OK"
            }
            line if line.contains("systemd-analyze") => "→ Overall exposure level for x: 3.2 OK",
            line if line.contains("jailer") => "Jailer v1.16.1",
            _ => "Firecracker v1.16.1",
        };
        Ok(Output::made(0, said, ""))
    });
    let key = world.app.settings.layout.images_root.join("key");
    fs::write(&key, KEY).unwrap();
    for id in ["one", "two"] {
        run_setup_with(&world.app, id, &["--anthropic-api-key-file", key.to_str().unwrap()]).unwrap();
        // The fake disk's mode is nobody's.
        let disk = world.app.settings.layout.instance(&id.parse().unwrap()).unwrap().disk;
        fs::set_permissions(disk, PermissionsExt::from_mode(0o600)).unwrap();
    }
    world.app.host.exec = Arc::new(exec);
    let proc = tempfile::tempdir().unwrap();
    let process = |service, pid, uid| {
        let status = ServiceStatus {
            process: Some(ProcessId { pid, started: 1 }),
            ..ServiceStatus::of(State::Active)
        };
        world.systemd.set(&"one".parse::<InstanceId>().unwrap(), service, status).unwrap();
        running(proc.path(), pid, &["fireclaw", "proxy", "one"], uid);
    };
    process(Service::Vm, 201, 1_900_000_002);
    process(Service::Proxy, 202, 61_184);
    (world, proc)
}

/// A process that is confined as ours are.
fn running(proc: &Path, pid: i32, words: &[&str], uid: u32) {
    let dir = proc.join(pid.to_string());
    fs::create_dir_all(dir.join("fd")).unwrap();
    fs::create_dir_all(dir.join("net")).unwrap();
    let status =
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    fs::write(dir.join("status"), status).unwrap();
    fs::write(
        dir.join("limits"),
        "Max core file size        0                    0                    bytes\n",
    )
    .unwrap();
    fs::write(dir.join("cmdline"), words.join("\0") + "\0").unwrap();
    fs::write(dir.join("environ"), "PATH=/usr/bin\0").unwrap();
}

fn report(world: &World, proc: &tempfile::TempDir) -> Report {
    look(&world.app, &Proc::at(proc.path())).unwrap()
}

fn shown(world: &World, report: &Report) -> String {
    let root = world.app.settings.layout.state_root.parent().unwrap().display().to_string();
    text(report).replace(&root, "ROOT")
}

#[test]
fn a_host_as_fireclaw_makes_it_has_nothing_to_find() {
    let (world, proc) = host();
    let report = report(&world, &proc);
    insta::assert_snapshot!(shown(&world, &report));
    assert!(report.ok);
}

#[test]
fn what_was_opened_is_found_and_no_secret_is_told() {
    let (world, proc) = host();
    let layout = &world.app.settings.layout;
    let chmod = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let paths = layout.instance(&"one".parse().unwrap()).unwrap();
    chmod(&paths.state_dir, 0o755);
    chmod(&paths.keys, 0o644);
    chmod(&paths.disk, 0o660);
    chmod(&layout.fc_root, 0o777);
    // Somebody set it up with the key as a flag, and still does.
    let flag = format!("--anthropic-api-key={KEY}");
    running(proc.path(), 300, &["fireclaw", "setup", "--instance", "one", &flag], 0);
    running(proc.path(), 202, &["fireclaw", "proxy", "one"], 61_184);
    fs::write(proc.path().join("202/environ"), format!("ANTHROPIC_API_KEY={KEY}\0")).unwrap();
    fs::write(proc.path().join("201/limits"), "").unwrap();
    world.network.occupy_link("tone2");
    world.network.meddle(None);
    // What cannot be read is said, and does not stop the rest.
    fs::create_dir_all(layout.state_root.join(".vm-broken")).unwrap();
    fs::write(
        layout.state_root.join(".vm-broken/.env"),
        "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=broken\n",
    )
    .unwrap();
    let report = report(&world, &proc);
    assert!(!report.ok);
    let text = shown(&world, &report);
    insta::assert_snapshot!(text);
    let json = serde_json::to_string(&report).unwrap();
    assert!(!text.contains(KEY) && !json.contains(KEY));
}
