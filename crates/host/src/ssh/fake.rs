//! A [`GuestShell`] whose guest is a closure and whose use is recorded. Touches nothing but the files that are pushed.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fireclaw_core::error::{Context, Result};

use super::{Guest, GuestShell, LoginState, check_words};
use crate::exec::{Output, Stdin, Stream};

type Login = dyn FnMut(usize) -> Result<LoginState> + Send;
type Answer = dyn FnMut(&Said) -> Result<Output> + Send;

/// What a guest was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `run systemctl start x`, `attach ls -l`, `push /usr/local/bin/x`, `close`.
    pub line: String,
    /// What came with it: standard input, or the file that was pushed.
    pub bytes: Vec<u8>,
}

/// Answers logins and commands by closures.
#[derive(Clone)]
pub struct FakeShell {
    login: Arc<Mutex<Box<Login>>>,
    answer: Arc<Mutex<Box<Answer>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    logins: usize,
    said: Vec<Said>,
}

impl FakeShell {
    /// Every login succeeds; `answer` sees each command, attached command and push, and says how it ends.
    pub fn new(answer: impl FnMut(&Said) -> Result<Output> + Send + 'static) -> Self {
        Self {
            login: Arc::new(Mutex::new(Box::new(|_| Ok(LoginState::In)))),
            answer: Arc::new(Mutex::new(Box::new(answer))),
            state: Arc::default(),
        }
    }

    /// Every login succeeds and every command succeeds in silence.
    pub fn silent() -> Self {
        Self::new(|_| Ok(Output::made(0, "", "")))
    }

    /// Answers logins from now on; `login` is given the number of attempts before.
    pub fn on_login(&self, login: impl FnMut(usize) -> Result<LoginState> + Send + 'static) {
        *self.login.lock().expect("no panic while held") = Box::new(login);
    }

    /// A guest for tests that look at none of its fields.
    pub fn guest() -> Guest {
        Guest {
            ip: [172, 16, 0, 2].into(),
            port: 22,
            user: "ubuntu".into(),
            key: "/nowhere/key".into(),
            known_hosts: "/nowhere/known_hosts".into(),
            control: "/nowhere/control".into(),
        }
    }

    /// How often a login was tried.
    pub fn logins(&self) -> usize {
        self.state().logins
    }

    /// What was said so far, in order.
    pub fn said(&self) -> Vec<Said> {
        self.state().said.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn say(&self, line: String, bytes: Vec<u8>) -> Result<Output> {
        let said = Said { line, bytes };
        self.state().said.push(said.clone());
        (self.answer.lock().expect("no panic while held"))(&said)
    }
}

impl GuestShell for FakeShell {
    fn login(&self, _: &Guest) -> Result<LoginState> {
        let before = self.logins();
        self.state().logins += 1;
        (self.login.lock().expect("no panic while held"))(before)
    }

    fn run(
        &self,
        _: &Guest,
        words: &[&str],
        stdin: Stdin,
        _: Duration,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Output> {
        check_words(words)?;
        let bytes = if let Stdin::Bytes(bytes) = stdin { bytes } else { Vec::new() };
        let output = self.say(format!("run {}", words.join(" ")), bytes)?;
        for (stream, said) in [(Stream::Stdout, &output.stdout), (Stream::Stderr, &output.stderr)] {
            for line in String::from_utf8_lossy(said).lines() {
                on_line(stream, line);
            }
        }
        Ok(output)
    }

    fn attach(&self, _: &Guest, words: &[String], _: Option<bool>) -> Result<u8> {
        let output = self.say(format!("attach {}", words.join(" ")), Vec::new())?;
        Ok(u8::try_from(output.code()).unwrap_or(1))
    }

    fn push(&self, _: &Guest, file: &Path, target: &str) -> Result<()> {
        check_words(&[target])?;
        let bytes = std::fs::read(file).context("read", file.display())?;
        self.say(format!("push {target}"), bytes).map(drop)
    }

    fn close(&self, _: &Guest) -> Result<()> {
        self.state().said.push(Said { line: "close".into(), bytes: Vec::new() });
        Ok(())
    }
}
