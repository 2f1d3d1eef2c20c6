//! Which supervisor an instance belongs to, seen from the commands.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use clap::Parser as _;
use fireclaw::{
    args::{Cli, Command},
    commands::{lifecycle, logs},
    containment,
    doctor::{self, Purpose},
    fleet,
    gates::GatewayProbe,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    report::Health,
    spec::SupervisorKind,
};
use fireclaw_host::{
    exec::{Output, fake::FakeExec},
    ssh::fake::FakeShell,
    supervisor::{Service, ServiceStatus, State, Supervisor as _, fake::FakeSupervisor},
};
use world::{World, run_destroy, run_setup, run_setup_with, world};

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn start(world: &World, id: &str) {
    try_start(world, id).unwrap();
}

fn try_start(world: &World, id: &str) -> Result<()> {
    let Command::Start(args) = Cli::try_parse_from(["fireclaw", "start", id, "--quiet"]).unwrap().command
    else {
        panic!("not start")
    };
    lifecycle::start(&world.app, &args)
}

#[test]
fn auto_is_systemd_where_it_is_and_the_record_says_so() {
    for (world, kind) in
        [(world().with_systemd(), SupervisorKind::Systemd), (world(), SupervisorKind::Embedded)]
    {
        run_setup(&world.app, "bot").unwrap();
        assert_eq!(world.app.store().load(&id("bot")).unwrap().supervisor, kind);
        assert_eq!(world.systemd.installed().len(), usize::from(kind == SupervisorKind::Systemd));
        assert_eq!(world.embedded.installed().len(), usize::from(kind == SupervisorKind::Embedded));
        let rows = fleet::rows(&world.app).unwrap();
        assert_eq!(rows[0].supervisor.as_deref(), Some(kind.as_str()));
    }
}

#[test]
fn the_other_one_can_be_asked_for_and_is_kept() {
    let world = world().with_systemd();
    run_setup_with(&world.app, "bot", &["--supervisor", "embedded"]).unwrap();
    start(&world, "bot");
    // `doctor` looks at it and nothing else does.
    assert!(world.systemd.calls().iter().all(|call| call == "check"), "{:?}", world.systemd.calls());
    assert_eq!(world.embedded.status(&id("bot"), Service::Vm).unwrap().state, State::Active);
}

#[test]
fn systemd_where_it_is_not_is_refused_and_nothing_is_made() {
    let world = world();
    let error = run_setup_with(&world.app, "bot", &["--supervisor", "systemd"]).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("PID 1"), "{}", error.one_line());
    assert!(world.app.store().all().unwrap().is_empty());
}

#[test]
fn an_instance_of_a_host_with_systemd_runs_where_there_is_none() {
    let made = world().with_systemd();
    run_setup(&made.app, "bot").unwrap();
    let mut moved = made;
    moved.app.host.supervisors = world().app.host.supervisors;
    start(&moved, "bot");
    let rows = fleet::rows(&moved.app).unwrap();
    assert_eq!(rows[0].supervisor.as_deref(), Some("embedded"));
    // Its proxy has the folders of who keeps it running, and not those of a unit.
    let record = moved.app.store().load(&id("bot")).unwrap();
    let (sidecar, _) = containment::sidecar_of(&moved.app, &record).unwrap();
    let paths = moved.app.settings.layout.instance(&record.id).unwrap();
    assert_eq!((sidecar.socket, sidecar.usage), (paths.sidecar_sock, paths.usage));
}

/// A gateway that never answers, behind a proxy that gives up as soon as it is asked for.
struct NoProxy(FakeSupervisor);

impl GatewayProbe for NoProxy {
    fn health(&self, gateways: &[SocketAddr], _: Duration) -> Result<Vec<Health>> {
        let failed = ServiceStatus::of(State::Failed);
        self.0.set(&id("bot"), Service::Proxy, failed)?;
        Ok(vec![Health::Down; gateways.len()])
    }
}

