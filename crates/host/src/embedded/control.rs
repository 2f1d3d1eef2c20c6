//! What a command and a supervisor say to each other: one line of JSON each way over a Unix socket.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::{interrupt::Interrupt, supervisor::Service};

/// The longest line that either side takes.
pub(super) const LINE: usize = 4096;
/// How often a waiting command looks at its interrupt.
const TICK: Duration = Duration::from_millis(200);

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(super) enum Request {
    /// Run a service; answered when its process runs.
    Start {
        /// Which.
        service: Service,
    },
    /// End a service for good; answered when it is gone.
    Stop {
        /// Which.
        service: Service,
        /// How long it has to end by itself.
        within_ms: u64,
    },
    /// End both at once and the supervisor with them; answered when both are gone.
    Shutdown,
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Why what was asked for did not come about; nothing when it did.
    pub(super) error: Option<String>,
}

/// Asks a supervisor and waits for its answer. `None` when there is none, or when it ended before it answered: the
/// question can be put to another one.
pub(super) fn ask(
    socket: &Path,
    request: Request,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context("connect to", socket.display()),
    };
    let mut line = serde_json::to_vec(&request).context("render", "a request")?;
    line.push(b'\n');
    stream.set_read_timeout(Some(TICK)).context("set up", socket.display())?;
    if stream.write_all(&line).is_err() {
        return Ok(None);
    }
    let (mut answer, begun) = (Vec::new(), Instant::now());
    loop {
        let mut piece = [0; 512];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("read from", socket.display()),
        }
        if answer.ends_with(b"\n") {
            return serde_json::from_slice(&answer)
                .map(Some)
                .context("understand", "the supervisor's answer");
        }
        interrupt.check()?;
        if begun.elapsed() > patience || answer.len() > LINE {
            return Err(Error::new("wait for", format!("the supervisor at {}", socket.display()))
                .because(format!("no answer within {} s", patience.as_secs()))
                .hint("see what it does with `ps`; when it hangs, end it with `kill -9`: the next command replaces it"));
        }
    }
    Ok(None)
}

/// One command at the socket.
pub(super) struct Client {
    /// Where it is.
    pub(super) stream: UnixStream,
    line: Vec<u8>,
    /// What it asked for.
    pub(super) asked: Option<Request>,
    /// It was answered, or it has gone away.
    pub(super) done: bool,
}

impl Client {
    /// A command that has just connected.
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, line: Vec::new(), asked: None, done: false })
    }

    /// Reads what has come, and gives the request once it is whole.
    pub(super) fn read(&mut self) -> Option<Request> {
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

    /// Answers.
    pub(super) fn reply(&mut self, error: Option<String>) {
        let mut line = serde_json::to_vec(&Reply { error }).unwrap_or_default();
        line.push(b'\n');
        // It fits into the socket's buffer; a command that is gone does not want it.
        let _ = self.stream.write_all(&line);
        self.done = true;
    }
}
