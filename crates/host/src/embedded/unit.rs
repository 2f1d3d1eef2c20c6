//! One supervised service: carries out what its [`Machine`] says, and writes down what came of it. Starts programs, sends
//! signals, writes the service's record and log.

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Context, Result},
    id::InstanceId,
};
use nix::{
    sys::signal::killpg,
    unistd::{Pid, getpgid},
};
use rustix::process::Signal;

use super::{
    console::{Buffer, Console, append_at_most},
    files::Files,
    machine::{Action, End, Event, Machine},
    pidfd::{Held, writers},
    record::{LastEnd, Record},
};
use crate::{
    exec::{Cmd, handover},
    proc::ProcessId,
    supervisor::{Service, State},
};

/// A gateway finishes its running answers in up to 315 s; used where nobody gave a deadline.
const PATIENT_STOP: Duration = Duration::from_mins(6);
/// When a record that could not be written is tried again.
const REWRITE: Duration = Duration::from_secs(5);
/// What helpers say is for the night when they fail.
const HELPER_LOG_LIMIT: u64 = 256 << 10;

/// What all services of a supervisor share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) id: InstanceId,
    pub(super) files: Files,
    pub(super) program: PathBuf,
    pub(super) environment: Vec<(String, String)>,
    pub(super) boot: String,
    pub(super) own: Option<ProcessId>,
}

impl Setup {
    pub(super) fn cmd(&self, verb: &str) -> Cmd {
        let cmd = Cmd::new(&self.program).args([verb, self.id.as_str()]).cwd("/");
        self.environment.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value))
    }
}

/// A process that runs: our child, or one that was taken over.
#[derive(Debug)]
struct Running {
    held: Held,
    child: Option<Child>,
}

impl Running {
    fn spawn(cmd: &Cmd, output: &File) -> Result<Self> {
        let child = handover::spawn(cmd, Some(output))?;
        Ok(Self { held: Held::child(&child)?, child: Some(child) })
    }

    fn signal(&self, signal: Signal) {
        // It is gone, or it is not ours to signal: either way its end, or the deadline, comes next.
        let _ = self.held.signal(signal);
    }

