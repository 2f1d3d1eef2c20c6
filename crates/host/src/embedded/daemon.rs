//! The supervisor's process: one thread in one `poll(2)`, woken by signals, commands, output and ends of processes, and
//! by the clock only while something is due. Listens on the control socket.

use std::{
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Context, Kind, Result},
    id::InstanceId,
    layout::Layout,
};
use nix::{
    errno::Errno,
    libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    attend::Attendant,
    console::Buffer,
    control::{LINE, Reply, Request},
    files::Files,
    record::boot,
    unit::{Setup, Unit, end_orphaned_helpers},
};
use crate::{
    fs,
    interrupt::Interrupt,
    lock::{self, Lock},
    proc::ProcessId,
    supervisor::{Service, State},
    wait::{Probed, Requirement, until},
};

/// A command that writes a record holds the lock for moments; a supervisor that ends, a little longer.
const LOCK: Duration = Duration::from_secs(2);
/// A supervisor that nobody asks anything after its start has no reason to live.
const UNASKED: Duration = Duration::from_secs(5);
/// More commands at a time than these are turned away.
const CLIENTS: usize = 32;

/// Runs the supervisor of an instance until there is nothing left to supervise. Returns at once when another one does.
///
/// `program` is the fireclaw binary that services are started from, as a path that stays valid when the binary is
/// replaced; `environment` is what they get.
pub fn supervise(
    layout: &Layout,
    id: &InstanceId,
    program: &Path,
    environment: &[(String, String)],
) -> Result<()> {
    let files = Files::of(layout, id)?;
    let Some(_lock) = only_one(&files)? else { return Ok(()) };
    let signals = signals()?;
    end_orphaned_helpers(&files)?;
    let setup = Setup {
        id: id.clone(),
        program: program.to_owned(),
        environment: environment.to_owned(),
        boot: boot(),
        own: ProcessId::own(),
        files,
    };
    let now = Instant::now();
    let units = [Unit::take_over(&setup, Service::Vm, now)?, Unit::take_over(&setup, Service::Proxy, now)?];
    fs::remove_file(&setup.files.socket)?;
    let listener =
        UnixListener::bind(&setup.files.socket).context("listen on", setup.files.socket.display())?;
    listener.set_nonblocking(true).context("set up", setup.files.socket.display())?;
    std::fs::set_permissions(&setup.files.socket, std::fs::Permissions::from_mode(0o600))
        .context("set the mode of", setup.files.socket.display())?;
    let attendant = Attendant::new(&setup.files);
    let mut daemon = Daemon {
        attendant,
        setup,
        units,
        listener,
        signals,
        clients: Vec::new(),
        buffer: Buffer::default(),
        unasked_until: Some(now + UNASKED),
        ending: false,
    };
    daemon.run()?;
    fs::remove_file(&daemon.setup.files.socket)
}

/// The lock that makes this the one supervisor; `None` when there is another.
fn only_one(files: &Files) -> Result<Option<Lock>> {
    let begun = Instant::now();
    let requirement = Requirement {
        description: "the lock of supervisors".into(),
        deadline: 2 * LOCK,
        hint: format!("see who has {} open", files.lock.display()),
    };
    until(&requirement, &Interrupt::default(), || match lock::take(&files.lock, "the supervisor") {
        Ok(lock) => Probed::Ready(Some(lock)),
        Err(error) if error.get_kind() != Kind::Held => Probed::Never(error),
        Err(error) if begun.elapsed() < LOCK => Probed::NotYet(error.one_line()),
        Err(_) => Probed::Ready(None),
    })
}

/// A stream that becomes readable at SIGTERM. The handlers are ours alone: a program that we start begins with none.
fn signals() -> Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair().context("create", "a pipe for signals")?;
    signal_hook::low_level::pipe::register(SIGTERM, sender).context("handle", "SIGTERM")?;
    // SIGCHLD too: whoever started us may have ignored it, and then no child's exit code would be seen.
    for unheeded in [SIGHUP, SIGINT, SIGCHLD] {
        signal_hook::flag::register(unheeded, Arc::default())
            .context("handle", format!("signal {unheeded}"))?;
    }
    receiver.set_nonblocking(true).context("set up", "a pipe for signals")?;
    Ok(receiver)
}

/// One command at the socket.
struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    asked: Option<Request>,
    done: bool,
}

/// What woke us.
#[derive(Clone, Copy)]
enum Source {
    Signal,
    Listener,
    Client(usize),
    Output(usize),
    Process(usize),
    Helper(usize),
    Requests,
    Attendant,
}

struct Daemon {
    setup: Setup,
    units: [Unit; 2],
    listener: UnixListener,
    signals: UnixStream,
    clients: Vec<Client>,
    buffer: Buffer,
    attendant: Attendant,
    /// Until the first request, or this moment.
    unasked_until: Option<Instant>,
    /// No new work: SIGTERM, or a shutdown.
    ending: bool,
}

impl Daemon {
    fn run(&mut self) -> Result<()> {
        loop {
            self.answer();
            self.clients.retain(|client| !client.done);
            if self.is_idle() {
                for unit in &mut self.units {
                    unit.drain(&mut self.buffer);
                }
                return Ok(());
            }
            if !self.ending {
                self.attendant.see_to(&self.setup);
            }
            let woken = self.wait()?;
            let now = Instant::now();
            for source in woken {
                self.handle(source, now);
            }
            for unit in &mut self.units {
                unit.on_time(&self.setup, now);
            }
            self.unasked_until.take_if(|until| *until <= now);
        }
    }

