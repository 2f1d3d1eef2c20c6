//! One supervised service: carries out what its [`Machine`] says, and writes down what came of it. Starts programs, sends
//! signals, writes the service's record and log.

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use fireclaw_core::{error::Result, id::InstanceId};
use rustix::process::Signal;

use super::{
    console::{Buffer, Console, append_at_most},
    event::{Action, End, Event},
    files::Files,
    machine::Machine,
    pidfd::Held,
    process::{Running, find_unrecorded},
    record::{LastEnd, Record},
};
use crate::{
    exec::Cmd,
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
    fn cmd(&self, verb: &str) -> Cmd {
        let cmd = Cmd::new(&self.program).args([verb, self.id.as_str()]).cwd("/");
        self.environment.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value))
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
        // What was wanted before a reboot is started, what was wanted a moment ago is started again.
        let bring_back = if known.boot == setup.boot { Event::Resume } else { Event::Start };
        let failed = at_rest && known.state == State::Failed;
        let mut this = Self {
            service,
            machine: Machine::new(service, wanted, known.restarts, failed, known.detail.filter(|_| at_rest)),
            console,
            process: held.map(Running::taken_over),
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
            this.on(setup, bring_back, now);
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
            let Some(action) = self.machine.on(event, now) else { break };
            if action == Action::Run {
                // That it is wanted is on the disk before it runs: a supervisor after us would stop it otherwise.
                self.persist(setup, now);
            }
            next = self.perform(setup, action);
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
        if !well {
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