#[test]
fn a_start_does_not_wait_for_a_gate_whose_proxy_has_given_up() {
    let mut world = world();
    run_setup(&world.app, "bot").unwrap();
    world.app.host.gateway = Arc::new(NoProxy(world.embedded.clone()));
    let begun = Instant::now();
    let Command::Start(args) = Cli::try_parse_from(["fireclaw", "start", "bot", "--quiet"]).unwrap().command
    else {
        panic!("not start")
    };
    let error = lifecycle::start(&world.app, &args).unwrap_err().one_line();
    assert!(error.contains("the proxy of `bot`"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for {:?}", begun.elapsed());
}

/// A gateway that is up from this moment on.
struct Late(Instant);

impl Late {
    fn by(seconds: u64) -> Self {
        Self(Instant::now() + Duration::from_secs(seconds))
    }
}

impl GatewayProbe for Late {
    fn health(&self, gateways: &[SocketAddr], _: Duration) -> Result<Vec<Health>> {
        let health = if Instant::now() < self.0 { Health::Down } else { Health::Up };
        Ok(vec![health; gateways.len()])
    }
}

#[test]
fn a_start_goes_on_while_its_supervisor_is_too_busy_to_say_how_things_are() {
    let mut world = world();
    run_setup(&world.app, "bot").unwrap();
    world.app.host.gateway = Arc::new(Late::by(2));
    world.embedded.fail("status bot proxy", 1);
    start(&world, "bot");
    world.embedded.status(&id("bot"), Service::Proxy).expect("it was asked, and failed, while it started");
}

/// A kernel's panic in the middle of a start is over by itself: the VM comes back, and its gateway with it.
#[test]
fn a_start_goes_on_while_its_guest_restarts() {
    let mut world = world();
    run_setup(&world.app, "bot").unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    world.app.host.shell = Arc::new(FakeShell::new(move |said| {
        if said.line.contains("systemctl show") {
            counter.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new("run", said.line.clone()).because("No route to host"));
        }
        Ok(Output::made(0, "", ""))
    }));
    world.app.host.gateway = Arc::new(Late::by(12));
    start(&world, "bot");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the guest was asked while it restarted");
}

/// One that ends at each start never opens its gate, and a quarter of an hour would be spent on waiting for it.
#[test]
fn a_gateway_that_ends_again_and_again_is_said_to_with_its_last_words() {
    let mut world = world();
    run_setup(&world.app, "bot").unwrap();
    let asked = AtomicUsize::new(0);
    world.app.host.shell = Arc::new(FakeShell::new(move |said| {
        let text = if said.line.contains("systemctl show") {
            let restarts = 7 + 6 * asked.fetch_add(1, Ordering::Relaxed);
            format!("ActiveState=activating\nSubState=auto-restart\nNRestarts={restarts}\n")
        } else if said.line.contains("journalctl") {
            "docker: AppArmor enabled on system\n".to_owned()
        } else {
            String::new()
        };
        Ok(Output::made(0, &text, ""))
    }));
    world.app.host.gateway = Arc::new(Late::by(600));
    let error = try_start(&world, "bot").unwrap_err().one_line();
    assert!(error.contains("it ended 6 times") && error.contains("AppArmor enabled"), "{error}");
}

#[test]
fn a_list_asks_each_supervisor_once() {
    let world = world().with_systemd();
    for n in 0..3 {
        run_setup(&world.app, &format!("bot-{n}")).unwrap();
    }
    run_setup_with(&world.app, "own", &["--supervisor", "embedded"]).unwrap();
    let asked = |calls: Vec<String>| calls.iter().filter(|call| call.starts_with("states")).count();
    let before = (asked(world.systemd.calls()), asked(world.embedded.calls()));
    assert_eq!(fleet::rows(&world.app).unwrap().len(), 4);
    assert_eq!(asked(world.systemd.calls()), before.0 + 1);
    assert_eq!(asked(world.embedded.calls()), before.1 + 1);
    // One that does not answer makes its rows unknown and hides none.
    world.systemd.fail("states", 1);
    let rows = fleet::rows(&world.app).unwrap();
    let unknown = rows.iter().filter(|row| row.vm.as_str() == "unknown").count();
    assert_eq!((rows.len(), unknown), (4, 3));
}

#[test]
fn a_failed_start_of_a_unit_undoes_the_setup_everywhere() {
    let world = world().with_systemd();
    world.systemd.fail("start bot vm", 1);
    run_setup(&world.app, "bot").unwrap_err();
    assert!(world.systemd.installed().is_empty());
    assert!(world.app.store().all().unwrap().is_empty());
    assert!(world.network.is_clean());
}

#[test]
fn a_damaged_instance_is_removed_from_both() {
    let world = world().with_systemd();
    run_setup(&world.app, "bot").unwrap();
    let paths = world.app.settings.layout.instance(&id("bot")).unwrap();
    std::fs::write(&paths.env, b"\xff\xfegarbage").unwrap();
    run_destroy(&world.app, "bot").unwrap();
    assert!(world.systemd.installed().is_empty());
    assert!(world.embedded.calls().contains(&"uninstall bot".to_owned()));
    assert!(!paths.state_dir.exists());
}

/// The instance is undone, and `logs` knows it no more: the error has to say it all.
#[test]
fn a_vm_that_does_not_start_under_systemd_is_said_why() {
    let mut world = world().with_systemd();
    let unit = id("bot").vm_unit();
    world.app.host.exec = Arc::new(FakeExec::new(move |cmd| {
        let line = |micros: u128, by: &str, text: &str| {
            format!(
                "{{\"__REALTIME_TIMESTAMP\":\"{micros}\",\"MESSAGE\":\"{text}\",{by}\"_SYSTEMD_UNIT\":\"{unit}\"}}\n"
            )
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        let journal = [
            line(now - 60_000_000, "", "of another start"),
            line(now, "", "error: cannot boot it"),
            line(now, &format!("\"UNIT\":\"{unit}\","), "Failed with result"),
        ]
        .concat();
        Ok(Output::made(0, if cmd.line().starts_with("journalctl") { &journal } else { "" }, ""))
    }));
    world.systemd.fail("start bot vm", 1);
    let error = run_setup(&world.app, "bot").unwrap_err().one_line();
    assert!(error.contains("cannot boot it"), "{error}");
    assert!(!error.contains("another start") && !error.contains("Failed with"), "{error}");
    assert!(world.app.store().all().unwrap().is_empty());
}

#[test]
fn logs_of_the_host_are_those_of_both_units() {
    let world = world().with_systemd();
    run_setup(&world.app, "bot").unwrap();
    let argv = ["fireclaw", "logs", "bot", "host", "--lines", "7", "--no-follow"];
    let Command::Logs(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not logs") };
    logs::run(&world.app, &args).unwrap();
    let line = world.exec.lines().into_iter().find(|line| line.starts_with("journalctl")).unwrap();
    assert!(line.contains("--lines=7") && !line.contains("--follow"), "{line}");
    for service in Service::ALL {
        assert!(line.contains(service.unit(&id("bot")).as_str()), "{line}");
    }
}

#[test]
fn doctor_finds_units_that_are_gone_and_writes_them() {
    let world = world().with_systemd();
    run_setup(&world.app, "bot").unwrap();
    let units = |world: &World| {
        let findings = doctor::examine(&world.app, &Purpose::of_settings(&world.app, Vec::new()));
        findings.into_iter().find(|finding| finding.name == "units").unwrap()
    };
    assert!(units(&world).ok);
    world.systemd.uninstall(&id("bot")).unwrap();
    let finding = units(&world);
    assert!(!finding.ok && finding.detail.contains("missing"), "{finding:?}");
    doctor::mend(&world.app, &[finding], &mut world.app.ui.progress()).unwrap();
    assert!(units(&world).ok);
}

/// `nft flush ruleset` by somebody else, or a list that was changed by hand: seen, and put back by `doctor --fix` as by `start`.
#[test]
fn rules_that_somebody_took_away_are_put_back() {
    let world = world();
    for id in ["one", "two"] {
        run_setup(&world.app, id).unwrap();
    }
    let whole = world.network.state().firewall;
    let look = || {
        let findings = doctor::examine(&world.app, &Purpose::of_settings(&world.app, Vec::new()));
        findings.into_iter().find(|finding| finding.name == "firewall").unwrap()
    };
    // The fake supervisor attaches nothing: a VM's tap is what tells that rules are missed.
    world.network.meddle(None);
    assert!(look().ok, "{:?}", look());
    world.network.occupy_link("tone2");
    for meddled in [None, Some("table inet fireclaw {}")] {
        for mend in [
            &(|| doctor::mend(&world.app, &[look()], &mut world.app.ui.progress()).unwrap()) as &dyn Fn(),
            &|| start(&world, "two"),
        ] {
            world.network.meddle(meddled);
            let finding = look();
            assert!(!finding.ok, "{finding:?}");
            assert_eq!(finding.fix, doctor::Fix::Firewall);
            mend();
            assert!(look().ok, "{:?}", look());
            assert_eq!(world.network.state().firewall, whole);
        }
    }
}
