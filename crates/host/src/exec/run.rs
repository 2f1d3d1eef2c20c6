//! The real [`Exec`]: a child in its own process group, its output read by two threads. Starts programs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Kind, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{Cmd, Exec, Output, SYSTEM_PATH, Stdin, Stream};
use crate::interrupt::Interrupt;

/// Runs programs on this machine.
#[derive(Debug, Clone, Default)]
pub struct SystemExec {
    interrupt: Interrupt,
}

/// What is kept of each stream.
const KEPT: usize = 1 << 20;
/// How often a running child is looked at while it is silent.
const TICK: Duration = Duration::from_millis(50);
/// How long output may trail behind the exit: a grandchild (an SSH master) can hold the pipe open for good.
const TRAIL: Duration = Duration::from_millis(200);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

impl SystemExec {
    /// Children are ended when the interrupt is asked.
    pub fn new(interrupt: Interrupt) -> Self {
        Self { interrupt }
    }
}

/// Fills a [`Command`] from a [`Cmd`], but for its standard streams.
#[expect(clippy::disallowed_methods, reason = "this module is the one that starts programs")]
pub(super) fn command(cmd: &Cmd) -> Command {
    let mut command = Command::new(&cmd.program);
    command.args(&cmd.args);
    if !cmd.inherit_env {
        command.env_clear();
        command.env("LANG", "C.UTF-8");
        command.env("PATH", SYSTEM_PATH);
    }
    command.envs(cmd.env.iter().map(|(name, value)| (name, value)));
    if let Some(cwd) = &cmd.cwd {
        command.current_dir(cwd);
    }
    if let Some((uid, gid)) = cmd.user {
        // The standard library drops the supplementary groups when root sets a uid.
        command.uid(uid).gid(gid);
    }
    command
}

impl Exec for SystemExec {
    fn stream(&self, mut cmd: Cmd, on_line: &mut dyn FnMut(Stream, &str)) -> Result<Output> {
        self.interrupt.check()?;
        let mut child = self.spawn(&mut cmd)?;
        let (sender, receiver) = channel();
        let readers = [
            read_lines(child.stdout.take(), Stream::Stdout, &sender),
            read_lines(child.stderr.take(), Stream::Stderr, &sender),
        ];
        drop(sender);
        let collected = self.collect(&cmd, &mut child, &receiver, &readers, on_line);
        if collected.is_err() {
            end(&mut child);
        }
        collected
    }

    fn which(&self, program: &str) -> Option<PathBuf> {
        SYSTEM_PATH
            .split(':')
            .map(|dir| PathBuf::from(dir).join(program))
            .find(|path| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file())
    }
}

impl SystemExec {
    fn spawn(&self, cmd: &mut Cmd) -> Result<Child> {
        let mut command = command(cmd);
        let death = if cmd.dies_at_once { Signal::SIGKILL } else { Signal::SIGTERM };
        let stdin = std::mem::take(&mut cmd.stdin);
        // A group of its own: Ctrl-C in a terminal reaches us, and we decide what the child is told.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only prctl(2) is called. It is async-signal-safe and touches no memory of ours.
        unsafe {
            // Nobody waits for the child of a process that was killed. The caller's thread outlives the child otherwise.
            command.pre_exec(move || Ok(nix::sys::prctl::set_pdeathsig(death)?));
        }
        let bytes = match stdin {
            Stdin::Null => {
                command.stdin(Stdio::null());
                None
            }
            Stdin::Bytes(bytes) => {
                command.stdin(Stdio::piped());
                Some(bytes)
            }
            Stdin::File(file) => {
                command.stdin(file);
                None
            }
        };
        let mut child = command.spawn().map_err(|error| {
            let error_is_missing = error.kind() == std::io::ErrorKind::NotFound;
            let made = cmd.error().source(error);
            if error_is_missing {
                made.kind(Kind::HostNotReady).hint("run `fireclaw doctor --fix`")
            } else {
                made
            }
        })?;
        if let (Some(bytes), Some(mut pipe)) = (bytes, child.stdin.take()) {
            // A child that does not read to the end closes the pipe; its exit status tells why.
            thread::spawn(move || {
                let _ = pipe.write_all(&bytes);
            });
        }
        Ok(child)
    }

    fn collect(
        &self,
        cmd: &Cmd,
        child: &mut Child,
        receiver: &Receiver<(Stream, Vec<u8>)>,
        readers: &[Option<Reader>],
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Output> {
        let begun = Instant::now();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut status = None;
        let mut trailing_since = None;
        loop {
            match receiver.recv_timeout(TICK) {
                Ok((stream, line)) => {
                    trailing_since = None;
                    let text = String::from_utf8_lossy(&line);
                    on_line(stream, text.trim_end_matches(['\r', '\n']));
                    if cmd.stop_after.as_ref().is_some_and(|end| text.contains(end.as_str())) {
                        ask_to_end(child);
                    }
                    let kept = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                    kept.extend_from_slice(&line);
                    if kept.len() > 2 * KEPT {
                        kept.drain(..kept.len() - KEPT);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait().map_err(|error| cmd.error().source(error))?;
                    return Ok(Output { status, stdout, stderr });
                }
            }
            self.interrupt.check()?;
            if begun.elapsed() > cmd.deadline {
                return Err(cmd.error().because(format!("not done within {} s", cmd.deadline.as_secs())));
            }
            if status.is_none() {
                status = child.try_wait().map_err(|error| cmd.error().source(error))?;
            }
            if let Some(status) = status {
                let since = *trailing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > TRAIL && !readers.iter().flatten().any(Reader::is_behind) {
                    return Ok(Output { status, stdout, stderr });
                }
            }
        }
    }
}

/// Who reads one of a child's streams.
struct Reader {
    thread: thread::JoinHandle<()>,
    pipe: Option<OwnedFd>,
}

impl Reader {
    /// Whether there is more for it to take, be it only the end: on a busy machine it may not have run since.
    fn is_behind(&self) -> bool {
        if self.thread.is_finished() {
            return false;
        }
        let Some(pipe) = &self.pipe else { return false };
        let mut waiting = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn read_lines(
    pipe: Option<impl Read + AsFd + Send + 'static>,
    stream: Stream,
    sender: &Sender<(Stream, Vec<u8>)>,
) -> Option<Reader> {
    let pipe = pipe?;
    let seen = pipe.as_fd().try_clone_to_owned().ok();
    let sender = sender.clone();
    let thread = thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            // A line without end is cut into pieces of a mebibyte, so that no child can fill our memory.
            match reader.by_ref().take(KEPT as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if sender.send((stream, line)).is_err() {
                        return;
                    }
                }
            }
        }
    });
    Some(Reader { thread, pipe: seen })
}

