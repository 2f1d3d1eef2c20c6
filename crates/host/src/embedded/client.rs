//! The commands' end of the embedded supervisor. Starts `fireclaw supervise`, connects to its socket, reads its files.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
    layout::Layout,
    spec::{ServiceSpec, SupervisorKind},
};
use nix::sys::signal::Signal;

use super::{
    console::append_at_most,
    control::{Reply, Request, ask},
    files::Files,
    machine::{CLEANING, GRACE},
    pidfd::writers,
    record::{Record, boot},
};
use crate::{
    exec::{Cmd, handover},
    fs,
    interrupt::Interrupt,
    lock::{self, Lock},
    proc::ProcessId,
    supervisor::{Service, ServiceStatus, State, Supervisor},
    wait::{Probed, Requirement, until},
};

/// A supervisor that was just started answers within milliseconds; a busy machine may take longer.
const APPEARS: Duration = Duration::from_secs(10);
/// Supervisors that end under our hands, because they were idle, before we give up on one that stays.
const TRIES: u32 = 5;
/// To end both services at once and to clean up after them.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// What a supervisor says of itself fits many times.
const OWN_LOG_LIMIT: u64 = 256 << 10;

/// Starts, asks and reads the supervisor of any instance.
#[derive(Debug)]
pub struct EmbeddedSupervisor {
    layout: Layout,
    program: PathBuf,
    environment: Vec<(String, String)>,
    interrupt: Interrupt,
    boot: OnceLock<String>,
}

impl EmbeddedSupervisor {
    /// `program` is the fireclaw binary that supervisors are started from; `environment` is what they and their services
    /// get of it: the roots that this process itself was configured with (`STATE_ROOT` and the others).
    pub fn new(layout: Layout, program: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self { layout, program, environment, interrupt: Interrupt::default(), boot: OnceLock::new() }
    }

    /// Ends waits when the interrupt is asked. What the supervisor was told goes on.
    #[must_use]
    pub fn interruptible(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
    }

