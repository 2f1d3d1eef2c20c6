//! The supervisor against a systemd that speaks D-Bus and fails on demand.

mod fake;
mod serve;

use std::path::PathBuf;

use fireclaw_core::error::Kind;

use self::fake::{FakeSystemd, Fault};
use super::*;

struct World {
    systemd: FakeSystemd,
    supervisor: SystemdSupervisor,
    units: PathBuf,
    _dir: tempfile::TempDir,
}

fn id() -> InstanceId {
    "bot".parse().unwrap()
}

fn vm() -> String {
    id().vm_unit().to_string()
}

fn proxy() -> String {
    id().proxy_unit().to_string()
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let units = dir.path().join("units");
    std::fs::create_dir(&units).unwrap();
    let layout = Layout {
        state_root: dir.path().join("state"),
        fc_root: dir.path().join("fc"),
        units_root: units.clone(),
        ..Layout::default()
    };
    let systemd = FakeSystemd::new(&units);
    let opens = systemd.clone();
    let supervisor = SystemdSupervisor {
        open: Box::new(move || opens.open()),
        patience: Duration::from_secs(2),
        ..SystemdSupervisor::new(layout, "/usr/bin/fireclaw".into(), Vec::new())
    };
    World { systemd, supervisor, units, _dir: dir }
}

/// With both units installed and nothing noted yet.
fn installed() -> World {
    let world = world();
    world.supervisor.install(&id(), &ServiceSpec::small()).unwrap();
    world.systemd.calls();
    world
}

fn text(error: &Error) -> String {
    format!("{} (hint: {})", error.one_line(), error.get_hint().unwrap_or("none"))
}

#[test]
fn units_are_written_once_and_read_again_only_when_they_changed() {
    let world = world();
    let spec = ServiceSpec::small();
    world.supervisor.install(&id(), &spec).unwrap();
    assert_eq!(world.systemd.calls(), ["reload"]);
    assert_eq!(crate::fs::names(&world.units).unwrap(), [vm(), proxy()]);
    let written = std::fs::read_to_string(world.units.join(vm())).unwrap();
    assert!(!written.contains("RestartSteps"), "systemd 252 does not know it: {written}");
    world.supervisor.install(&id(), &spec).unwrap();
    assert!(world.systemd.calls().is_empty());
    assert!(world.supervisor.drift(&id(), &spec).unwrap().is_empty());

    let more = ServiceSpec { mem_mib: 4096, ..spec };
    assert_eq!(world.supervisor.drift(&id(), &more).unwrap().len(), 1);
    world.supervisor.install(&id(), &more).unwrap();
    assert_eq!(world.systemd.calls(), ["reload"]);
}

#[test]
fn a_reload_that_failed_is_made_up_for_by_the_next_install() {
    let world = installed();
    let spec = ServiceSpec { mem_mib: 4096, ..ServiceSpec::small() };
    world.systemd.fail(Fault::Refuse("Reload", "org.freedesktop.DBus.Error.Failed"));
    let error = world.supervisor.install(&id(), &spec).unwrap_err();
    assert!(text(&error).contains("injected"), "{}", text(&error));
    assert!(world.systemd.calls().is_empty());
    world.supervisor.install(&id(), &spec).unwrap();
    assert_eq!(world.systemd.calls(), ["reload"]);
}

#[test]
fn what_systemd_has_not_loaded_needs_no_reload() {
    let world = installed();
    let spec = ServiceSpec { mem_mib: 4096, ..ServiceSpec::small() };
    world.systemd.fail(Fault::Refuse("Reload", "org.freedesktop.DBus.Error.Failed"));
    world.supervisor.install(&id(), &spec).unwrap_err();
    world.systemd.forget();
    world.supervisor.install(&id(), &spec).unwrap();
    assert!(world.systemd.calls().is_empty());
}