/// SIGTERM to a child and its group.
fn ask_to_end(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Ends a child and its group: SIGTERM, then SIGKILL.
fn end(child: &mut Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    let group = Pid::from_raw(pid);
    let _ = killpg(group, Signal::SIGTERM);
    let begun = Instant::now();
    while begun.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            let _ = killpg(group, Signal::SIGKILL);
            return;
        }
        crate::wait::pause_for(TICK);
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

impl From<SystemExec> for Box<dyn Exec> {
    fn from(exec: SystemExec) -> Self {
        Box::new(exec)
    }
}

/// An error for a program that the host lacks, before it is even tried.
#[cfg(any(test, feature = "fakes"))]
pub(crate) fn missing(program: &str) -> fireclaw_core::error::Error {
    fireclaw_core::error::Error::new("find", format!("program {program}"))
        .kind(Kind::HostNotReady)
        .because("it is not installed")
        .hint("run `fireclaw doctor --fix`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> SystemExec {
        SystemExec::default()
    }

    #[test]
    fn a_child_ends_with_us_however_we_end() {
        let said = exec().run(Cmd::new("setpriv").arg("--dump")).unwrap().text();
        assert!(said.lines().any(|line| line == "Parent death signal: TERM"), "{said}");
        let said = exec().run(Cmd::new("setpriv").arg("--dump").dies_at_once()).unwrap().text();
        assert!(said.lines().any(|line| line == "Parent death signal: KILL"), "{said}");
    }

    #[test]
    fn output_and_status_come_through() {
        let output =
            exec().run(Cmd::new("sh").args(["-c", "cat; echo err >&2; exit 3"]).stdin_bytes("in")).unwrap();
        assert_eq!((output.text().as_str(), output.code()), ("in", 3));
        assert_eq!(output.last_words(), "err");
    }

    #[test]
    fn the_environment_is_cleared() {
        let output = exec().run(Cmd::new("env").env("A", "1")).unwrap();
        let mut lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["A=1", "LANG=C.UTF-8", &format!("PATH={SYSTEM_PATH}")]);
    }

    #[test]
    fn a_failed_check_names_program_status_and_last_words() {
        let error =
            exec().check(Cmd::new("sh").args(["-c", "echo no >&2; exit 4"]).about("a test")).unwrap_err();
        assert_eq!(error.one_line(), "cannot run sh for a test: exit code 4: no");
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let begun = Instant::now();
        let cmd = Cmd::new("sh").args(["-c", "sleep 60 & wait"]).deadline(Duration::from_millis(100));
        let error = exec().run(cmd).unwrap_err();
        assert!(error.one_line().contains("not done within"), "{}", error.one_line());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    /// Whoever takes the lines may be slower than the child, which has long ended then.
    #[test]
    fn what_a_child_said_before_its_end_is_not_cut_off() {
        let mut lines = 0;
        let mut slowly = |_: Stream, _: &str| {
            lines += 1;
            crate::wait::pause_for(Duration::from_millis(2));
        };
        let output = exec().stream(Cmd::new("seq").arg("400"), &mut slowly).unwrap();
        assert_eq!((lines, output.text().lines().count()), (400, 400));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_does_not_hold_us() {
        let begun = Instant::now();
        let output = exec().run(Cmd::new("sh").args(["-c", "sleep 30 & echo $!"])).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
        let pid: i32 = output.text().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_server_is_stopped_once_it_is_up() {
        let script = "trap 'echo bye; exit 0' TERM; echo starting; echo ready; sleep 60 & wait";
        let begun = Instant::now();
        let output = exec().run(Cmd::new("sh").args(["-c", script]).stop_after("ready")).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!((output.text().as_str(), output.code()), ("starting\nready\nbye", 0));
    }

    #[test]
    fn an_interrupt_ends_the_child() {
        let interrupt = Interrupt::default();
        let exec = SystemExec::new(interrupt.clone());
        let asker = thread::spawn(move || {
            crate::wait::pause_for(Duration::from_millis(100));
            interrupt.ask();
        });
        let error = exec.run(Cmd::new("sleep").arg("60")).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Interrupted);
        asker.join().unwrap();
    }

    #[test]
    fn a_missing_program_is_a_host_that_is_not_ready() {
        let error = exec().run(Cmd::new("no-such-program-here")).unwrap_err();
        assert_eq!(error.get_kind(), Kind::HostNotReady);
    }
}