    /// Starts a supervisor where one has work and there is none: after it was killed, or after the host was restarted.
    /// True when it started one. Costs two reads when there is nothing to do.
    pub fn ensure(&self, id: &InstanceId) -> Result<bool> {
        let files = Files::of(&self.layout, id)?;
        for service in Service::ALL {
            let Some(record) = Record::read(&files.record(service))? else { continue };
            if record.supervised_by(self.boot()).is_some() {
                return Ok(false);
            }
            if record.needs_supervisor(self.boot()) {
                self.launch(id, &files)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn boot(&self) -> &str {
        self.boot.get_or_init(boot)
    }

    /// Asks the supervisor, starting one where there is none.
    fn call(&self, id: &InstanceId, files: &Files, request: Request, patience: Duration) -> Result<()> {
        for _ in 0..TRIES {
            match ask(&files.socket, request, patience, &self.interrupt)? {
                Some(Reply { error: None }) => return Ok(()),
                Some(Reply { error: Some(why) }) => {
                    return Err(Error::new("get", format!("what was asked of the supervisor of {id}"))
                        .because(why)
                        .hint(format!("see `fireclaw logs {id} host`")));
                }
                None => self.launch(id, files)?,
            }
        }
        Err(Error::new("reach", format!("the supervisor of {id}"))
            .because("it ends before it answers")
            .hint(format!("see {}", files.own_log.display())))
    }

    /// Starts a supervisor and waits until one listens: this one, or another command's that was faster.
    fn launch(&self, id: &InstanceId, files: &Files) -> Result<()> {
        fs::ensure_private_dir(&files.dir)?;
        let mut cmd = Cmd::new(&self.program).args(["supervise", id.as_str()]).cwd("/");
        for (name, value) in &self.environment {
            cmd = cmd.env(name, value);
        }
        let log = append_at_most(&files.own_log, OWN_LOG_LIMIT)?;
        let pid = handover::detach(&cmd, &log)?;
        let started = i32::try_from(pid).ok().and_then(ProcessId::of);
        let requirement = Requirement {
            description: format!("the supervisor of {id}"),
            deadline: APPEARS,
            hint: format!("see {}", files.own_log.display()),
        };
        until(&requirement, &self.interrupt, || {
            // Whether ours is alive is looked at first: one that ends after it listened is for the caller to notice.
            let alive = started.is_some_and(ProcessId::is_alive);
            if std::os::unix::net::UnixStream::connect(&files.socket).is_ok() || !alive {
                return Probed::Ready(());
            }
            Probed::NotYet("it does not listen".into())
        })
    }

    /// The supervisor's lock, when there is no supervisor.
    fn alone(files: &Files) -> Option<Lock> {
        lock::take(&files.lock, "the supervisor").ok()
    }

    /// Every process of the instance that is written down, or that still writes to one of its pipes. Supervisors first:
    /// the rest would be started again.
    fn leftovers(&self, files: &Files) -> Vec<ProcessId> {
        let records = Service::ALL.map(|service| Record::read(&files.record(service)).ok().flatten());
        let records = || records.iter().flatten();
        let mut found: Vec<ProcessId> =
            records().filter_map(|record| record.supervised_by(self.boot())).collect();
        found.extend(records().filter_map(|record| record.running(self.boot())));
        for output in [files.fifo(Service::Vm), files.fifo(Service::Proxy), files.helper_log.clone()] {
            found.extend(writers(&output).unwrap_or_default());
        }
        found
    }

    /// Writes down that a service is not wanted, where there is no supervisor to do it; one that is started afterwards then
    /// brings nothing back that is about to be stopped. True when that is all there is to do.
    fn write_down_stopped(&self, files: &Files, service: Service) -> Result<bool> {
        let Some(_lock) = Self::alone(files) else { return Ok(false) };
        let path = files.record(service);
        let Some(known) = Record::read(&path)? else { return Ok(true) };
        let mut record = Record { wanted: false, ..known.clone() };
        // A VM that was cut off is cleaned up after; of a proxy nothing is left but a process.
        let at_rest = !record.needs_supervisor(self.boot())
            || (service == Service::Proxy
                && record.running(self.boot()).is_none()
                && writers(&files.fifo(service))?.is_empty());
        if at_rest {
            (record.state, record.detail) = (State::Inactive, known.detail.clone().filter(|_| !known.wanted));
        }
        if record != known {
            record.write(&path)?;
        }
        Ok(at_rest)
    }
}

impl Supervisor for EmbeddedSupervisor {
    fn kind(&self) -> SupervisorKind {
        SupervisorKind::Embedded
    }

    fn install(&self, id: &InstanceId, _spec: &ServiceSpec) -> Result<()> {
        fs::ensure_private_dir(&Files::of(&self.layout, id)?.dir)
    }

    fn uninstall(&self, id: &InstanceId) -> Result<()> {
        let files = Files::of(&self.layout, id)?;
        if !files.dir.exists() {
            return Ok(());
        }
        // A supervisor that does not answer is ended like the rest.
        let asked = ask(&files.socket, Request::Shutdown, SHUTDOWN, &self.interrupt);
        if matches!(asked, Ok(Some(_))) {
            let requirement = Requirement {
                description: format!("the end of the supervisor of {id}"),
                deadline: APPEARS,
                hint: "see what it does with `ps`".into(),
            };
            until(&requirement, &self.interrupt, || match Self::alone(&files) {
                Some(lock) => Probed::Ready(lock),
                None => Probed::NotYet("it holds its lock".into()),
            })?;
        }
        for process in self.leftovers(&files) {
            kill(process, "a service")?;
        }
        fs::remove_tree(&files.dir)
    }

    fn start(&self, id: &InstanceId, service: Service) -> Result<()> {
        let files = Files::of(&self.layout, id)?;
        let request = Request::Start { service };
        self.call(id, &files, request, CLEANING + GRACE + APPEARS).context("start", service.unit(id))
    }

    fn stop(&self, id: &InstanceId, service: Service, deadline: Duration) -> Result<()> {
        let files = Files::of(&self.layout, id)?;
        if !files.dir.exists() || self.write_down_stopped(&files, service)? {
            return Ok(());
        }
        let within_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let patience = deadline + 3 * GRACE + CLEANING + APPEARS;
        self.call(id, &files, Request::Stop { service, within_ms }, patience)
            .context("stop", service.unit(id))
    }

    fn status(&self, id: &InstanceId, service: Service) -> Result<ServiceStatus> {
        let files = Files::of(&self.layout, id)?;
        match Record::read(&files.record(service)) {
            Ok(Some(record)) => Ok(record.status(id, self.boot())),
            Ok(None) => Ok(ServiceStatus::of(State::Inactive)),
            // A damaged file is a state to report; the next supervisor finds out what runs and writes it anew.
            Err(error) => {
                Ok(ServiceStatus { detail: Some(error.one_line()), ..ServiceStatus::of(State::Unknown) })
            }
        }
    }

    fn check(&self) -> Result<String> {
        Ok("fireclaw's own; after a reboot of the host `fireclaw start` brings instances back".to_owned())
    }
}

/// SIGKILL, and wait until it is gone.
fn kill(process: ProcessId, what: &str) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    process.wait_gone(what, GRACE, &Interrupt::default())
}
