//! The one place that starts programs: argv never through a shell, a cleared environment, a deadline, a process group of
//! its own, and an error that names program, status and what it said last.
//!
//! [`Exec`] is what other modules take; [`SystemExec`] is real, [`fake`] is for tests. What runs a program for good
//! (`exec(2)`, a detached child, a terminal) is in [`handover`].

mod run;

#[cfg(any(test, feature = "fakes"))]
pub mod fake;
pub mod handover;

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use fireclaw_core::error::{Error, Result};
pub use run::SystemExec;

/// What a child reads.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// These bytes, then the end. The place for secrets: argv is public.
    Bytes(Vec<u8>),
    /// A file.
    File(File),
}

/// A program to run.
#[derive(Debug)]
pub struct Cmd {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) inherit_env: bool,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) stdin: Stdin,
    pub(crate) deadline: Duration,
    pub(crate) object: Option<String>,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) stop_after: Option<String>,
    pub(crate) dies_at_once: bool,
}

impl Cmd {
    /// A program by name (looked up in the system folders) or by absolute path. Ten minutes at most unless
    /// [`Cmd::deadline`] says otherwise.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            inherit_env: false,
            cwd: None,
            stdin: Stdin::Null,
            deadline: Duration::from_mins(10),
            object: None,
            user: None,
            stop_after: None,
            dies_at_once: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable in the otherwise minimal environment (PATH and LANG).
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Hands our own environment on, for programs that a user configures by theirs (package managers).
    #[must_use]
    pub fn inherit_env(mut self) -> Self {
        self.inherit_env = true;
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Feeds bytes to the program.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Feeds a file to the program.
    #[must_use]
    pub fn stdin_file(mut self, file: File) -> Self {
        self.stdin = Stdin::File(file);
        self
    }

    /// Ends the program after so long.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Gives up root before the program starts: this user and group, no supplementary groups.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Asks the program to end (SIGTERM) once it has said a line with this in it: a server that is run only until it is up.
    #[must_use]
    pub fn stop_after(mut self, text: impl Into<String>) -> Self {
        self.stop_after = Some(text.into());
        self
    }

    /// Should this process end before the program, the program is killed, and not asked to end: util-linux's `unshare` waits for its
    /// child with SIGTERM blocked, and takes the child along only when it is killed itself.
    #[must_use]
    pub const fn dies_at_once(mut self) -> Self {
        self.dies_at_once = true;
        self
    }

    /// What the run is about, for the error: `cannot run mke2fs for /x/rootfs.ext4`.
    #[must_use]
    pub fn about(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(object.to_string());
        self
    }

    /// The program and its arguments, for tests and for messages. Secrets are never arguments.
    pub fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    fn what(&self) -> String {
        match &self.object {
            Some(object) => format!("{} for {object}", self.program.to_string_lossy()),
            None => self.program.to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn error(&self) -> Error {
        Error::new("run", self.what())
    }
}

/// Which of a child's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a child ended and what it said (the last mebibyte of each stream).
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// An output as a test or a fake makes it.
    pub fn made(code: i32, stdout: &str, stderr: &str) -> Self {
        Self { status: ExitStatus::from_raw(code << 8), stdout: stdout.into(), stderr: stderr.into() }
    }

    /// Standard output as text, without the newline at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// The exit code, 128 + n for a signal, as a shell reports it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// The last lines of standard error, or of standard output when that is empty.
    pub fn last_words(&self) -> String {
        let said = if self.stderr.iter().all(u8::is_ascii_whitespace) { &self.stdout } else { &self.stderr };
        let text = String::from_utf8_lossy(said);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Runs programs to their end.
pub trait Exec: Send + Sync {
    /// Runs a program and hands each line of its output over as it comes. Any exit status is an `Ok`; an `Err` is a
    /// program that cannot be started, that passed its deadline, or an interruption.
    fn stream(&self, cmd: Cmd, on_line: &mut dyn FnMut(Stream, &str)) -> Result<Output>;

    /// Whether a program of this name can be started.
    fn which(&self, program: &str) -> Option<PathBuf>;

    /// Runs a program; any exit status is an `Ok`.
    fn run(&self, cmd: Cmd) -> Result<Output> {
        self.stream(cmd, &mut |_, _| {})
    }

    /// Runs a program that must succeed.
    fn check(&self, cmd: Cmd) -> Result<Output> {
        self.check_stream(cmd, &mut |_, _| {})
    }

    /// Runs a program that must succeed and hands its lines over.
    fn check_stream(&self, cmd: Cmd, on_line: &mut dyn FnMut(Stream, &str)) -> Result<Output> {
        let error = cmd.error();
        let output = self.stream(cmd, on_line)?;
        if output.status.success() {
            return Ok(output);
        }
        let said = output.last_words();
        let colon = if said.is_empty() { "" } else { ": " };
        Err(error.because(format!("{}{colon}{said}", ended(output.status))))
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// The folders in which programs are looked up, whatever the caller's PATH is.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