    fn is_idle(&self) -> bool {
        // A state that is not on the disk keeps us alive, unless the disk's folder is gone as well.
        let written =
            self.units.iter().all(|unit| unit.unwritten().is_none()) || !self.setup.files.dir.exists();
        (self.ending || self.unasked_until.is_none())
            && written
            && self.units.iter().all(Unit::at_rest)
            && self.clients.iter().all(|client| client.asked.is_none())
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Signal, Source::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (number, client) in self.clients.iter().enumerate() {
            sources.push(Source::Client(number));
            fds.push(PollFd::new(client.stream.as_fd(), PollFlags::POLLIN));
        }
        for (number, unit) in self.units.iter().enumerate() {
            let kinds = [Source::Output(number), Source::Process(number), Source::Helper(number)];
            for (kind, fd) in kinds.into_iter().zip(unit.sources()) {
                if let Some(fd) = fd {
                    sources.push(kind);
                    fds.push(PollFd::new(fd, PollFlags::POLLIN));
                }
            }
        }
        for (source, fd) in
            [(Source::Requests, self.attendant.requests()), (Source::Attendant, self.attendant.process())]
        {
            if let Some(fd) = fd {
                sources.push(source);
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let due = self.units.iter().filter_map(Unit::wake).chain(self.unasked_until).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up, so that what is due is due when we wake.
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("wait for", "anything to do"),
        }
        let woken = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| woken(fd)).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source, now: Instant) {
        match source {
            Source::Signal => {
                let _ = self.signals.read(&mut [0; 64]);
                self.leave(now);
            }
            Source::Listener => self.accept(),
            Source::Client(number) => {
                if let Some(request) = self.clients[number].read() {
                    self.ask(request, now);
                }
            }
            Source::Output(number) => self.units[number].pump(&mut self.buffer),
            Source::Process(number) => self.units[number].process_ended(&self.setup, &mut self.buffer, now),
            Source::Requests => self.attendant.drain(),
            Source::Attendant => self.attendant.ended(&self.setup),
            Source::Helper(number) => self.units[number].helper_ended(&self.setup, now),
        }
    }

    /// SIGTERM: both are stopped as on a shutdown of the host, and remain wanted.
    fn leave(&mut self, now: Instant) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        for unit in &mut self.units {
            unit.leave(&self.setup, now);
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, line: Vec::new(), asked: None, done: false });
            }
        }
    }

    fn ask(&mut self, request: Request, now: Instant) {
        self.unasked_until = None;
        match request {
            // Refused when it is answered.
            Request::Start { .. } if self.ending => {}
            Request::Start { service } => self.units[index(service)].start(&self.setup, now),
            Request::Stop { service, within_ms } => {
                self.units[index(service)].stop(&self.setup, Duration::from_millis(within_ms), now);
            }
            Request::Shutdown => {
                self.ending = true;
                for unit in &mut self.units {
                    unit.stop(&self.setup, Duration::ZERO, now);
                }
            }
        }
    }

    /// Answers what has come about.
    fn answer(&mut self) {
        for client in &mut self.clients {
            let outcome = match client.asked {
                None => None,
                Some(Request::Start { .. }) if self.ending => {
                    Some(Err("its supervisor is about to end".to_owned()))
                }
                Some(Request::Start { service }) => started(&self.units[index(service)]),
                Some(Request::Stop { service, .. }) => stopped(&self.units[index(service)]),
                Some(Request::Shutdown) => {
                    let both: Option<Vec<_>> = self.units.iter().map(stopped).collect();
                    both.map(|both| both.into_iter().collect())
                }
            };
            if let Some(outcome) = outcome {
                client.reply(outcome.err());
            }
        }
    }
}

const fn index(service: Service) -> usize {
    match service {
        Service::Vm => 0,
        Service::Proxy => 1,
    }
}

/// How a start went, once that is known.
fn started(unit: &Unit) -> Option<Result<(), String>> {
    let machine = unit.machine();
    if machine.state() == State::Active {
        return Some(recorded(unit, "it runs"));
    }
    let tried = unit.at_rest() || machine.is_resting();
    tried.then(|| Err(machine.detail().unwrap_or("it was stopped again").to_owned()))
}

/// How a stop went, once that is known.
fn stopped(unit: &Unit) -> Option<Result<(), String>> {
    if unit.machine().wanted() && unit.machine().state() == State::Active {
        return Some(Err("it was started again".to_owned()));
    }
    unit.at_rest().then(|| recorded(unit, "it is down"))
}

/// What is not on the disk would be forgotten by a crash: that is no success.
fn recorded(unit: &Unit, state: &str) -> Result<(), String> {
    match unit.unwritten() {
        None => Ok(()),
        Some(why) => Err(format!("{state}, and that could not be written down: {why}")),
    }
}

impl Client {
    /// Reads what has come, and gives the request once it is whole.
    fn read(&mut self) -> Option<Request> {
        let mut piece = [0; 512];
        match self.stream.read(&mut piece) {
            // The command has gone away. What it asked for goes on.
            Ok(0) => self.done = true,
            Ok(read) if self.asked.is_none() && self.line.len() < LINE => {
                self.line.extend_from_slice(&piece[..read]);
                if self.line.ends_with(b"\n") {
                    match serde_json::from_slice(&self.line) {
                        Ok(request) => self.asked = Some(request),
                        Err(error) => self.reply(Some(format!("the request cannot be understood: {error}"))),
                    }
                    return self.asked;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.done = true,
        }
        None
    }

    fn reply(&mut self, error: Option<String>) {
        let mut line = serde_json::to_vec(&Reply { error }).unwrap_or_default();
        line.push(b'\n');
        // It fits into the socket's buffer; a command that is gone does not want it.
        let _ = self.stream.write_all(&line);
        self.done = true;
    }
}
