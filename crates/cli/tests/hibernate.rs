//! Hibernate and what follows, on a host of fakes with a stand-in of Firecracker's API: every step fails once, and every step is
//! cut off once. What is left each time is a VM that runs, one that boots, or one that sleeps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod firecracker_api;
mod world;

use std::{
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use fireclaw::{
    args::{Cli, Command},
    commands::{attend, hibernate, lifecycle, provision, resume, run::vm_spec, shell, status},
    engine::{Engine, Entry, Observer},
    fleet, hibernate as memory,
    steps::Steps,
};
use fireclaw_core::{
    error::{Error, Kind, Result},
    layout::InstancePaths,
    plan::{Action, Plan, Step},
    report::UnitState,
    spec::VmmKind,
    state::InstanceRecord,
};
use fireclaw_host::{
    exec::{Cmd, Output, fake::FakeExec},
    firecracker::Firecracker,
    fs,
    interrupt::Interrupt,
    requests::{Requests, Want},
    ssh::{LoginState, fake::FakeShell},
    supervisor::{Service, ServiceStatus, State, Supervisor as _},
    vmm::Start,
};
use firecracker_api::StandIn;
use world::{World, run_destroy, run_setup, world};

/// An instance that runs on a stand-in.
struct Bed {
    world: World,
    record: InstanceRecord,
    paths: InstancePaths,
    firecracker: StandIn,
    shell: FakeShell,
}

fn bed() -> Bed {
    let mut world = world();
    run_setup(&world.app, "bot").unwrap();
    let mut record = world.app.store().load(&"bot".parse().unwrap()).unwrap();
    record.vmm = VmmKind::Firecracker;
    world.app.store().save(&record).unwrap();
    let paths = world.app.settings.layout.instance(&record.id).unwrap();
    let exec = FakeExec::new(|_| Ok(Output::made(0, "Firecracker v1.16.1\n", "")));
    world.app.host.exec = Arc::new(exec);
    let shell = FakeShell::silent();
    world.app.host.shell = Arc::new(shell.clone());
    for path in [&paths.kernel, &paths.disk, &paths.seed] {
        if !path.exists() {
            std::fs::write(path, "x").unwrap();
        }
    }
    let firecracker = StandIn::start(&paths, "1.16.1");
    Bed { world, record, paths, firecracker, shell }
}

impl Bed {
    fn run(&self, words: &[&str]) -> Result<()> {
        let argv = [&["fireclaw"][..], words, &["--quiet"]].concat();
        let app = &self.world.app;
        match Cli::try_parse_from(argv).unwrap().command {
            Command::Hibernate(args) => hibernate::run(app, &args),
            Command::Start(args) => lifecycle::start(app, &args),
            Command::Stop(args) => lifecycle::stop(app, &args),
            Command::Provision(args) => provision::run(app, &args),
            other => panic!("{other:?}"),
        }
    }

    fn hibernate(&self) -> Result<()> {
        self.run(&["hibernate", "bot"])
    }

    fn vm(&self) -> State {
        self.world.embedded.status(&self.record.id, Service::Vm).unwrap().state
    }

    /// What the kernel does when a VMM is killed: the stand-in is gone with the service that it stands for.
    fn settle(&self) {
        if self.vm() != State::Active {
            self.firecracker.end();
        }
    }

    /// What an operation that was cut off has left.
    fn journal(&self, entries: &[Entry]) {
        let lines: Vec<String> =
            entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
        fs::write(&self.paths.journal, lines.concat().as_bytes(), 0o600).unwrap();
    }

    #[track_caller]
    fn sleeps(&self) {
        let row = &fleet::rows(&self.world.app).unwrap()[0];
        assert_eq!((row.vm, self.vm()), (UnitState::Hibernated, State::Inactive));
        assert!(row.snapshot_bytes.unwrap() > 0);
        for path in [&self.paths.snapshot_manifest, &self.paths.snapshot_state, &self.paths.snapshot_memory] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
        assert_eq!(self.paths.snapshot_dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[track_caller]
    fn runs(&self) {
        assert_eq!((self.vm(), self.firecracker.state().as_str()), (State::Active, "Running"));
        assert!(!self.paths.snapshot_dir.exists(), "{:?}", fs::names(&self.paths.snapshot_dir));
        assert!(!self.firecracker.has_memory());
        let row = &fleet::rows(&self.world.app).unwrap()[0];
        assert_eq!((row.vm, row.snapshot_bytes), (UnitState::Active, None));
    }

    /// What `run` would go on from.
    fn claim(&self) -> Option<String> {
        let app = &self.world.app;
        let spec = vm_spec(app, &self.record, true, Start::Becoming).unwrap();
        let vmm = Firecracker::new(Arc::clone(&app.host.exec));
        let claimed = memory::claim(&self.paths, &spec, &vmm).unwrap();
        match claimed {
            Some(_) => None,
            None => Some(memory::told_drop(&self.paths).unwrap().unwrap_or_default()),
        }
    }
}

#[test]
fn an_instance_sleeps_and_says_so() {
    let bed = bed();
    bed.hibernate().unwrap();
    bed.sleeps();
    let said: Vec<String> = bed.shell.said().into_iter().map(|said| said.line).collect();
    assert_eq!(said[..2], ["run sync", "run sudo -n /usr/local/bin/fireclaw guest trim"]);
    assert_eq!(bed.firecracker.asked(), ["GET /", "PATCH /vm Paused", "PUT /snapshot/create", "GET /"]);
    let calls = bed.world.embedded.calls();
    assert!(calls.contains(&"stop bot vm 0ns".to_owned()), "{calls:?}");
    // Nothing would wake it: its proxy is down.
    assert!(calls.contains(&"stop bot proxy 5s".to_owned()), "{calls:?}");
    let report = fleet::status(&bed.world.app, &bed.record).unwrap();
    let text = status::text(&report);
    assert!(text.contains("vm         hibernated") && text.contains("memory     kept on"), "{text}");
    assert!(serde_json::to_string(&report).unwrap().contains("\"vm\":\"hibernated\""));
    // Again is fine and changes nothing.
    bed.firecracker.end();
    bed.hibernate().unwrap();
    bed.sleeps();
    assert_eq!(bed.claim(), None);
}

#[test]
fn whatever_fails_before_the_memory_is_kept_leaves_a_vm_that_runs() {
    type Break = fn(&Bed);
    let breaks: [(Break, &str); 7] = [
        (|bed| bed.shell.on_login(|_| Ok(LoginState::NotYet("no answer".into()))), "no answer"),
        (|bed| bed.firecracker.fail("PATCH /vm Paused", "no pause"), "no pause"),
        (|bed| bed.firecracker.fail("PUT /snapshot/create", "No space left on device"), "No space left"),
        (|bed| bed.firecracker.write_half(), "No space left"),
        (|bed| std::fs::remove_file(&bed.paths.kernel).unwrap(), "vmlinux"),
        (|bed| bed.firecracker.forget_memory(), "snapshot.memory"),
        (|bed| bed.firecracker.fail("GET /", "hangs"), "hangs"),
    ];
    for (break_it, said) in breaks {
        let bed = bed();
        break_it(&bed);
        let error = bed.hibernate().unwrap_err();
        assert!(error.one_line().contains(said), "{said}: {}", error.one_line());
        bed.firecracker.mend();
        bed.runs();
        assert!(!bed.paths.journal.exists(), "{said}");
    }
}

#[test]
fn no_room_is_told_before_anything_is_done() {
    let mut bed = bed();
    let disks = fireclaw_host::disk::fake::FakeDisks::default();
    disks.set_free(300 << 20);
    bed.world.app.host.disks = Arc::new(disks);
    let error = bed.hibernate().unwrap_err();
    assert!(error.one_line().contains("has 300 MiB; nothing was changed"), "{}", error.one_line());
    assert!(bed.firecracker.asked().is_empty());
    bed.runs();
}

#[test]
fn what_cannot_hibernate_is_refused_with_the_reason() {
    let mut bed = bed();
    bed.record.vmm = VmmKind::Qemu;
    bed.world.app.store().save(&bed.record).unwrap();
    let error = bed.hibernate().unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("runs on qemu") && error.get_hint().is_some(), "{}", error.one_line());
    assert!(bed.firecracker.asked().is_empty());

    let bed = self::bed();
    bed.world.embedded.set(&bed.record.id, Service::Vm, ServiceStatus::of(State::Inactive)).unwrap();
    let error = bed.hibernate().unwrap_err();
    assert!(error.one_line().contains("its VM does not run"), "{}", error.one_line());
}

/// Ends everything as kill -9 would, after so many entries of the journal.
struct Cut {
    left: usize,
}

impl Observer for Cut {
    fn plan(&mut self, _: &Plan) {}
    fn begin(&mut self, _: Action) {}
    fn end(&mut self, _: Action, _: u64, _: bool) {}
    fn journalled(&mut self, _: &Entry) {
        assert!(self.left > 0, "cut");
        self.left -= 1;
    }
    fn warn(&mut self, _: &str) {}
}

#[test]
fn a_cut_at_any_entry_leaves_a_vm_that_runs_or_one_that_sleeps() {
    let (mut ran, mut slept) = (0, 0);
    // Begun and done of four steps; the last cut is none.
    for cut in 0..=8 {
        // With the host up, and with a power cut that ends the VMM as well.
        for power in [true, false] {
            let bed = bed();
            let app = &bed.world.app;
            let plan = Plan::hibernate(&bed.record.id);
            let mut steps = Steps::of_existing(app, &bed.record.id);
            let mut observer = Cut { left: cut };
            let ended = catch_unwind(AssertUnwindSafe(|| {
                Engine { journal: &bed.paths.journal, interrupt: &app.interrupt, observer: &mut observer }
                    .run(&plan, &mut steps)
                    .unwrap();
            }));
            assert_eq!(ended.is_ok(), cut == 8);
            if !power {
                bed.world
                    .embedded
                    .set(&bed.record.id, Service::Vm, ServiceStatus::of(State::Inactive))
                    .unwrap();
            }
            bed.settle();
            drop(app.hold_existing(&bed.record.id, &mut Cut { left: 99 }).unwrap());
            bed.settle();
            assert!(!bed.paths.journal.exists());
            match (bed.vm(), bed.paths.snapshot_manifest.exists()) {
                (State::Active, false) => {
                    bed.runs();
                    ran += 1;
                }
                (State::Inactive, true) => {
                    bed.sleeps();
                    assert_eq!(bed.claim(), None);
                    slept += 1;
                }
                // The power was cut before there was a memory: it boots.
                (State::Inactive, false) => {
                    assert!(!power, "cut {cut}");
                    assert!(!bed.paths.snapshot_dir.exists());
                }
                other => panic!("cut {cut}, power {power}: {other:?}"),
            }
        }
    }
    assert!(ran >= 3 && slept >= 8, "{ran} ran, {slept} slept");
}

#[test]
fn a_vm_that_could_not_be_ended_is_let_run_on_by_the_next_start() {
    let bed = bed();
    bed.world.embedded.fail("stop bot vm", 1);
    bed.hibernate().unwrap_err();
    assert_eq!((bed.vm(), bed.firecracker.state().as_str()), (State::Active, "Paused"));
    bed.run(&["start", "bot"]).unwrap();
    bed.runs();
}

/// Firecracker's API stands still while a memory is written, and goes on writing when whoever asked was killed.
#[test]
fn a_vm_whose_memory_is_still_written_for_nobody_is_waited_for() {
    let bed = bed();
    let plan = Plan::hibernate(&bed.record.id);
    let saving = plan.actions.iter().position(|action| action.step == Step::SaveMemory).unwrap();
    let mut lines = vec![Entry::Plan(plan)];
    lines.extend((0..saving).flat_map(|done| [Entry::Begun(done), Entry::Done(done)]));
    lines.push(Entry::Begun(saving));
    bed.journal(&lines);
    // Longer than one question and one order wait for their answers.
    bed.firecracker.write_on_for(Duration::from_secs(5));
    bed.run(&["start", "bot"]).unwrap();
    bed.runs();
    assert!(!bed.paths.journal.exists());
}

#[test]
fn a_vm_that_could_not_be_ended_is_put_to_sleep_by_the_next_hibernate() {
    let bed = bed();
    bed.world.embedded.fail("stop bot vm", 1);
    bed.hibernate().unwrap_err();
    bed.hibernate().unwrap();
    bed.settle();
    bed.sleeps();
}

#[test]
fn a_signal_after_the_memory_is_kept_does_not_leave_a_guest_that_stands_still() {
    let bed = bed();
    let mut steps = Steps::of_existing(&bed.world.app, &bed.record.id);
    let mut observer = Signals(&bed.world.app.interrupt);
    let plan = Plan::hibernate(&bed.record.id);
    let done =
        Engine { journal: &bed.paths.journal, interrupt: &bed.world.app.interrupt, observer: &mut observer }
            .run(&plan, &mut steps);
    done.unwrap();
    bed.settle();
    bed.sleeps();
}

/// Ctrl-C in the moment in which the memory is kept.
struct Signals<'a>(&'a Interrupt);

impl Observer for Signals<'_> {
    fn plan(&mut self, _: &Plan) {}
    fn begin(&mut self, _: Action) {}
    fn end(&mut self, action: Action, _: u64, _: bool) {
        if action.step == Step::SaveMemory {
            self.0.ask();
        }
    }
    fn journalled(&mut self, _: &Entry) {}
    fn warn(&mut self, _: &str) {}
}

