//! QMP, QEMU's control protocol: one JSON object a line, a greeting, a handshake, then commands, with events in
//! between. A connection lives for a few commands, under one deadline. Opens a socket.
//!
//! QEMU serves one connection at a time; a second one waits in the socket's queue until the first is closed.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use serde_json::{Value, json};

use crate::vmm::socket;

/// The longest line that is read. Answers to the commands here have a few hundred bytes.
const LINE_MAX: usize = 1 << 20;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: UnixStream,
    unread: Vec<u8>,
    ends: Instant,
    version: String,
}

impl Qmp {
    /// Connects and shakes hands. `deadline` is for this and all commands after it together.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self> {
        let ends = Instant::now() + deadline;
        let stream = socket::connect(path, deadline).context("connect to", path.display())?;
        let mut qmp =
            Self { path: path.to_owned(), stream, unread: Vec::new(), ends, version: String::new() };
        let greeting = qmp.read_object().map_err(|error| qmp.error("be greeted by").source(error))?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let (Some(major), Some(minor)) = (version["major"].as_u64(), version["minor"].as_u64()) else {
            return Err(qmp.error("be greeted by").because("what listens there is not QEMU"));
        };
        qmp.version = format!("{major}.{minor}.{}", version["micro"].as_u64().unwrap_or(0));
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// QEMU's version, `7.2.22`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The run state: `running`, `paused`, `shutdown`, `internal-error`, …
    pub fn status(&mut self) -> Result<String> {
        let answer = self.execute("query-status")?;
        match answer["status"].as_str() {
            Some(status) => Ok(status.to_owned()),
            None => Err(self.error("read the status of").because("the answer names none")),
        }
    }

    /// Presses the guest's power button. The guest decides what follows.
    pub fn power_button(&mut self) -> Result<()> {
        self.execute("system_powerdown").map(drop)
    }

