//! Supervisors that are killed, and those that come after them.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;

use super::{Host, PATIENCE, eventually, id, within};
use crate::{
    interrupt::Interrupt,
    proc::ProcessId,
    supervisor::{Service, State, Supervisor},
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_killed_supervisor_is_replaced_by_one_that_takes_over_what_runs() {
    let host = Host::new();
    // One word now, one while there is no supervisor, and one after.
    host.script(
        "run",
        "echo one; while [ ! -e \"$FAKE/two\" ]; do sleep 0.02; done; echo two; rm \"$FAKE/two\"\n",
    );
    host.start(Service::Vm);
    host.start(Service::Proxy);
    let (vm, proxy) = (host.process(Service::Vm), host.process(Service::Proxy));
    host.kill_supervisor();
    let status = host.vm();
    assert_eq!((status.state, status.process), (State::Active, Some(vm)));
    assert!(status.detail.unwrap().contains("supervisor is gone"));
    fs::write(host.fake.join("two"), "").unwrap();
    eventually("the second word", || {
        if host.fake.join("two").exists() { Err("not yet".into()) } else { Ok(()) }
    });
    assert!(!host.console().contains("two"));

    assert!(host.supervisor.ensure(&id()).unwrap());
    assert!(!host.supervisor.ensure(&id()).unwrap());
    assert_eq!((host.process(Service::Vm), host.process(Service::Proxy)), (vm, proxy));
    assert_eq!((host.vm().state, host.vm().detail), (State::Active, None));
    eventually("the words that waited", || {
        let console = host.console();
        if console.contains("two\n") && console.contains("a console") { Ok(()) } else { Err(console) }
    });
    host.calls_are(&["clean", "run", "proxy"]);

    // It watches what it took over, and stops it like its own.
    vm.signal(Signal::SIGKILL).unwrap();
    host.script("run", "");
    eventually("another process", || {
        host.vm().process.filter(|process| *process != vm).ok_or_else(|| format!("{:?}", host.vm()))
    });
    within(SOON, || host.stop(Service::Proxy, SOON));
    assert!(!proxy.is_alive());
}

#[test]
fn a_start_finds_the_process_that_was_never_written_down() {
    let host = Host::new();
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    host.kill_supervisor();
    for lost in ["", "{\"format\":1", "{}"] {
        fs::write(host.folder().join("vm.json"), lost).unwrap();
        assert_eq!(host.vm().state, State::Unknown, "{lost:?}");
        host.start(Service::Vm);
        assert_eq!(host.process(Service::Vm), vm);
        host.kill_supervisor();
    }
    fs::remove_file(host.folder().join("vm.json")).unwrap();
    host.start(Service::Vm);
    assert_eq!(host.process(Service::Vm), vm);
    host.calls_are(&["clean", "run"]);
}

#[test]
fn a_stop_finds_it_too() {
    let host = Host::new();
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    host.calls_are(&["clean", "run"]);
    host.kill_supervisor();
    fs::remove_file(host.folder().join("vm.json")).unwrap();
    within(SOON, || host.stop(Service::Vm, SOON));
    assert!(!vm.is_alive());
    host.calls_are(&["clean", "run", "halt", "clean"]);
}

#[test]
fn a_supervisor_that_was_killed_between_start_and_record_has_lost_nothing() {
    let host = Host::new();
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    host.kill_supervisor();
    let before = super::Record { state: State::Activating, process: None, ..host.record(Service::Vm) };
    before.write(&host.folder().join("vm.json")).unwrap();
    assert!(host.supervisor.ensure(&id()).unwrap());
    assert_eq!(host.process(Service::Vm), vm);
    host.calls_are(&["clean", "run"]);
}

#[test]
fn what_a_dead_service_left_running_is_not_taken_for_it() {
    let host = Host::new();
    host.script("run", "sleep 1000 & echo $! > \"$FAKE/left\"; wait\n");
    host.start(Service::Vm);
    let left = eventually("the child", || {
        let pid = fs::read_to_string(host.fake.join("left")).unwrap_or_default();
        pid.trim().parse().ok().and_then(ProcessId::of).ok_or(pid)
    });
    host.kill_supervisor();
    let vm = host.process(Service::Vm);
    vm.signal(Signal::SIGKILL).unwrap();
    vm.wait_gone("the VM", PATIENCE, &Interrupt::default()).unwrap();
    assert!(left.is_alive());
    host.script("run", "");
    assert!(host.supervisor.ensure(&id()).unwrap());
    assert_ne!(host.reaches(Service::Vm, State::Active).process, Some(left));
    assert!(!left.is_alive());
    host.calls_are(&["clean", "run", "clean", "run"]);
}

#[test]
fn a_guest_that_powers_off_after_a_takeover_stays_down_where_the_kernel_tells() {
    let host = Host::new();
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    host.kill_supervisor();
    host.supervisor.ensure(&id()).unwrap();
    fs::write(host.fake.join("power-off"), "").unwrap();
    vm.wait_gone("the VM", PATIENCE, &Interrupt::default()).unwrap();
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    if version >= vec![6, 15] {
        let status = host.reaches(Service::Vm, State::Inactive);
        assert_eq!(status.detail.as_deref(), Some("powered off from inside the guest"));
        host.start(Service::Proxy);
        host.kill_supervisor();
        host.supervisor.ensure(&id()).unwrap();
        assert_eq!(host.vm().detail, status.detail, "the next supervisor forgets it");
    } else {
        eventually("another process", || host.vm().process.ok_or_else(|| "none".to_owned()));
        assert_eq!(host.record(Service::Vm).last_end.unwrap().how, "ended unseen");
    }
}

/// Makes the records those of an earlier boot, whose processes are gone.
fn reboot(host: &Host) {
    host.kill_supervisor();
    for service in Service::ALL {
        let process = host.process(service);
        process.signal(Signal::SIGKILL).unwrap();
        process.wait_gone("a service", PATIENCE, &Interrupt::default()).unwrap();
        // The worst case: pid and start time are those of a process of this boot.
        let record =
            super::Record { boot: "earlier".into(), process: ProcessId::own(), ..host.record(service) };
        let name = if service == Service::Vm { "vm.json" } else { "proxy.json" };
        record.write(&host.folder().join(name)).unwrap();
    }
}

#[test]
fn after_a_reboot_what_was_wanted_is_brought_back() {
    let host = Host::new();
    host.start(Service::Vm);
    host.start(Service::Proxy);
    reboot(&host);
    assert_eq!((host.vm().state, host.vm().process), (State::Inactive, None));
    assert!(host.supervisor.ensure(&id()).unwrap());
    host.reaches(Service::Vm, State::Active);
    host.reaches(Service::Proxy, State::Active);
    assert_eq!(host.vm().restarts, 0);
    eventually("the second run", || {
        let runs = host.calls().iter().filter(|call| *call == "run").count();
        if runs == 2 { Ok(()) } else { Err(runs.to_string()) }
    });
}

#[test]
fn after_a_reboot_a_stop_starts_nothing() {
    let host = Host::new();
    host.start(Service::Vm);
    host.start(Service::Proxy);
    reboot(&host);
    host.stop(Service::Proxy, SOON);
    host.stop(Service::Vm, SOON);
    assert_eq!(host.vm().state, State::Inactive);
    assert!(!host.supervisor.ensure(&id()).unwrap());
    assert_eq!(host.calls().iter().filter(|call| *call == "run").count(), 1);
}

#[test]
fn a_stop_that_a_killed_supervisor_began_is_finished_by_the_next() {
    let host = Host::new();
    host.script("halt", "exec sleep 1000\n");
    host.start(Service::Vm);
    let vm = host.process(Service::Vm);
    std::thread::scope(|scope| {
        // The command that asked is cut off, asks the next supervisor, and gets its answer from that one.
        let stopping = scope.spawn(|| host.supervisor.stop(&id(), Service::Vm, Duration::from_mins(5)));
        host.reaches(Service::Vm, State::Deactivating);
        eventually("the asking", || {
            if host.calls().contains(&"halt".into()) { Ok(()) } else { Err("no".into()) }
        });
        fs::remove_file(host.fake.join("halt.sh")).unwrap();
        host.kill_supervisor();
        stopping.join().unwrap().unwrap();
    });
    assert!(!vm.is_alive());
    assert_eq!(host.vm().state, State::Inactive);
    host.calls_are(&["clean", "run", "halt", "halt", "clean"]);
    assert_eq!(super::super::pidfd::writers(&host.folder().join("helpers.log")).unwrap(), []);
}

#[test]
fn starts_at_once_from_many_commands_make_one_supervisor_and_one_vm() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| host.start(Service::Vm));
        }
    });
    host.calls_are(&["clean", "run"]);
    let own = host.supervisor();
    // Those that lost the race are gone, or about to be.
    eventually("one supervisor", || {
        let all = super::super::pidfd::writers(&host.folder().join("supervisor.log")).unwrap();
        if all == [own] { Ok(()) } else { Err(format!("{all:?}")) }
    });
}