#[test]
fn a_memory_is_taken_up_only_where_everything_is_as_it_was() {
    type Break = fn(&mut Bed);
    let breaks: [(Break, &str); 8] = [
        (|bed| std::fs::write(&bed.paths.disk, "written").unwrap(), "the disk was written"),
        (|bed| std::fs::write(&bed.paths.kernel, "newer").unwrap(), "the kernel was written"),
        (|bed| std::fs::write(&bed.paths.initrd, "there").unwrap(), "the initrd is there now"),
        (|bed| std::fs::write(&bed.paths.snapshot_memory, "short").unwrap(), "its size is another"),
        (
            |bed| {
                let mut memory = std::fs::read(&bed.paths.snapshot_memory).unwrap();
                memory[7] ^= 1;
                std::fs::write(&bed.paths.snapshot_memory, memory).unwrap();
            },
            "its checksum does not match",
        ),
        (|bed| std::fs::remove_file(&bed.paths.snapshot_state).unwrap(), "No such file"),
        (|bed| bed.record.mem_mib += 1, "size, addresses or user"),
        (
            |bed| {
                let exec = FakeExec::new(|_| Ok(Output::made(0, "Firecracker v1.17.0\n", "")));
                bed.world.app.host.exec = Arc::new(exec);
            },
            "Firecracker was 1.16.1 and is 1.17.0",
        ),
    ];
    for (break_it, said) in breaks {
        let mut bed = bed();
        bed.hibernate().unwrap();
        break_it(&mut bed);
        let why = bed.claim().unwrap_or_else(|| panic!("{said}: it was taken up"));
        assert!(why.contains(said), "{said}: {why}");
        assert!(!bed.paths.snapshot_dir.exists());
    }
    // A manifest that was cut off, and files without one.
    let bed = bed();
    bed.hibernate().unwrap();
    let manifest = std::fs::read(&bed.paths.snapshot_manifest).unwrap();
    std::fs::write(&bed.paths.snapshot_manifest, &manifest[..manifest.len() / 2]).unwrap();
    assert!(bed.claim().unwrap().contains("manifest.json"));
    fs::ensure_private_dir(&bed.paths.snapshot_dir).unwrap();
    std::fs::write(&bed.paths.snapshot_memory, "half").unwrap();
    assert_eq!(bed.claim().unwrap(), "");
    assert!(!bed.paths.snapshot_dir.exists());
}

