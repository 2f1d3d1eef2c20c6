//! An [`Exec`] whose programs are closures and whose runs are recorded. Touches nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use fireclaw_core::error::Result;

use super::{Cmd, Exec, Output, Stdin, Stream, run::missing};

type Answer = dyn FnMut(&Cmd) -> Result<Output> + Send;

/// One run as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Program and arguments.
    pub line: String,
    /// What it was fed, when that was bytes.
    pub stdin: Vec<u8>,
}

/// Answers every program by one closure.
#[derive(Clone)]
pub struct FakeExec {
    answer: Arc<Mutex<Box<Answer>>>,
    ran: Arc<Mutex<Vec<Ran>>>,
    absent: Arc<Mutex<Vec<String>>>,
}

impl FakeExec {
    /// `answer` sees each command and says how it ends.
    pub fn new(answer: impl FnMut(&Cmd) -> Result<Output> + Send + 'static) -> Self {
        Self { answer: Arc::new(Mutex::new(Box::new(answer))), ran: Arc::default(), absent: Arc::default() }
    }

    /// Every program succeeds and says nothing.
    pub fn silent() -> Self {
        Self::new(|_| Ok(Output::made(0, "", "")))
    }

    /// Makes [`Exec::which`] miss a program.
    pub fn without(self, program: &str) -> Self {
        self.absent.lock().expect("no panic while held").push(program.to_owned());
        self
    }

    /// The runs so far.
    pub fn ran(&self) -> Vec<Ran> {
        self.ran.lock().expect("no panic while held").clone()
    }

    /// The command lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.ran().into_iter().map(|ran| ran.line).collect()
    }
}

impl Exec for FakeExec {
    fn stream(&self, cmd: Cmd, on_line: &mut dyn FnMut(Stream, &str)) -> Result<Output> {
        let stdin = if let Stdin::Bytes(bytes) = &cmd.stdin { bytes.clone() } else { Vec::new() };
        self.ran.lock().expect("no panic while held").push(Ran { line: cmd.line(), stdin });
        let program = cmd.program.to_string_lossy().into_owned();
        if self.which(&program).is_none() {
            return Err(missing(&program));
        }
        let output = (self.answer.lock().expect("no panic while held"))(&cmd)?;
        for (stream, said) in [(Stream::Stdout, &output.stdout), (Stream::Stderr, &output.stderr)] {
            for line in String::from_utf8_lossy(said).lines() {
                on_line(stream, line);
            }
        }
        Ok(output)
    }

    fn which(&self, program: &str) -> Option<PathBuf> {
        let absent = self.absent.lock().expect("no panic while held").iter().any(|name| name == program);
        (!absent).then(|| PathBuf::from("/usr/bin").join(program))
    }
}
