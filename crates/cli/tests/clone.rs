//! `clone` on real records, files and locks with fakes of everything below: refusals, failures and cuts at every step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::Arc,
};

use clap::Parser as _;
use fireclaw::{
    args::{Cli, Command},
    commands::clone,
    engine::{Effects, Engine, Observer},
    steps::{Origin, Steps},
};
use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    plan::{Plan, Step},
    state::InstanceRecord,
};
use fireclaw_host::{
    disk::{SystemDisks, fake::FakeDisks},
    exec::{Cmd, Exec as _, SystemExec},
    interrupt::Interrupt,
    lock,
    supervisor::{Service, ServiceStatus, State},
};
use nix::errno::Errno;
use world::{World, run_destroy, run_setup_with, world};

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn load(world: &World, name: &str) -> InstanceRecord {
    world.app.store().load(&id(name)).unwrap()
}

fn run(world: &World, words: &[&str]) -> Result<()> {
    let argv = [&["fireclaw", "clone"][..], words, &["--quiet"]].concat();
    let Command::Clone(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not clone") };
    clone::run(&world.app, &args)
}

/// A host with a stopped instance `one`.
fn host(more: &[&str]) -> (World, FakeDisks) {
    let mut world = world();
    let disks = FakeDisks::default();
    world.app.host.disks = Arc::new(disks.clone());
    run_setup_with(&world.app, "one", more).unwrap();
    for service in Service::ALL {
        world.embedded.set(&id("one"), service, ServiceStatus::of(State::Inactive)).unwrap();
    }
    (world, disks)
}

/// Every file of an instance with its mode and content.
fn files(world: &World, name: &str) -> BTreeMap<String, (u32, Vec<u8>)> {
    let paths = world.app.settings.layout.instance(&id(name)).unwrap();
    let mut found = BTreeMap::new();
    let mut folders = vec![paths.dir, paths.state_dir, paths.ssh_control.parent().unwrap().to_owned()];
    while let Some(folder) = folders.pop() {
        for name in fireclaw_host::fs::names(&folder).unwrap() {
            let path = folder.join(name);
            let facts = std::fs::symlink_metadata(&path).unwrap();
            if facts.is_dir() {
                folders.push(path);
            } else if facts.is_file() {
                let content = if facts.len() < 1 << 20 { std::fs::read(&path).unwrap() } else { Vec::new() };
                found.insert(path.display().to_string(), (facts.permissions().mode(), content));
            }
        }
    }
    found
}

/// Nothing of `two` is there, and `one` is as it was.
fn assert_only_one(world: &World, before: &BTreeMap<String, (u32, Vec<u8>)>, when: &str) {
    let paths = world.app.settings.layout.instance(&id("two")).unwrap();
    for path in [&paths.dir, &paths.state_dir, &paths.journal, &paths.base_pin] {
        assert!(!path.exists(), "{when}: {} is left", path.display());
    }
    assert_eq!(world.embedded.installed(), [id("one")], "{when}");
    assert!(!world.network.taps().iter().any(|tap| tap.starts_with("ttwo")), "{when}: a tap is left");
    assert!(&files(world, "one") == before, "{when}: the source changed");
    assert!(
        lock::take(&world.app.settings.layout.instance(&id("one")).unwrap().lock, "one").is_ok(),
        "{when}"
    );
}

#[test]
fn a_clone_is_its_source_in_all_but_who_it_is() {
    let more = [
        "--anthropic-api-key",
        "sk-real",
        "--model",
        "anthropic/x",
        "--egress",
        "allow",
        "--allow",
        "anthropic",
        "--budget-requests-per-hour",
        "60",
        "--net-mbit",
        "5",
        "--vm-vcpu",
        "2",
    ];
    let (world, disks) = host(&more);
    let before = files(&world, "one");
    run(&world, &["one", "two"]).unwrap();
    let (one, two) = (load(&world, "one"), load(&world, "two"));
    // Another one …
    assert_ne!(one.host_port, two.host_port);
    assert_ne!(one.vm_ip, two.vm_ip);
    assert_ne!(one.vm_mac, two.vm_mac);
    assert_ne!(one.vm_tap, two.vm_tap);
    assert_ne!(one.api_sock, two.api_sock);
    assert_ne!(one.gateway_token, two.gateway_token);
    assert_ne!(one.containment.broker_token, two.containment.broker_token);
    assert!(two.containment.broker_token.is_some());
    let paths = |name| world.app.settings.layout.instance(&id(name)).unwrap();
    let known = |name| std::fs::read_to_string(paths(name).known_hosts).unwrap();
    assert!(known("two").starts_with(&two.vm_ip.to_string()));
    assert_ne!(known("one").split_whitespace().nth(2), known("two").split_whitespace().nth(2));
    // … with the same rights, and keys that only root reads.
    assert_eq!((two.containment.egress, two.containment.budget), (one.containment.egress, Some(60)));
    assert_eq!((two.keys, two.rates, two.vcpu, two.model), (one.keys, one.rates, 2, one.model));
    assert_eq!((two.image, two.disks, two.provisioned), (one.image, one.disks, true));
    let mode = std::fs::metadata(paths("two").keys).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The disk was renewed with what the record, the seed and known_hosts say.
    let [renewal] = disks.renewed().try_into().unwrap();
    assert_eq!((renewal.from, renewal.to, renewal.token), (id("one"), id("two"), two.gateway_token));
    let key = renewal.host_key.public.split_whitespace().nth(1).unwrap().to_owned();
    assert!(known("two").contains(&key));
    let seed = std::fs::read(paths("two").seed).unwrap();
    assert!(String::from_utf8_lossy(&seed).contains(&key));
    assert!(renewal.machine_id.len() == 32 && renewal.old_login.is_none());
    assert!(files(&world, "one") == before, "the source changed");
    run_destroy(&world.app, "two").unwrap();
    assert_only_one(&world, &before, "destroyed");
}

#[test]
fn a_login_key_of_before_opens_the_clone_no_more() {
    let (mut world, disks) = host(&[]);
    let old = load(&world, "one").ssh_key_path;
    world.app.settings.ssh_key_path = old.with_file_name("another");
    run(&world, &["one", "two"]).unwrap();
    let public = std::fs::read_to_string(old.with_extension("pub")).unwrap();
    let [renewal] = disks.renewed().try_into().unwrap();
    assert_eq!(renewal.old_login.as_deref(), Some(public.trim_end()));
    assert_eq!(load(&world, "two").ssh_key_path, old.with_file_name("another"));
}

#[test]
fn what_cannot_be_cloned_is_refused_and_nothing_has_changed() {
    let (world, disks) = host(&["--telegram-token", "123:abc-DEF", "--telegram-users", "1"]);
    let before = files(&world, "one");
    let refused = |words: &[&str], kind: Kind, said: &str| {
        let error = run(&world, words).unwrap_err();
        let text = format!("{} {}", error.one_line(), error.get_hint().unwrap_or_default());
        assert_eq!(error.get_kind(), kind, "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
        assert_only_one(&world, &before, said);
    };
    refused(&["one", "two"], Kind::Refused, "--without-channels");
    refused(&["one", "one", "--without-channels"], Kind::Refused, "exists already");
    refused(&["none", "two"], Kind::NotFound, "no such instance");
    refused(&["one", "Bad"], Kind::Refused, "a-z");
    refused(&["one", "two", "--without-channels", "--host-port", "99999"], Kind::Refused, "99999");
    let port = load(&world, "one").host_port.to_string();
    refused(&["one", "two", "--without-channels", "--host-port", &port], Kind::Refused, "another instance");
    refused(&["one", "two", "--dry-run"], Kind::Refused, "--without-channels");
    for state in [State::Active, State::Activating, State::Deactivating] {
        world.embedded.set(&id("one"), Service::Vm, ServiceStatus::of(state)).unwrap();
        refused(&["one", "two", "--without-channels"], Kind::Refused, "`fireclaw stop one` or");
    }
    world.embedded.set(&id("one"), Service::Vm, ServiceStatus::of(State::Unknown)).unwrap();
    refused(&["one", "two", "--without-channels"], Kind::Failed, "fireclaw status one");
    world.embedded.set(&id("one"), Service::Vm, ServiceStatus::of(State::Inactive)).unwrap();
    run(&world, &["one", "two", "--without-channels", "--dry-run"]).unwrap();
    assert_only_one(&world, &before, "a dry run");
    // A channel that only the guest's own configuration knows.
    disks.set_channels(&["whatsapp"]);
    run(&world, &["one", "two", "--without-channels"]).unwrap();
    assert!(load(&world, "two").telegram_token.is_none() && load(&world, "two").telegram_users.is_empty());
    let error = run(&world, &["one", "two", "--without-channels"]).unwrap_err();
    assert!(error.one_line().contains("exists already"), "{}", error.one_line());
}

#[test]
fn a_channel_that_the_disk_knows_is_refused_and_leaves_nothing() {
    let (world, disks) = host(&[]);
    let before = files(&world, "one");
    disks.set_channels(&["whatsapp"]);
    let error = run(&world, &["one", "two"]).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("whatsapp"), "{}", error.one_line());
    assert_only_one(&world, &before, "refused");
}

#[test]
fn a_full_disk_leaves_nothing_and_names_itself() {
    let (world, disks) = host(&[]);
    let before = files(&world, "one");
    disks.fail_next(Errno::ENOSPC);
    let error = run(&world, &["one", "two"]).unwrap_err();
    assert!(error.one_line().contains("No space left"), "{}", error.one_line());
    assert_only_one(&world, &before, "ENOSPC");
}

#[test]
fn an_instance_of_another_tool_is_refused_with_the_way() {
    let (world, _) = host(&[]);
    let mut record = load(&world, "one");
    record.provisioned = false;
    world.app.store().save(&record).unwrap();
    let error = run(&world, &["one", "two"]).unwrap_err();
    assert!(error.get_hint().unwrap().contains("`fireclaw provision one`"));
}

/// The same with a real disk, as a guest left it, from the copy to what the new guest finds.
#[test]
fn a_real_disk_is_copied_and_renewed() {
    let (mut world, _) = host(&["--anthropic-api-key", "sk-real", "--model", "anthropic/x"]);
    let layout = world.app.settings.layout.clone();
    let paths = |name| layout.instance(&id(name)).unwrap();
    let tree = tempfile::tempdir().unwrap();
    let token = load(&world, "one").gateway_token;
    let dotenv = format!("OPENCLAW_GATEWAY_TOKEN={}\n", token.expose());
    for (path, text) in [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/ssh/ssh_host_ed25519_key", "old\n"),
        ("etc/systemd/system/openclaw-one.service", "[Service]\n"),
        ("var/lib/fireclaw/openclaw-one.json", "{}\n"),
        ("home/ubuntu/.openclaw/openclaw.json", "{}\n"),
        ("home/ubuntu/.openclaw/.env", &dotenv),
    ] {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let tool = |program: &str, args: &[&str]| -> String {
        SystemExec::default().check(Cmd::new(program).args(args)).unwrap().text()
    };
    let disk = |name| paths(name).disk.display().to_string();
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree.path().to_str().unwrap(), &disk("one")]);
    let source = std::fs::read(paths("one").disk).unwrap();
    let exec = Arc::new(SystemExec::default());
    let disks = Arc::new(SystemDisks::new(exec, Interrupt::default()));
    let (state, fc) = (paths("two").state_dir, paths("two").dir);
    let (one, two) = (disk("one"), disk("two"));
    let images = paths("two").images_dir;
    world.app.host.disks = disks;
    run(&world, &["one", "two"]).unwrap();
    assert!(std::fs::read(one).unwrap() == source, "the source was written to");
    tool("e2fsck", &["-f", "-n", &two]);
    let read = |path: &str| tool("debugfs", &["-R", &format!("cat {path}"), &two]);
    let record = load(&world, "two");
    let expected = format!("OPENCLAW_GATEWAY_TOKEN={}", record.gateway_token.expose());
    assert_eq!(read("/home/ubuntu/.openclaw/.env"), expected);
    let machine = read("/etc/machine-id");
    assert!(machine.len() == 32 && !machine.starts_with("0123456789abcdef"), "{machine}");
    assert_eq!(read("/etc/systemd/system/openclaw-one.service"), "");
    let key = read("/etc/ssh/ssh_host_ed25519_key.pub");
    let known = std::fs::read_to_string(state.join("known_hosts")).unwrap();
    assert!(known.contains(key.split_whitespace().nth(1).unwrap()), "{known} is not {key}");
    // No scratch files, and nothing that another user of the host could read.
    assert_eq!(fireclaw_host::fs::names(&images).unwrap(), ["rootfs.ext4", "seed.img", "vmlinux"]);
    for path in [&state, &fc] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    // A guest that has a channel of its own making.
    std::fs::write(tree.path().join("home/ubuntu/.openclaw/openclaw.json"), "{channels: {irc: {host: 'x'}}}")
        .unwrap();
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree.path().to_str().unwrap(), &disk("one")]);
    let before = files(&world, "one");
    run_destroy(&world.app, "two").unwrap();
    let error = run(&world, &["one", "two"]).unwrap_err();
    assert!(error.one_line().contains("irc"), "{}", error.one_line());
    assert_only_one(&world, &before, "a channel");
}