#[test]
fn a_start_tells_why_it_boots_and_steps_the_clock_where_it_goes_on() {
    let bed = bed();
    bed.hibernate().unwrap();
    bed.firecracker.end();
    bed.run(&["start", "bot"]).unwrap();
    let said: Vec<String> = bed.shell.said().into_iter().map(|said| said.line).collect();
    assert!(said.iter().any(|line| line == "run date +%s.%N"), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("run sudo -n date --utc --set=@")), "{said:?}");
    assert_eq!(bed.world.embedded.status(&bed.record.id, Service::Proxy).unwrap().state, State::Active);
    memory::drop_because(&bed.paths, "the disk was written").unwrap();
    bed.run(&["start", "bot"]).unwrap();
    assert!(!bed.paths.snapshot_dropped.exists(), "it is told once");
}

#[test]
fn a_memory_that_the_vmm_refuses_costs_a_second_start_and_no_error() {
    let bed = bed();
    bed.hibernate().unwrap();
    bed.firecracker.end();
    std::fs::write(&bed.paths.snapshot_dropped, "it was refused\n").unwrap();
    bed.world.embedded.fail("start bot vm", 1);
    bed.run(&["start", "bot"]).unwrap();
    assert_eq!(bed.vm(), State::Active);
    assert!(!bed.paths.snapshot_dropped.exists());
}