    /// SIGKILL, for what it started in its group as well: a child that we have not collected keeps the group's number.
    fn kill(&self) {
        self.signal(Signal::KILL);
        if self.child.is_some() {
            let _ = killpg(Pid::from_raw(self.held.id.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Collects a process that has ended, and ends what it left running: in its group while that cannot be another's, else
    /// whatever still writes to `output`.
    fn status(mut self, output: &Path) -> Option<ExitStatus> {
        if let Some(child) = &mut self.child {
            let _ = killpg(Pid::from_raw(self.held.id.pid), nix::sys::signal::Signal::SIGKILL);
            return child.wait().ok();
        }
        let status = self.held.exit_status();
        let _ = end_writers(output);
        status
    }
}

/// One service under supervision.
#[derive(Debug)]
pub(super) struct Unit {
    service: Service,
    machine: Machine,
    console: Console,
    process: Option<Running>,
    helper: Option<(Running, &'static str)>,
    last_end: Option<LastEnd>,
    /// What the machine forgets when the supervisor itself is told to end.
    wanted_after: Option<bool>,
    written: Option<Record>,
    /// The last record that could not be written: why, and when to try again.
    unwritten: Option<(String, Instant)>,
}

impl Unit {
    /// Reads what is known of a service and takes over what runs of it.
    pub(super) fn take_over(setup: &Setup, service: Service, now: Instant) -> Result<Self> {
        let mut console = Console::open(setup.files.fifo(service), setup.files.log(service))?;
        let known = Record::read(&setup.files.record(service)).unwrap_or_else(|error| {
            console.say(&error.one_line());
            None
        });
        let mut found = known.as_ref().and_then(|known| known.running(&setup.boot));
        if found.is_none() {
            found = find_unrecorded(&setup.files.fifo(service))?;
        }
        let held = found.map(Held::of).transpose()?.flatten();
        let known_at_all = known.is_some();
        let known = known.unwrap_or_else(|| Record::new(&setup.boot));
        // With its record lost, a service that runs was wanted.
        let wanted = known.wanted || (!known_at_all && held.is_some());
        let at_rest = !known.needs_supervisor(&setup.boot);
        let failed =
            (at_rest && known.state == State::Failed).then(|| known.detail.clone().unwrap_or_default());
        let mut this = Self {
            service,
            machine: Machine::new(service, wanted, known.restarts, failed),
            console,
            process: held.map(|held| Running { held, child: None }),
            helper: None,
            last_end: known.last_end,
            wanted_after: None,
            written: None,
            unwritten: None,
        };
        if let Some(process) = &this.process {
            this.console.say(&format!("took over process {}", process.held.id.pid));
            this.on(setup, Event::Adopt, now);
            if !wanted {
                this.on(setup, Event::Stop(PATIENT_STOP), now);
            }
        } else if wanted && !at_rest {
            this.on(setup, Event::Resume, now);
        } else if !at_rest {
            this.on(setup, Event::Tidy, now);
        }
        this.persist(setup, now);
        Ok(this)
    }

    /// Somebody wants it to run.
    pub(super) fn start(&mut self, setup: &Setup, now: Instant) {
        self.on(setup, Event::Start, now);
    }

    /// Somebody wants it down for good.
    pub(super) fn stop(&mut self, setup: &Setup, within: Duration, now: Instant) {
        self.wanted_after = self.wanted_after.map(|_| false);
        self.on(setup, Event::Stop(within), now);
    }

    /// The host goes down: it is stopped, and wanted again afterwards.
    pub(super) fn leave(&mut self, setup: &Setup, now: Instant) {
        self.wanted_after = Some(self.machine.wanted());
        self.on(setup, Event::Stop(PATIENT_STOP), now);
    }

    /// Hands an event to the machine and does what it says, until there is nothing more to do at once.
    fn on(&mut self, setup: &Setup, event: Event, now: Instant) {
        let before = self.machine.state();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            next = self.machine.on(event, now).and_then(|action| self.perform(setup, action));
        }
        if self.machine.is_resting() {
            let pause = self.machine.wake().map_or(0, |due| due.saturating_duration_since(now).as_secs());
            self.console.say(&format!("the next try is in {pause} s"));
        } else if self.machine.state() == State::Failed && before != State::Failed {
            self.console.say("too many failures in a row, no more tries");
        }
        self.persist(setup, now);
    }

    fn perform(&mut self, setup: &Setup, action: Action) -> Option<Event> {
        match action {
            Action::Run => return Some(self.run(setup)),
            Action::Clean => return self.help(setup, "clean"),
            Action::Halt => return self.help(setup, "halt"),
            Action::Terminate => self.signal(Signal::TERM),
            Action::TerminateAll => {
                self.signal(Signal::TERM);
                self.signal_helper(Signal::TERM);
            }
            Action::EndHelper => self.signal_helper(Signal::TERM),
            Action::Kill => {
                if let Some(process) = &self.process {
                    process.kill();
                }
            }
            Action::KillHelper => {
                if let Some((helper, verb)) = &self.helper {
                    self.console.say(&format!("`fireclaw {verb}` takes too long and is ended"));
                    helper.kill();
                }
            }
        }
        None
    }

    fn run(&mut self, setup: &Setup) -> Event {
        self.console.begin();
        let verb = match self.service {
            Service::Vm => "run",
            Service::Proxy => "proxy",
        };
        let output = self.console.for_service();
        match output.and_then(|output| Running::spawn(&setup.cmd(verb), &output)) {
            Ok(process) => {
                self.console.say(&format!(
                    "started `fireclaw {verb} {}` as process {}",
                    setup.id, process.held.id.pid
                ));
                self.process = Some(process);
                Event::Began
            }
            Err(error) => Event::Ended(End::NotStarted(error.one_line())),
        }
    }

    fn help(&mut self, setup: &Setup, verb: &'static str) -> Option<Event> {
        let log = append_at_most(&setup.files.helper_log, HELPER_LOG_LIMIT);
        match log.and_then(|log| Running::spawn(&setup.cmd(verb), &log)) {
            Ok(helper) => {
                self.helper = Some((helper, verb));
                None
            }
            Err(error) => {
                self.console.say(&error.one_line());
                Some(Event::Helped(false))
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn signal_helper(&self, signal: Signal) {
        if let Some((helper, _)) = &self.helper {
            helper.signal(signal);
        }
    }

    /// The service's process has ended.
    pub(super) fn process_ended(&mut self, setup: &Setup, buffer: &mut Buffer, now: Instant) {
        let Some(process) = self.process.take() else { return };
        let status = process.status(&setup.files.fifo(self.service));
        self.console.drain(buffer);
        let end = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(0), _)) if self.console.restarts() => End::Restart,
            Some((Some(0), _)) => End::Code(0, None),
            Some((Some(code), _)) => End::Code(code, self.console.last_words()),
            Some((None, Some(signal))) => End::Signal(signal),
            _ => End::Unknown,
        };
        let how = end.describe();
        self.console.say(&how);
        let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        self.last_end = Some(LastEnd { at, how });
        self.on(setup, Event::Ended(end), now);
    }

    /// The helper has ended.
    pub(super) fn helper_ended(&mut self, setup: &Setup, now: Instant) {
        let Some((helper, verb)) = self.helper.take() else { return };
        let well = helper.status(&setup.files.helper_log).is_some_and(|status| status.success());
        // One that waits for a VM which is gone was told to end.
        let done = verb == "halt" && self.process.is_none();
        if !well && !done {
            self.console.say(&format!("`fireclaw {verb}` failed, see {}", setup.files.helper_log.display()));
        }
        self.on(setup, Event::Helped(well), now);
    }

    /// Writes the record where it has changed.
    fn persist(&mut self, setup: &Setup, now: Instant) {
        let record = Record {
            wanted: self.wanted_after.unwrap_or(self.machine.wanted()),
            state: self.machine.state(),
            process: self.process.as_ref().map(|process| process.held.id),
            restarts: self.machine.restarts(),
            detail: self.machine.detail().map(str::to_owned),
            last_end: self.last_end.clone(),
            supervisor: setup.own,
            ..Record::new(&setup.boot)
        };
        if self.written.as_ref() == Some(&record) {
            self.unwritten = None;
            return;
        }
        match record.write(&setup.files.record(self.service)) {
            Ok(()) => (self.written, self.unwritten) = (Some(record), None),
            Err(error) => {
                let why = error.one_line();
                if self.unwritten.is_none() {
                    self.console.say(&why);
                }
                self.unwritten = Some((why, now + REWRITE));
            }
        }
    }

    /// Does what the time has come for.
    pub(super) fn on_time(&mut self, setup: &Setup, now: Instant) {
        if self.machine.wake().is_some_and(|due| due <= now) {
            self.on(setup, Event::Time, now);
        } else if self.unwritten.as_ref().is_some_and(|(_, due)| *due <= now) {
            self.persist(setup, now);
        }
    }

    /// When [`Unit::on_time`] has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.machine.wake().into_iter().chain(self.unwritten.as_ref().map(|(_, due)| *due)).min()
    }

    /// Nothing runs, nothing is going to, and that is written down.
    pub(super) fn at_rest(&self) -> bool {
        self.machine.at_rest() && self.process.is_none() && self.helper.is_none()
    }

    /// Why the present state is not on the disk, when it is not.
    pub(super) fn unwritten(&self) -> Option<&str> {
        self.unwritten.as_ref().map(|(why, _)| why.as_str())
    }

    /// The machine, for questions.
    pub(super) const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What to wait on: the output, the process, the helper.
    pub(super) fn sources(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [
            Some(self.console.as_fd()),
            self.process.as_ref().map(|process| process.held.as_fd()),
            self.helper.as_ref().map(|(helper, _)| helper.held.as_fd()),
        ]
    }

    /// Moves one piece of output.
    pub(super) fn pump(&mut self, buffer: &mut Buffer) {
        self.console.pump(buffer);
    }

    /// Moves all output that there is.
    pub(super) fn drain(&mut self, buffer: &mut Buffer) {
        self.console.drain(buffer);
    }
}

/// The process of a service that was started and not written down: the leader of the group that it was started in. What
/// is left of one whose leader is gone is ended: it would stand in the way of the next.
fn find_unrecorded(output: &Path) -> Result<Option<ProcessId>> {
    let leads = |process: &ProcessId| {
        let pid = Pid::from_raw(process.pid);
        getpgid(Some(pid)) == Ok(pid)
    };
    let leader = writers(output)?.into_iter().find(leads);
    if leader.is_none() {
        end_writers(output)?;
    }
    Ok(leader)
}

fn end_writers(output: &Path) -> Result<()> {
    writers(output)?
        .into_iter()
        .try_for_each(|process| process.end("what an ended process left", Duration::ZERO))
}

/// Ends helpers that a supervisor before us left behind: one that cleans must not do so under a VM that we start.
pub(super) fn end_orphaned_helpers(files: &Files) -> Result<()> {
    end_writers(&files.helper_log).context("take over", "the instance")
}
