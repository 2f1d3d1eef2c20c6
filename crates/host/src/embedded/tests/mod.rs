//! Supervisors as real processes: the test's own binary, started by a script that stands in for fireclaw.

mod attend;
mod console;
mod lifecycle;
mod machine;
mod takeover;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use fireclaw_core::{id::InstanceId, layout::Layout, spec::ServiceSpec};
use nix::sys::signal::Signal;

use super::{EmbeddedSupervisor, record::Record, supervise};
use crate::{
    interrupt::Interrupt,
    proc::ProcessId,
    supervisor::{Service, ServiceStatus, State, Supervisor},
    wait::{Probed, Requirement, until},
};

/// No test waits longer for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Stands in for fireclaw. A verb is noted in `calls`, then does what `VERB.sh` says, or what a healthy instance would do.
const PROGRAM: &str = r#"#!/bin/sh
verb=$1
[ "$verb" = supervise ] && exec "$TEST_BINARY" --exact "$TEST_NAME" --nocapture
echo "$verb" >> "$FAKE/calls"
[ "$verb" = run ] && echo $$ > "$FAKE/vm.pid"
[ -e "$FAKE/$verb.sh" ] && . "$FAKE/$verb.sh"
case $verb in
run) echo "a console"; while [ ! -e "$FAKE/power-off" ]; do sleep 0.02; done; rm "$FAKE/power-off"; exit 0 ;;
halt) touch "$FAKE/power-off" ;;
proxy) exec sleep 1000 ;;
esac
"#;

/// The test that is also the supervisor, when it is run with the roots in its environment.
const ENTRY: &str = "embedded::tests::lifecycle::a_service_is_started_and_stopped";

/// Becomes the supervisor where this process was started as one.
pub(super) fn become_supervisor_if_told() {
    let Ok(root) = std::env::var("TEST_ROOT") else { return };
    let environment: Vec<_> = ["TEST_ROOT", "TEST_BINARY", "TEST_NAME", "FAKE"]
        .map(|it| (it.to_owned(), std::env::var(it).unwrap()))
        .into();
    let root = PathBuf::from(root);
    supervise(&layout(&root), &id(), &root.join("fireclaw"), &environment).unwrap();
    std::process::exit(0);
}

fn layout(root: &std::path::Path) -> Layout {
    Layout { state_root: root.join("state"), fc_root: root.join("fc"), ..Layout::default() }
}

pub(super) fn id() -> InstanceId {
    "bot".parse().unwrap()
}

/// A host with one instance in a temporary folder.
pub(super) struct Host {
    pub(super) supervisor: EmbeddedSupervisor,
    pub(super) layout: Layout,
    pub(super) fake: PathBuf,
    root: tempfile::TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = root.path().join("fake");
        fs::create_dir(&fake).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let environment = vec![
            ("TEST_ROOT".to_owned(), text(root.path().to_owned())),
            ("TEST_BINARY".to_owned(), text(std::env::current_exe().unwrap())),
            ("TEST_NAME".to_owned(), ENTRY.to_owned()),
            ("FAKE".to_owned(), text(fake.clone())),
        ];
        let program = root.path().join("fireclaw");
        let layout = layout(root.path());
        let supervisor = EmbeddedSupervisor::new(layout.clone(), program, environment);
        let this = Self { supervisor, layout, fake, root };
        this.install_program(PROGRAM);
        this.supervisor.install(&id(), &ServiceSpec::small()).unwrap();
        this
    }

    /// Puts a program in place as an upgrade does: beside, then renamed over.
    pub(super) fn install_program(&self, text: &str) {
        let (new, program) = (self.root.path().join("new"), self.root.path().join("fireclaw"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, program).unwrap();
    }

    /// What a verb does from now on, instead of what a healthy instance would do.
    pub(super) fn script(&self, verb: &str, text: &str) {
        fs::write(self.fake.join(format!("{verb}.sh")), text).unwrap();
    }

    pub(super) fn start(&self, service: Service) {
        self.supervisor.start(&id(), service).unwrap_or_else(|error| panic!("{}", error.one_line()));
    }

    pub(super) fn stop(&self, service: Service, deadline: Duration) {
        self.supervisor.stop(&id(), service, deadline).unwrap_or_else(|error| panic!("{}", error.one_line()));
    }

    pub(super) fn status(&self, service: Service) -> ServiceStatus {
        self.supervisor.status(&id(), service).unwrap()
    }

    pub(super) fn vm(&self) -> ServiceStatus {
        self.status(Service::Vm)
    }

    pub(super) fn process(&self, service: Service) -> ProcessId {
        self.status(service).process.expect("it runs")
    }

    /// The verbs so far, in their order.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.fake.join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// Waits for these verbs: a program notes its own a moment after it was started.
    pub(super) fn calls_are(&self, wanted: &[&str]) {
        eventually("the calls", || {
            let calls = self.calls();
            if calls == wanted { Ok(()) } else { Err(format!("{calls:?} instead of {wanted:?}")) }
        });
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.layout.instance(&id()).unwrap().supervisor_dir
    }

    pub(super) fn record(&self, service: Service) -> Record {
        let name = if service == Service::Vm { "vm.json" } else { "proxy.json" };
        Record::read(&self.folder().join(name)).unwrap().unwrap()
    }

    pub(super) fn supervisor(&self) -> ProcessId {
        self.record(Service::Vm)
            .supervisor
            .filter(|process| process.is_alive())
            .expect("there is a supervisor")
    }

    /// kill -9 of the supervisor alone.
    pub(super) fn kill_supervisor(&self) {
        let supervisor = self.supervisor();
        supervisor.signal(Signal::SIGKILL).unwrap();
        supervisor.wait_gone("the supervisor", PATIENCE, &Interrupt::default()).unwrap();
        // Here it is a thread of a test, and of a killed process with threads the first may be gone before the last has closed
        // its files.
        eventually("its files to be closed", || {
            let held = crate::lock::take(&self.folder().join("lock"), "the supervisor").map(drop).is_err();
            let listens = UnixStream::connect(self.folder().join("control.sock")).is_ok();
            if held || listens { Err(format!("held {held}, listens {listens}")) } else { Ok(()) }
        });
    }

    pub(super) fn console(&self) -> String {
        fs::read_to_string(self.layout.instance(&id()).unwrap().console_log).unwrap_or_default()
    }

    /// Waits until a service is in this state.
    pub(super) fn reaches(&self, service: Service, state: State) -> ServiceStatus {
        eventually(&format!("{service:?} {state:?}"), || {
            let status = self.status(service);
            if status.state == state { Ok(status) } else { Err(format!("{status:?}")) }
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.supervisor.uninstall(&id());
    }
}

/// Waits for what a probe finds.
pub(super) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let requirement = Requirement { description: what.into(), deadline: PATIENCE, hint: String::new() };
    until(&requirement, &Interrupt::default(), || match probe() {
        Ok(found) => Probed::Ready(found),
        Err(why) => Probed::NotYet(why),
    })
    .unwrap_or_else(|error| panic!("{}", error.one_line()))
}

/// Runs something that must not take longer than this.
pub(super) fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    assert!(begun.elapsed() < limit, "took {:?}", begun.elapsed());
    result
}