/// What is done to a step.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    /// It fails before it did anything.
    Before,
    /// It fails after it did everything.
    After,
    /// The process is killed after it.
    Kill,
}

/// The real steps with one fault.
struct Faulty<'a> {
    steps: Steps<'a>,
    at: Step,
    fault: Fault,
}

impl Effects for Faulty<'_> {
    fn apply(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()> {
        let injected = || Err(Error::new("do", step.title()).because("injected"));
        if step == self.at && self.fault == Fault::Before {
            return injected();
        }
        self.steps.apply(step, watch)?;
        match self.fault {
            Fault::After if step == self.at => injected(),
            // As a panic, without the words of one.
            Fault::Kill if step == self.at => resume_unwind(Box::new("killed")),
            _ => Ok(()),
        }
    }

    fn undo(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()> {
        self.steps.undo(step, watch)
    }
}

fn run_with(world: &World, at: Step, fault: Fault) -> Result<()> {
    let app = &world.app;
    let mut progress = app.ui.progress();
    let source = load(world, "one");
    let held = app.hold(&source.id)?;
    let _held = app.hold(&id("two"))?;
    let allocation = lock::take(&app.settings.layout.allocation_lock(), "addresses")?;
    let mut record = source.clone();
    record.id = id("two");
    (record.host_port, record.provisioned) = (record.host_port + 1, false);
    record.vm_ip = [172, 16, 0, 77].into();
    record.vm_tap = "ttwo77".parse().unwrap();
    let steps = Steps::of_clone(app, record, Origin::new(source, held, false), allocation);
    let journal = app.settings.layout.instance(&id("two"))?.journal;
    Engine { journal: &journal, interrupt: &app.interrupt, observer: &mut progress }
        .run(&Plan::clone_to(&id("two")), &mut Faulty { steps, at, fault })
        .map(drop)
}

#[test]
fn a_step_that_fails_at_once_leaves_nothing_or_a_whole_instance() {
    at_any_step(Fault::Before);
}

#[test]
fn a_step_that_fails_at_its_end_leaves_nothing_or_a_whole_instance() {
    at_any_step(Fault::After);
}

#[test]
fn a_kill_after_any_step_is_dealt_with_by_the_next_run() {
    at_any_step(Fault::Kill);
}

fn at_any_step(fault: Fault) {
    let plan = Plan::clone_to(&id("two"));
    let commit = plan.actions.iter().position(|action| Some(action.step) == plan.commit).unwrap();
    let (world, _) = host(&[]);
    let before = files(&world, "one");
    for (index, action) in plan.actions.iter().enumerate() {
        let when = format!("{fault:?} at {}", action.title());
        let result = catch_unwind(AssertUnwindSafe(|| run_with(&world, action.step, fault)));
        assert_eq!(result.is_err(), fault == Fault::Kill, "{when}");
        // The commit is a step that is journalled as done.
        let kept = index > commit;
        if fault == Fault::Kill {
            let next = run(&world, &["one", "two"]);
            assert_eq!(next.is_err(), kept, "{when}: {next:?}");
            assert_eq!(load(&world, "two").vm_ip.octets() == [172, 16, 0, 77], kept, "{when}");
        } else if kept {
            assert!(load(&world, "two").provisioned, "{when}");
        }
        if fault == Fault::Kill || kept {
            run_destroy(&world.app, "two").unwrap();
        }
        assert_only_one(&world, &before, &when);
    }
}

/// While the clone boots its source may be started.
#[test]
fn the_source_is_held_for_the_copy_only() {
    let (world, _) = host(&[]);
    let lock = world.app.settings.layout.instance(&id("one")).unwrap().lock;
    for (at, free) in [(Step::MakeFolders, false), (Step::RenewIdentity, true)] {
        struct Look<'a>(Steps<'a>, Step, &'a Path, Option<bool>);
        impl Effects for Look<'_> {
            fn apply(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()> {
                if step == self.1 {
                    self.3 = Some(lock::take(self.2, "one").is_ok());
                    return Err(Error::new("stop", "here"));
                }
                self.0.apply(step, watch)
            }
            fn undo(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()> {
                self.0.undo(step, watch)
            }
        }
        let app = &world.app;
        let mut progress = app.ui.progress();
        let source = load(&world, "one");
        let held = app.hold(&source.id).unwrap();
        let allocation = lock::take(&app.settings.layout.allocation_lock(), "addresses").unwrap();
        let record = InstanceRecord { id: id("two"), ..source.clone() };
        let steps = Steps::of_clone(app, record, Origin::new(source, held, false), allocation);
        let journal = app.settings.layout.instance(&id("two")).unwrap().journal;
        let mut look = Look(steps, at, &lock, None);
        Engine { journal: &journal, interrupt: &app.interrupt, observer: &mut progress }
            .run(&Plan::clone_to(&id("two")), &mut look)
            .unwrap_err();
        assert_eq!(look.3, Some(free), "at {}", at.title());
    }
}