#[test]
fn a_start_enables_and_waits_for_its_job() {
    let world = installed();
    world.supervisor.start(&id(), Service::Vm).unwrap();
    let unit = vm();
    assert_eq!(
        world.systemd.calls(),
        [format!("enable {unit}"), format!("reset {unit}"), format!("start {unit}")]
    );
    let status = world.supervisor.status(&id(), Service::Vm).unwrap();
    assert_eq!(status.state, State::Active);
    assert_eq!(status.process, crate::proc::ProcessId::own());
}

#[test]
fn a_start_that_fails_says_why() {
    for (fault, words) in [
        (Fault::JobEnds("failed", "failed"), "203/EXEC"),
        (Fault::JobEnds("dependency", "inactive"), "a unit that it needs"),
        (Fault::JobEnds("timeout", "failed"), "longer than its unit allows"),
        (Fault::JobEnds("canceled", "inactive"), "meanwhile"),
        (Fault::UnitVanishes, "its unit file is gone"),
        (Fault::Refuse("StartUnit", "org.freedesktop.systemd1.UnitMasked"), "systemctl unmask"),
        (Fault::Refuse("EnableUnitFiles", "org.freedesktop.DBus.Error.AccessDenied"), "injected"),
        (Fault::Close("StartUnit"), "busctl status"),
        (Fault::NoConnection, "busctl status"),
    ] {
        let world = installed();
        world.systemd.fail(fault.clone());
        let error = world.supervisor.start(&id(), Service::Vm).unwrap_err();
        assert!(text(&error).contains(words), "{fault:?}: {}", text(&error));
    }
}

#[test]
fn a_systemd_that_does_not_answer_is_not_waited_for_without_end() {
    let mut world = installed();
    world.supervisor.patience = Duration::from_millis(200);
    world.systemd.fail(Fault::Ignore("StartUnit"));
    let error = world.supervisor.start(&id(), Service::Vm).unwrap_err();
    assert!(text(&error).contains("list-jobs"), "{}", text(&error));
}

#[test]
fn a_connection_that_is_lost_during_a_job_is_made_again() {
    let world = installed();
    let before = world.systemd.connections();
    world.systemd.fail(Fault::CloseDuringJob);
    world.supervisor.start(&id(), Service::Vm).unwrap();
    assert!(world.systemd.connections() > before + 1);
    world.systemd.fail(Fault::CloseDuringJob);
    world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(5)).unwrap();
    assert_eq!(world.supervisor.status(&id(), Service::Vm).unwrap().state, State::Inactive);
}

/// As it goes when systemd is upgraded while we wait: the bus stays, and the new systemd knows no listener.
#[test]
fn a_job_whose_end_nobody_tells_is_noticed() {
    let world = installed();
    world.systemd.fail(Fault::JobEndsUnheard);
    world.supervisor.start(&id(), Service::Vm).unwrap();
    world.systemd.fail(Fault::JobEndsUnheard);
    world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(10)).unwrap();
    assert!(!world.systemd.calls().iter().any(|call| call.starts_with("kill")));
}

#[test]
fn an_interrupt_ends_the_wait() {
    let mut world = installed();
    let interrupt = Interrupt::default();
    world.supervisor.interrupt = interrupt.clone();
    world.systemd.fail(Fault::JobHangs);
    std::thread::scope(|scope| {
        let start = scope.spawn(|| world.supervisor.start(&id(), Service::Vm));
        while world.systemd.connections() < 2 {
            std::thread::yield_now();
        }
        interrupt.ask();
        assert_eq!(start.join().unwrap().unwrap_err().get_kind(), Kind::Interrupted);
    });
}

#[test]
fn a_stop_disables_and_what_does_not_go_is_killed() {
    let world = installed();
    world.supervisor.start(&id(), Service::Vm).unwrap();
    world.systemd.calls();
    let unit = vm();
    world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(5)).unwrap();
    let gently =
        [format!("disable {unit}"), format!("stop {unit}"), format!("reset {unit}"), "reload".into()];
    assert_eq!(world.systemd.calls(), gently);
    assert!(!world.systemd.is_enabled(&unit));

    for deadline in [Duration::ZERO, Duration::from_millis(150)] {
        world.supervisor.start(&id(), Service::Vm).unwrap();
        world.systemd.calls();
        world.systemd.fail(Fault::JobHangs);
        world.supervisor.stop(&id(), Service::Vm, deadline).unwrap();
        assert!(world.systemd.calls().contains(&format!("kill {unit} all 9")), "{deadline:?}");
        let status = world.supervisor.status(&id(), Service::Vm).unwrap();
        assert_eq!(
            (status.state, status.detail),
            (State::Inactive, None),
            "it was killed as it was asked to be"
        );
    }
}

