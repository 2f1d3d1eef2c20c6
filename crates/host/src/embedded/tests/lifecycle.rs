//! Start, stop, failure and removal, each with a real supervisor process.

use std::{
    fs,
    time::{Duration, Instant},
};

use fireclaw_core::spec::ServiceSpec;
use nix::sys::signal::Signal;

use super::{Host, PATIENCE, become_supervisor_if_told, eventually, id, within};
use crate::{
    interrupt::Interrupt,
    proc::ProcessId,
    supervisor::{Service, State, Supervisor},
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_service_is_started_and_stopped() {
    become_supervisor_if_told();
    let host = Host::new();
    assert_eq!(host.vm().state, State::Inactive);
    host.start(Service::Vm);
    host.start(Service::Proxy);
    let (vm, proxy, supervisor) = (host.vm(), host.status(Service::Proxy), host.supervisor());
    assert_eq!((vm.state, vm.restarts, vm.detail), (State::Active, 0, None));
    assert_eq!(proxy.state, State::Active);
    assert!(vm.process.unwrap().is_alive() && proxy.process.unwrap().is_alive());

    host.start(Service::Vm);
    assert_eq!(host.process(Service::Vm), vm.process.unwrap(), "one that runs is left alone");

    within(SOON, || host.stop(Service::Proxy, SOON));
    within(SOON, || host.stop(Service::Vm, SOON));
    for (service, process) in [(Service::Vm, vm.process), (Service::Proxy, proxy.process)] {
        let status = host.status(service);
        assert_eq!((status.state, status.process, status.detail), (State::Inactive, None, None));
        assert!(!process.unwrap().is_alive());
    }
    host.calls_are(&["clean", "run", "proxy", "halt", "clean"]);
    supervisor.wait_gone("the supervisor of stopped services", PATIENCE, &Interrupt::default()).unwrap();
    host.stop(Service::Vm, SOON);
}

#[test]
fn a_service_gets_the_environment_that_was_given_and_no_more() {
    let host = Host::new();
    host.script("proxy", "env > \"$FAKE/env.new\"; mv \"$FAKE/env.new\" \"$FAKE/env\"\n");
    host.start(Service::Proxy);
    let env = eventually("the environment", || {
        fs::read_to_string(host.fake.join("env")).map_err(|e| e.to_string())
    });
    let mut names: Vec<_> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
    assert_eq!(names, ["FAKE", "LANG", "PATH", "TEST_BINARY", "TEST_NAME", "TEST_ROOT"]);
}

#[test]
fn a_vm_that_is_killed_comes_back_after_a_pause() {
    let host = Host::new();
    host.start(Service::Vm);
    let first = host.process(Service::Vm);
    host.calls_are(&["clean", "run"]);
    let begun = Instant::now();
    first.signal(Signal::SIGKILL).unwrap();
    let status = eventually("another process", || {
        let status = host.vm();
        let other = status.process.is_some_and(|process| process != first);
        if other { Ok(status) } else { Err(format!("{status:?}")) }
    });
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((status.state, status.restarts), (State::Active, 1));
    host.calls_are(&["clean", "run", "clean", "clean", "run"]);
    assert_eq!(host.record(Service::Vm).last_end.unwrap().how, "ended by signal 9");
    assert!(host.console().contains("supervisor: ended by signal 9"), "{}", host.console());
}

#[test]
fn a_guest_that_powers_off_from_inside_stays_down() {
    let host = Host::new();
    host.start(Service::Vm);
    // A program writes its call down some time after its start.
    host.calls_are(&["clean", "run"]);
    host.start(Service::Proxy);
    host.calls_are(&["clean", "run", "proxy"]);
    fs::write(host.fake.join("power-off"), "").unwrap();
    let status = host.reaches(Service::Vm, State::Inactive);
    assert_eq!(status.detail.as_deref(), Some("powered off from inside the guest"));
    host.calls_are(&["clean", "run", "proxy", "clean"]);
    assert_eq!(host.status(Service::Proxy).state, State::Active);
    assert!(!host.supervisor.ensure(&id()).unwrap());
    host.start(Service::Vm);
    assert_eq!(host.vm().detail, None);
}

#[test]
fn a_service_that_fails_says_why_and_an_upgrade_mends_it() {
    let host = Host::new();
    host.script("run", "echo noise; echo 'error: cannot open disk' >&2; echo 'hint: look' >&2; exit 3\n");
    host.start(Service::Vm);
    let status = eventually("the failure", || {
        let status = host.vm();
        if status.detail.is_some() { Ok(status) } else { Err(format!("{status:?}")) }
    });
    assert_eq!(status.state, State::Activating);
    let detail = status.detail.unwrap();
    assert_eq!(detail, "ended with exit code 3, its last words: error: cannot open disk; hint: look");
    // The binary is replaced while the supervisor runs; the next try is the new one's.
    let supervisor = host.supervisor();
    fs::remove_file(host.fake.join("run.sh")).unwrap();
    host.install_program(&super::PROGRAM.replace("a console", "a new console"));
    host.reaches(Service::Vm, State::Active);
    eventually("the new one's words", || {
        if host.console().contains("a new console") { Ok(()) } else { Err(host.console()) }
    });
    assert_eq!(host.supervisor(), supervisor);
    host.stop(Service::Vm, SOON);
}

#[test]
fn a_stop_during_the_pause_before_the_next_try_is_at_once() {
    let host = Host::new();
    host.script("run", "exit 3\n");
    host.start(Service::Vm);
    eventually("a second failure", || {
        let status = host.vm();
        if status.restarts == 1 && status.process.is_none() { Ok(()) } else { Err(format!("{status:?}")) }
    });
    within(SOON, || host.stop(Service::Vm, SOON));
    assert_eq!((host.vm().state, host.vm().detail), (State::Inactive, None));
}

#[test]
fn a_stop_without_patience_asks_nobody() {
    let host = Host::new();
    host.script("run", "trap '' TERM\n");
    host.start(Service::Vm);
    host.calls_are(&["clean", "run"]);
    within(SOON, || host.stop(Service::Vm, Duration::ZERO));
    assert_eq!(host.vm().state, State::Inactive);
    host.calls_are(&["clean", "run", "clean"]);
}

#[test]
fn a_guest_that_cannot_be_asked_is_terminated() {
    let host = Host::new();
    host.script("halt", "exit 1\n");
    host.start(Service::Vm);
    within(SOON, || host.stop(Service::Vm, Duration::from_mins(5)));
    assert_eq!(host.record(Service::Vm).last_end.unwrap().how, "ended by signal 15");
    assert!(host.console().contains("`fireclaw halt` failed"), "{}", host.console());
}

#[test]
fn a_deadline_ends_an_asking_that_hangs() {
    let host = Host::new();
    host.script("halt", "exec sleep 1000\n");
    host.start(Service::Vm);
    let begun = Instant::now();
    within(SOON, || host.stop(Service::Vm, Duration::from_millis(300)));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(host.vm().state, State::Inactive);
}

#[test]
fn sigterm_stops_both_gracefully_and_they_remain_wanted() {
    let host = Host::new();
    host.start(Service::Vm);
    host.start(Service::Proxy);
    let supervisor = host.supervisor();
    supervisor.signal(Signal::SIGHUP).unwrap();
    supervisor.signal(Signal::SIGTERM).unwrap();
    supervisor.wait_gone("the supervisor", PATIENCE, &Interrupt::default()).unwrap();
    host.calls_are(&["clean", "run", "proxy", "halt", "clean"]);
    let status = host.vm();
    assert_eq!(status.state, State::Inactive);
    assert!(status.detail.unwrap().contains("fireclaw start bot"));
    assert!(host.supervisor.ensure(&id()).unwrap());
    host.reaches(Service::Vm, State::Active);
    host.reaches(Service::Proxy, State::Active);
}

#[test]
fn a_state_that_cannot_be_written_down_is_no_success() {
    let host = Host::new();
    host.start(Service::Vm);
    let (vm, record) = (host.process(Service::Vm), host.folder().join("vm.json"));
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let error = host.supervisor.stop(&id(), Service::Vm, SOON).unwrap_err();
    assert!(
        error.one_line().contains("it is down, and that could not be written down: "),
        "{}",
        error.one_line()
    );
    assert!(!vm.is_alive());
    fs::remove_dir(&record).unwrap();
    host.stop(Service::Vm, SOON);
    assert!(!host.record(Service::Vm).wanted);
}

#[test]
fn uninstall_leaves_no_process_and_no_file() {
    let host = Host::new();
    host.script("halt", "exec sleep 1000\n");
    host.start(Service::Vm);
    host.start(Service::Proxy);
    let processes = [host.process(Service::Vm), host.process(Service::Proxy), host.supervisor()];
    within(SOON, || host.supervisor.uninstall(&id()).unwrap());
    assert_eq!(processes.map(ProcessId::is_alive), [false; 3]);
    assert!(!host.folder().exists());
    host.supervisor.uninstall(&id()).unwrap();
    host.stop(Service::Vm, SOON);
    assert_eq!(host.vm().state, State::Inactive);
}

#[test]
fn uninstall_needs_no_supervisor() {
    let host = Host::new();
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    host.kill_supervisor();
    fs::remove_file(host.folder().join("vm.json")).unwrap();
    host.supervisor.uninstall(&id()).unwrap();
    assert!(!vm.is_alive() && !host.folder().exists());
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let host = Host::new();
    fs::remove_file(host.layout.fc_root.parent().unwrap().join("fireclaw")).unwrap();
    let error = host.supervisor.start(&id(), Service::Vm).unwrap_err();
    assert!(error.one_line().contains("/fireclaw: No such file"), "{}", error.one_line());
}

#[test]
fn an_idle_supervisor_does_not_wake() {
    let host = Host::new();
    host.start(Service::Proxy);
    let status = format!("/proc/{}/status", host.supervisor().pid);
    let switches = || {
        let text = fs::read_to_string(&status).unwrap();
        text.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    crate::wait::pause_for(Duration::from_millis(100));
    let before = switches();
    crate::wait::pause_for(Duration::from_millis(500));
    assert_eq!(switches(), before);
}

#[test]
fn the_status_of_250_stopped_instances_needs_no_supervisor() {
    let host = Host::new();
    host.start(Service::Vm);
    host.stop(Service::Vm, SOON);
    let stopped = fs::read(host.folder().join("vm.json")).unwrap();
    let ids: Vec<fireclaw_core::id::InstanceId> =
        (0..250).map(|n| format!("bot-{n}").parse().unwrap()).collect();
    for id in &ids {
        host.supervisor.install(id, &ServiceSpec::small()).unwrap();
        let dir = host.layout.instance(id).unwrap().supervisor_dir;
        fs::write(dir.join("vm.json"), &stopped).unwrap();
        fs::write(dir.join("proxy.json"), &stopped).unwrap();
    }
    let before = host.calls();
    for id in &ids {
        for service in Service::ALL {
            assert_eq!(host.supervisor.status(id, service).unwrap().state, State::Inactive);
        }
        let dir = host.layout.instance(id).unwrap().supervisor_dir;
        assert_eq!(crate::fs::names(&dir).unwrap(), ["proxy.json", "vm.json"], "a supervisor was here");
    }
    assert_eq!(host.calls(), before);
}
