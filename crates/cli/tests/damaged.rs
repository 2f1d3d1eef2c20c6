//! Instances whose files somebody, or a crash, left in a state that nobody wants: each is told with what helps, and none is beyond
//! removal.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use clap::Parser as _;
use fireclaw::{
    args::{Cli, Command},
    commands::{destroy, status, token},
    doctor::{self, Purpose},
    engine::Entry,
    fleet,
};
use fireclaw_core::{error::Result, layout::InstancePaths, plan::Plan};
use fireclaw_host::{
    fs,
    supervisor::{Service, State, Supervisor as _},
};
use world::{World, run_destroy, run_setup, world};

fn with_bot() -> (World, InstancePaths) {
    let world = world();
    run_setup(&world.app, "bot").unwrap();
    let paths = world.app.settings.layout.instance(&"bot".parse().unwrap()).unwrap();
    (world, paths)
}

fn destroy_unforced(world: &World) -> Result<()> {
    let argv = ["fireclaw", "destroy", "bot", "--quiet"];
    let Command::Destroy(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not destroy") };
    destroy::run(&world.app, &args)
}

fn fix_of_instances(world: &World) -> String {
    let findings = doctor::examine(&world.app, &Purpose::of_settings(&world.app, Vec::new()));
    findings.iter().find(|finding| finding.name == "instances").unwrap().report().fix.unwrap()
}

#[test]
fn a_journal_that_nobody_can_read_is_no_reason_to_keep_an_instance() {
    let (world, paths) = with_bot();
    fs::write(&paths.journal, b"garbage\ngarbage\n", 0o600).unwrap();
    let rows = fleet::rows(&world.app).unwrap();
    assert!(rows[0].error.as_ref().unwrap().contains("not a plan"), "{rows:?}");
    let error = destroy_unforced(&world).unwrap_err();
    assert!(error.one_line().contains("no terminal"), "{}", error.one_line());
    run_destroy(&world.app, "bot").unwrap();
    assert!(!paths.journal.exists() && !paths.state_dir.exists() && !paths.dir.exists());
}

#[test]
fn a_destroy_that_was_begun_needs_neither_a_record_nor_a_second_yes() {
    let (world, paths) = with_bot();
    let plan = serde_json::to_string(&Entry::Plan(Plan::destroy(&"bot".parse().unwrap()))).unwrap();
    fs::write(&paths.journal, format!("{plan}\n").as_bytes(), 0o600).unwrap();
    fs::remove_file(&paths.env).unwrap();
    destroy_unforced(&world).unwrap();
    assert!(!paths.journal.exists() && !paths.state_dir.exists() && !paths.dir.exists());
}

#[test]
fn a_change_that_was_cut_short_is_in_force_when_it_is_kept() {
    let (world, paths) = with_bot();
    let app = &world.app;
    let id = "bot".parse().unwrap();
    let mut changed = app.store().load(&id).unwrap();
    changed.idle.after = Some(std::time::Duration::from_mins(30));
    app.store().stage(&changed).unwrap();
    let lines = [Entry::Plan(Plan::provision(&id)), Entry::Begun(3)];
    let lines = lines.map(|entry| serde_json::to_string(&entry).unwrap() + "\n").concat();
    fs::write(&paths.journal, lines.as_bytes(), 0o600).unwrap();
    let before = world.embedded.calls().len();
    drop(app.hold_existing(&id, &mut app.ui.progress()).unwrap());
    assert_eq!(app.store().load(&id).unwrap().idle, changed.idle);
    let calls = world.embedded.calls().split_off(before);
    assert!(calls.iter().any(|call| call == "install bot that wakes"), "{calls:?}");
    let proxy = world.embedded.status(&id, Service::Proxy).unwrap().state;
    assert_eq!(proxy, State::Active, "{calls:?}");
}

#[test]
fn what_cannot_be_read_is_shown_with_what_helps() {
    let (world, paths) = with_bot();
    let text = std::fs::read_to_string(&paths.env).unwrap();
    fs::write(&paths.env, text.replace("plain-v2", "plain-v9").as_bytes(), 0o600).unwrap();
    status::run(&world.app, "bot", true).unwrap();
    let fix = fix_of_instances(&world);
    assert!(fix.contains("newer") && !fix.contains("destroy"), "{fix}");
    // A folder that no id leads to.
    let stray = world.app.settings.layout.state_root.join(".vm-BAD");
    fs::make_private_dir(&stray).unwrap();
    fs::write(&paths.env, text.as_bytes(), 0o600).unwrap();
    assert!(fix_of_instances(&world).starts_with("move "));
}

#[test]
fn a_token_is_found_where_it_is_or_missed_aloud() {
    let (world, paths) = with_bot();
    let text = std::fs::read_to_string(&paths.env).unwrap();
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("GATEWAY_TOKEN="))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&paths.env, without.as_bytes(), 0o600).unwrap();
    let kept = std::fs::read_to_string(&paths.token).unwrap();
    let record = world.app.store().load(&"bot".parse().unwrap()).unwrap();
    assert_eq!(record.gateway_token.expose(), kept.trim());
    fs::remove_file(&paths.token).unwrap();
    assert!(token::run(&world.app, "bot").unwrap_err().one_line().contains(".token"));
}