#[test]
fn a_stop_of_what_was_started_again_meanwhile_is_told() {
    let world = installed();
    world.systemd.fail(Fault::JobEnds("canceled", "active"));
    let error = world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(5)).unwrap_err();
    assert!(text(&error).contains("started again"), "{}", text(&error));
}

#[test]
fn what_is_not_there_can_be_stopped_and_uninstalled() {
    let world = world();
    world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(1)).unwrap();
    world.supervisor.uninstall(&id()).unwrap();
    assert!(!world.systemd.calls().contains(&"reload".to_owned()));
    // Not even systemd is there: nothing can be left.
    for _ in 0..8 {
        world.systemd.fail(Fault::NoConnection);
    }
    world.supervisor.uninstall(&id()).unwrap();
}

#[test]
fn nothing_is_left_after_an_uninstall() {
    let world = installed();
    for service in Service::ALL {
        world.supervisor.start(&id(), service).unwrap();
    }
    std::fs::create_dir(world.units.join(format!("{}.d", vm()))).unwrap();
    world.supervisor.uninstall(&id()).unwrap();
    assert!(crate::fs::names(&world.units).unwrap().is_empty());
    assert_eq!(world.systemd.calls().iter().filter(|call| call.starts_with("kill")).count(), 2);
    assert!(!world.systemd.is_enabled(&vm()) && !world.systemd.is_enabled(&proxy()));
    world.supervisor.uninstall(&id()).unwrap();
}

#[test]
fn an_uninstall_that_cannot_reach_systemd_keeps_the_units_and_says_so() {
    let world = installed();
    world.systemd.fail(Fault::NoConnection);
    let error = world.supervisor.uninstall(&id()).unwrap_err();
    assert_eq!(error.get_kind(), Kind::HostNotReady);
    assert_eq!(crate::fs::names(&world.units).unwrap().len(), 2);
    world.supervisor.uninstall(&id()).unwrap();
}

#[test]
fn units_of_the_bash_fireclaw_stay_as_they_are_and_work() {
    let world = world();
    let theirs = "[Unit]\nDescription=Firecracker VM bot\n[Service]\nExecStart=/srv/x/start-vm.sh\n";
    std::fs::write(world.units.join(vm()), theirs).unwrap();
    std::fs::write(world.units.join(proxy()), theirs).unwrap();
    let spec = ServiceSpec::small();
    world.supervisor.install(&id(), &spec).unwrap();
    assert_eq!(std::fs::read_to_string(world.units.join(vm())).unwrap(), theirs);
    assert!(world.supervisor.drift(&id(), &spec).unwrap().is_empty());
    world.supervisor.start(&id(), Service::Vm).unwrap();
    world.supervisor.stop(&id(), Service::Vm, Duration::from_secs(5)).unwrap();
    world.supervisor.uninstall(&id()).unwrap();
    assert!(crate::fs::names(&world.units).unwrap().is_empty());
}

#[test]
fn a_hundred_units_are_one_call() {
    let world = world();
    let ids: Vec<InstanceId> = (0..50).map(|n| format!("bot-{n}").parse().unwrap()).collect();
    for id in &ids[..49] {
        world.systemd.set(id.vm_unit().as_str(), "active", "success", 0);
        world.systemd.set(id.proxy_unit().as_str(), "failed", "exit-code", 0);
    }
    let ids: Vec<&InstanceId> = ids.iter().collect();
    let states = world.supervisor.states(&ids).unwrap();
    assert_eq!(world.systemd.calls(), ["list"]);
    assert_eq!(world.systemd.connections(), 1);
    assert!(states[..49].iter().all(|states| *states == [State::Active, State::Failed]));
    assert_eq!(states[49], [State::Inactive; 2], "what is not loaded does not run");
}