#[test]
fn other_commands_know_that_it_sleeps() {
    let bed = bed();
    bed.hibernate().unwrap();
    bed.firecracker.end();
    let error = bed.run(&["provision", "bot", "--model", "openai/x"]).unwrap_err();
    assert!(error.one_line().contains("it is hibernated; nothing was changed"), "{}", error.one_line());
    bed.shell.on_login(|_| Ok(LoginState::NotYet("no route".into())));
    let error = shell::run(&bed.world.app, "bot", &[]).unwrap_err();
    assert!(error.one_line().contains("it is hibernated"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("fireclaw start bot"));
    // A stop is for good: the memory goes, without waiting for a guest that sleeps.
    bed.run(&["stop", "bot"]).unwrap();
    assert!(!bed.paths.snapshot_dir.exists());
    assert_eq!(fleet::rows(&bed.world.app).unwrap()[0].vm, UnitState::Inactive);

    let bed = self::bed();
    bed.hibernate().unwrap();
    run_destroy(&bed.world.app, "bot").unwrap();
    assert!(!bed.paths.dir.exists());
}

#[test]
fn a_held_instance_is_not_put_to_sleep() {
    let bed = bed();
    let held = bed.world.app.hold(&bed.record.id).unwrap();
    assert_eq!(bed.hibernate().unwrap_err().get_kind(), Kind::Held);
    drop(held);
    bed.runs();
}

#[test]
fn a_memory_that_waits_is_loaded_once_and_one_that_does_not_load_is_told() {
    let bed = bed();
    let app = &bed.world.app;
    // A VM that booted.
    resume::run(app, "bot", None, false).unwrap();
    assert!(bed.firecracker.asked().is_empty());

    bed.firecracker.put_memory();
    resume::run(app, "bot", None, false).unwrap();
    assert_eq!(bed.firecracker.asked(), ["PUT /snapshot/load"]);
    assert!(!bed.firecracker.has_memory());
    let calls = bed.world.network.state().calls;
    assert!(calls.iter().any(|call| call.starts_with("learn")), "{calls:?}");

    bed.firecracker.put_memory();
    bed.firecracker.fail("PUT /snapshot/load", "of another CPU");
    resume::run(app, "bot", None, false).unwrap();
    assert!(!bed.firecracker.has_memory());
    let told: Result<_, Error> = memory::told_drop(&bed.paths);
    assert!(told.unwrap().unwrap().contains("of another CPU"));
}

#[test]
fn a_memory_is_loaded_once_the_jailer_has_ended_and_fails_the_start_when_it_cannot_be() {
    let bed = bed();
    let vmm = memory::vmm_of(&bed.world.app, &bed.record).unwrap();
    let start = |jailer: &str| {
        bed.firecracker.put_memory();
        resume::start(&bed.world.app, &bed.record, &*vmm, &Cmd::new(jailer))
    };
    start("true").unwrap();
    assert_eq!(bed.firecracker.asked(), ["PUT /snapshot/load"]);
    assert!(!bed.firecracker.has_memory());

    bed.firecracker.fail("PUT /snapshot/load", "of another CPU");
    assert!(start("true").unwrap_err().one_line().contains("of another CPU"));
    assert!(!bed.firecracker.has_memory());
    assert!(memory::told_drop(&bed.paths).unwrap().unwrap().contains("of another CPU"));

    let before = bed.firecracker.asked();
    assert!(start("false").unwrap_err().one_line().contains("exit status: 1"));
    assert_eq!(bed.firecracker.asked(), before, "a VMM that was not started was asked");

    bed.firecracker.crash();
    assert!(start("true").unwrap_err().one_line().contains("it has ended"));
    assert!(memory::told_drop(&bed.paths).unwrap().unwrap().contains("it has ended"));
}

/// An instance whose proxy puts it to sleep.
fn idle() -> (Bed, Requests) {
    let mut bed = bed();
    bed.record.idle.after = Some(Duration::from_mins(30));
    bed.world.app.store().save(&bed.record).unwrap();
    let requests = Requests::make(&bed.paths.requests_dir, (0, 0)).unwrap();
    (bed, requests)
}

#[test]
fn an_idle_instance_is_put_to_sleep_and_woken_for_a_client() {
    let (bed, requests) = idle();
    let app = &bed.world.app;
    requests.ask(Want::Sleep).unwrap();
    attend::serve(app, &"bot".parse().unwrap()).unwrap();
    bed.sleeps();
    assert!(requests.is_asleep() && !requests.is_open(Want::Sleep));
    // Its proxy stays, and nobody asks it how the gateway is: that would be a client.
    assert_eq!(bed.world.embedded.status(&bed.record.id, Service::Proxy).unwrap().state, State::Active);
    let report = fleet::status(app, &bed.record).unwrap();
    assert_eq!(report.idle_after_s, Some(1800));
    assert!(status::text(&report).contains("sleeps     after 30 min"), "{}", status::text(&report));
    bed.firecracker.end();

    requests.ask(Want::Wake).unwrap();
    attend::serve(app, &"bot".parse().unwrap()).unwrap();
    assert_eq!(bed.vm(), State::Active);
    assert!(!requests.is_asleep() && !requests.is_open(Want::Wake) && requests.failure().is_none());
    let said: Vec<String> = bed.shell.said().into_iter().map(|said| said.line).collect();
    assert!(said.iter().any(|line| line.contains("date --utc --set")), "{said:?}");
}

#[test]
fn its_owner_need_not_wait_while_its_clock_is_stepped() {
    let (mut bed, requests) = idle();
    bed.hibernate().unwrap();
    bed.firecracker.end();
    let (lock, free) = (bed.paths.lock.clone(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&free);
    let shell = FakeShell::new(move |said| {
        if said.line.contains("date") {
            seen.store(fireclaw_host::lock::take(&lock, "instance `bot`").is_ok(), Ordering::Relaxed);
        }
        Ok(Output::made(0, "", ""))
    });
    bed.world.app.host.shell = Arc::new(shell);
    requests.ask(Want::Wake).unwrap();
    attend::serve(&bed.world.app, &"bot".parse().unwrap()).unwrap();
    assert!(free.load(Ordering::Relaxed), "the instance was held");
}

#[test]
fn an_instance_that_works_or_is_worked_on_stays_awake() {
    type Keep = fn(&mut Bed) -> Option<fireclaw_host::lock::Lock>;
    let keeps: [(&str, Keep); 6] = [
        ("a load", |bed| {
            let shell = FakeShell::new(|said| {
                let text = if said.line.starts_with("run cat") { "1.50 1 1 1/1 1\n" } else { "" };
                Ok(Output::made(0, text, ""))
            });
            bed.world.app.host.shell = Arc::new(shell);
            None
        }),
        ("a channel", |bed| {
            bed.record.telegram_token = Some(fireclaw_core::secret::Secret::new("1:a"));
            bed.world.app.store().save(&bed.record).unwrap();
            None
        }),
        ("another command", |bed| Some(bed.world.app.hold(&bed.record.id).unwrap())),
        ("no login", |bed| {
            bed.shell.on_login(|_| Ok(LoginState::NotYet("no answer".into())));
            None
        }),
        ("somebody logged in", |bed| {
            let folder = bed.paths.ssh_control.parent().unwrap();
            std::fs::create_dir_all(folder).unwrap();
            // A process that is there: the first.
            std::fs::write(folder.join("bot.1"), "").unwrap();
            None
        }),
        ("no memory to keep it in", |bed| {
            bed.firecracker.fail("PUT /snapshot/create", "No space left on device");
            None
        }),
    ];
    for (what, keep) in keeps {
        let (mut bed, requests) = idle();
        let _held = keep(&mut bed);
        requests.ask(Want::Sleep).unwrap();
        attend::serve(&bed.world.app, &"bot".parse().unwrap()).unwrap();
        assert!(!requests.is_asleep() && !requests.is_open(Want::Sleep), "{what}");
        bed.firecracker.mend();
        bed.runs();
    }
    // Told to, it sleeps with its channel.
    let (mut bed, requests) = idle();
    bed.record.telegram_token = Some(fireclaw_core::secret::Secret::new("1:a"));
    bed.record.idle.even_with_channels = true;
    bed.world.app.store().save(&bed.record).unwrap();
    requests.ask(Want::Sleep).unwrap();
    attend::serve(&bed.world.app, &"bot".parse().unwrap()).unwrap();
    bed.sleeps();
}

#[test]
fn only_what_sleeps_is_woken() {
    let (bed, requests) = idle();
    let app = &bed.world.app;
    // It runs, and another command holds it: its client does not wait for that.
    let held = app.hold(&bed.record.id).unwrap();
    requests.ask(Want::Wake).unwrap();
    attend::serve(app, &"bot".parse().unwrap()).unwrap();
    assert_eq!(requests.failure(), None);
    drop(held);
    // Nobody works on it any more, and whoever did left it paused.
    bed.firecracker.pause();
    let plan = Plan::doze(&bed.record.id);
    bed.journal(&[Entry::Plan(plan), Entry::Begun(0), Entry::Done(0), Entry::Begun(1)]);
    fs::remove_file(&bed.paths.lock).unwrap();
    requests.ask(Want::Wake).unwrap();
    attend::serve(app, &"bot".parse().unwrap()).unwrap();
    bed.runs();
    bed.run(&["stop", "bot"]).unwrap();
    requests.ask(Want::Wake).unwrap();
    attend::serve(app, &"bot".parse().unwrap()).unwrap();
    assert!(requests.failure().unwrap().contains("it does not sleep: its VM is down"));
    assert_eq!(bed.vm(), State::Inactive);
}

#[test]
fn a_start_by_hand_is_known_to_the_proxy() {
    let (bed, requests) = idle();
    requests.ask(Want::Sleep).unwrap();
    attend::serve(&bed.world.app, &"bot".parse().unwrap()).unwrap();
    bed.firecracker.end();
    bed.run(&["start", "bot"]).unwrap();
    assert!(!requests.is_asleep());
}

#[test]
fn times_are_said_at_setup_and_changed_later() {
    let again = |bed: &Bed| bed.world.app.store().load(&bed.record.id).unwrap().idle;
    let done = "{\"event\":\"done\",\"changed\":[],\"restarted\":false}\n";
    let shell = FakeShell::new(move |said| {
        Ok(Output::made(0, if said.line.contains("guest provision") { done } else { "" }, ""))
    });
    let mut bed = bed();
    bed.world.app.host.shell = Arc::new(shell);
    bed.run(&["provision", "bot", "--idle-after", "30m"]).unwrap();
    assert_eq!(again(&bed).after, Some(Duration::from_mins(30)));
    let calls = bed.world.embedded.calls();
    let stopped = calls.iter().rposition(|call| call == "stop bot proxy 5s").unwrap();
    assert!(calls[stopped..].iter().any(|call| call == "start bot proxy"), "{calls:?}");
    bed.run(&["provision", "bot", "--idle-after", "off"]).unwrap();
    assert_eq!(again(&bed).after, None);
    assert_eq!(bed.run(&["provision", "bot", "--idle-after", "5"]).unwrap_err().get_kind(), Kind::Refused);
    // QEMU's memory is not kept: an instance on it never sleeps.
    bed.record.vmm = VmmKind::Qemu;
    bed.world.app.store().save(&bed.record).unwrap();
    let error = bed.run(&["provision", "bot", "--idle-after", "30m"]).unwrap_err();
    assert!(error.one_line().contains("runs on qemu"), "{}", error.one_line());
}