    /// Stops the virtual CPUs.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop").map(drop)
    }

    /// Lets them run again.
    pub fn cont(&mut self) -> Result<()> {
        self.execute("cont").map(drop)
    }

    /// Ends QEMU at once, which to the guest is a power cut.
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit").map(drop)
    }

    /// Runs a command without arguments and gives what it returns.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.execute_with(command, None)
    }

    /// The same with arguments.
    pub fn execute_with(&mut self, command: &str, arguments: Option<&Value>) -> Result<Value> {
        let failed = |error: Error, why: io::Error| error.source(why);
        let request = match arguments {
            Some(arguments) => json!({"execute": command, "arguments": arguments}),
            None => json!({"execute": command}),
        };
        let mut line = request.to_string();
        line.push('\n');
        self.write_all(line.as_bytes()).map_err(|why| failed(self.error_of(command), why))?;
        loop {
            let mut object = self.read_object().map_err(|why| failed(self.error_of(command), why))?;
            if let Some(answer) = object.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = object.get("error") {
                let said = error["desc"].as_str().unwrap_or("it does not say why");
                return Err(self.error_of(command).because(said));
            }
            // Anything else is an event that happened to come now.
        }
    }

    fn error(&self, operation: &'static str) -> Error {
        Error::new(operation, format!("QEMU at {}", self.path.display()))
    }

    fn error_of(&self, command: &str) -> Error {
        Error::new("run", format!("{command} in QEMU at {}", self.path.display()))
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.ends.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes).map_err(timely)
    }

    fn read_object(&mut self) -> io::Result<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map_err(io::Error::from);
            }
            if self.unread.len() > LINE_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line without end"));
            }
            self.stream.set_read_timeout(Some(self.left()?))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).map_err(timely)? {
                0 => return Err(io::Error::new(ErrorKind::UnexpectedEof, "QEMU closed the connection")),
                count => self.unread.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

fn timely(error: io::Error) -> io::Error {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) { late() } else { error }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer within the deadline")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": []}}"#;
    const LONG: Duration = Duration::from_secs(10);
    const SOON: Duration = Duration::from_millis(200);

    struct Fake {
        _dir: tempfile::TempDir,
        path: PathBuf,
        thread: thread::JoinHandle<Vec<String>>,
    }

    /// Says the greeting, then answers each line that it reads with the next of `answers`, then closes.
    fn fake(greeting: &'static str, answers: &'static [&'static str]) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(format!("{greeting}\r\n").as_bytes()).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut seen = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = lines.next() else { break };
                seen.push(line);
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        Fake { _dir: dir, path, thread }
    }

    #[test]
    fn commands_are_answered_past_events_and_across_short_reads() {
        let fake = fake(
            GREETING,
            &[
                "{\"return\": {}}\r\n",
                "{\"timestamp\": {}, \"event\": \"RESUME\"}\r\n{\"return\": {\"status\": \"paused\", \"running\": false}}\r\n",
                "{\"return\": {}}\n",
            ],
        );
        let mut qmp = Qmp::connect(&fake.path, LONG).unwrap();
        assert_eq!(qmp.version(), "7.2.22");
        assert_eq!(qmp.status().unwrap(), "paused");
        qmp.power_button().unwrap();
        assert_eq!(
            fake.thread.join().unwrap(),
            [
                r#"{"execute":"qmp_capabilities"}"#,
                r#"{"execute":"query-status"}"#,
                r#"{"execute":"system_powerdown"}"#
            ]
        );
    }

    #[test]
    fn rates_are_a_property_of_an_object() {
        use fireclaw_core::spec::Rates;

        use crate::vmm::Vmm as _;
        let fake = fake(GREETING, &["{\"return\": {}}\n", "{\"return\": {}}\n"]);
        let qemu =
            crate::qemu::Qemu::new(std::sync::Arc::new(crate::exec::fake::FakeExec::silent())).unwrap();
        let rates = Rates { net_mbit: Some(9), disk_iops: Some(200), disk_mbyte: None };
        qemu.set_rates(&fake.path, &rates).unwrap();
        let seen: Value = serde_json::from_str(&fake.thread.join().unwrap()[1]).unwrap();
        assert_eq!(
            seen,
            json!({"execute": "qom-set", "arguments": {"path": "/objects/disk-limits", "property": "limits",
                "value": {"iops-total": 200, "bps-total": 0}}})
        );
    }

    #[test]
    fn a_refusal_comes_through_in_qemus_words() {
        let fake = fake(
            GREETING,
            &["{\"return\": {}}\n", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n"],
        );
        let error = Qmp::connect(&fake.path, LONG).unwrap().cont().unwrap_err();
        assert_eq!(error.one_line(), format!("cannot run cont in QEMU at {}: not now", fake.path.display()));
    }

    #[test]
    fn an_end_in_the_middle_is_said() {
        let fake = fake(GREETING, &["{\"return\": {}}\n"]);
        let error = Qmp::connect(&fake.path, LONG).unwrap().status().unwrap_err();
        let text = error.one_line();
        assert!(
            text.contains("closed the connection")
                || ["Broken pipe", "reset"].iter().any(|why| text.contains(why)),
            "{text}"
        );
    }

    #[test]
    fn silence_costs_the_deadline_and_strangers_are_not_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let begun = Instant::now();
        let error = Qmp::connect(&path, SOON).unwrap_err();
        assert!(error.one_line().contains("no answer within"), "{}", error.one_line());
        assert!(begun.elapsed() < Duration::from_secs(5));

        for greeting in ["{\"hello\": 1}", "SSH-2.0-x"] {
            let fake = fake(greeting, &[]);
            assert!(Qmp::connect(&fake.path, LONG).is_err(), "{greeting}");
        }
        assert!(Qmp::connect(Path::new("/nonexistent/qmp.sock"), LONG).is_err());
    }

    #[test]
    fn a_server_that_drips_does_not_outlast_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b" ").is_ok() {
                crate::wait::pause_for(Duration::from_millis(20));
            }
        });
        let begun = Instant::now();
        assert!(Qmp::connect(&path, SOON).is_err());
        assert!(begun.elapsed() < Duration::from_secs(5));
        thread.join().unwrap();
    }
}