#[test]
fn what_systemd_knows_of_a_failure_is_shown() {
    let world = installed();
    world.systemd.set(&vm(), "failed", "start-limit-hit", 8);
    let status = world.supervisor.status(&id(), Service::Vm).unwrap();
    assert_eq!((status.state, status.restarts), (State::Failed, 8));
    assert!(status.detail.unwrap().contains("gave up"));
    assert_eq!(world.supervisor.check().unwrap(), "systemd 252.38-1~deb12u1 answers");
}

/// What systemd itself thinks of the units: no warning, and a bound on what they may do.
#[test]
fn systemd_understands_the_units_and_finds_them_confined() {
    use crate::exec::{Cmd, Exec as _, SystemExec};
    let dir = tempfile::tempdir().unwrap();
    let exec = SystemExec::default();
    let on_a_host = SystemdSupervisor::new(Layout::default(), "/usr/bin/fireclaw".into(), Vec::new());
    for (service, path, text) in on_a_host.texts(&id(), &ServiceSpec::small(), "252") {
        let path = dir.path().join(path.file_name().unwrap());
        // The program must be there for the check.
        std::fs::write(&path, text.replace("/usr/bin/fireclaw", "/bin/true")).unwrap();
        let verified = exec.run(Cmd::new("systemd-analyze").arg("verify").arg(&path)).unwrap();
        assert!(verified.status.success() && verified.last_words().is_empty(), "{}", verified.last_words());
        // Tenths; the lower the tighter.
        let threshold = if service == id().vm_unit() { "38" } else { "13" };
        let options = ["security", "--offline=true", "--threshold", threshold];
        let judged = exec.run(Cmd::new("systemd-analyze").args(options).arg(&path)).unwrap();
        assert!(judged.status.success(), "{service:?}: {}", judged.text());
        // As `audit` reads it.
        let exposure = fireclaw_core::audit::exposure(&judged.text()).unwrap();
        assert!(exposure > 0 && exposure <= threshold.parse().unwrap(), "{exposure}");
    }
}

/// An instance that sleeps by itself has two units more, which come with `--idle-after` and go without.
#[test]
fn the_units_that_wake_an_instance_come_and_go_and_systemd_understands_them() {
    use crate::exec::{Cmd, Exec as _, SystemExec};
    let world = installed();
    let wakes = ServiceSpec { wakes: true, ..ServiceSpec::small() };
    assert_eq!(world.supervisor.drift(&id(), &wakes).unwrap().len(), 3);
    world.supervisor.install(&id(), &wakes).unwrap();
    let own = [id().wake_path_unit().to_string(), id().wake_unit().to_string()];
    let names = crate::fs::names(&world.units).unwrap();
    assert!(own.iter().all(|unit| names.contains(unit)), "{names:?}");
    assert!(world.supervisor.drift(&id(), &wakes).unwrap().is_empty());
    let dir = tempfile::tempdir().unwrap();
    for unit in &own {
        let text = std::fs::read_to_string(world.units.join(unit)).unwrap();
        std::fs::write(dir.path().join(unit), text.replace("/usr/bin/fireclaw", "/bin/true")).unwrap();
    }
    for unit in &own {
        let verify = Cmd::new("systemd-analyze").arg("verify").arg(dir.path().join(unit));
        let verified = SystemExec::default().run(verify).unwrap();
        assert!(verified.status.success() && verified.last_words().is_empty(), "{}", verified.last_words());
    }
    world.systemd.calls();
    world.supervisor.install(&id(), &ServiceSpec::small()).unwrap();
    assert_eq!(world.systemd.calls(), ["reload"]);
    assert_eq!(crate::fs::names(&world.units).unwrap(), [vm(), proxy()]);
    world.supervisor.install(&id(), &wakes).unwrap();
    world.supervisor.uninstall(&id()).unwrap();
    assert!(crate::fs::names(&world.units).unwrap().is_empty());
}
