//! Commands on the lab's host, as root over SSH. Starts OpenSSH's client.
//!
//! The words of a command are plain: what a shell could read as more goes over standard input, or lies in a file that was
//! copied there.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec, Output, SystemExec, handover},
    interrupt::Interrupt,
    wait::{self, Probed, Requirement},
};

use crate::say;

/// The way in.
pub struct Remote {
    key: PathBuf,
    port: u16,
    control: tempfile::TempDir,
}

impl Remote {
    /// The way in by a key, at a port of this machine.
    pub fn new(key: &Path, port: u16) -> Result<Self> {
        let control = tempfile::tempdir().context("create", "a folder for SSH's socket")?;
        Ok(Self { key: key.to_owned(), port, control })
    }

    fn client(&self) -> Cmd {
        Cmd::new("ssh")
            .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i"])
            .arg(&self.key)
            .args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "Compression=no"])
            // The host is made anew with each disk, and it is on our own loopback.
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=12"])
            .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=120", "-o"])
            .arg(format!("ControlPath={}/ssh", self.control.path().display()))
            .args(["-p", &self.port.to_string(), "root@127.0.0.1"])
    }

    /// Runs a command; any status. Standard input is `input`.
    pub fn ask_with(&self, words: &[&str], input: Vec<u8>, deadline: Duration) -> Result<Output> {
        check(words)?;
        let begun = Instant::now();
        let cmd = self.client().arg("--").args(words).stdin_bytes(input).deadline(deadline);
        let output = SystemExec::default().run(cmd.about(words.join(" ")))?;
        say::detail(&format!(
            "  # {}   [{} in {:.1} s]",
            words.join(" "),
            output.code(),
            begun.elapsed().as_secs_f64()
        ));
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            say::detail(&format!("    {line}"));
        }
        Ok(output)
    }

    /// Runs a command; any status.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        self.ask_with(words, Vec::new(), Duration::from_mins(20))
    }

    /// Runs a command that must succeed and gives its standard output.
    pub fn must(&self, words: &[&str]) -> Result<String> {
        self.must_with(words, Vec::new())
    }

    /// As [`Remote::must`], with standard input.
    pub fn must_with(&self, words: &[&str], input: Vec<u8>) -> Result<String> {
        let output = self.ask_with(words, input, Duration::from_mins(20))?;
        if output.status.success() {
            return Ok(output.text());
        }
        Err(Error::new("run", format!("{} in the lab", words.join(" "))).because(format!(
            "code {}: {}",
            output.code(),
            output.last_words()
        )))
    }

    /// Runs a script of a scenario, with words as its arguments.
    pub fn script(&self, script: &str, words: &[&str]) -> Result<String> {
        let all: Vec<&str> = ["bash", "-seu", "-o", "pipefail", "--"].iter().chain(words).copied().collect();
        self.must_with(&all, script.as_bytes().to_vec())
    }

    /// Copies a file to the host. The content passes through the connection that is there.
    pub fn put(&self, file: &Path, target: &str, mode: &str) -> Result<()> {
        let bytes = std::fs::read(file).context("read", file.display())?;
        self.put_bytes(bytes, target, mode)
    }

    /// Writes a file of the host, whole or not at all: a running program of that name goes on with its own.
    pub fn put_bytes(&self, bytes: Vec<u8>, target: &str, mode: &str) -> Result<()> {
        let part = format!("{target}.part");
        self.must_with(&["dd", "bs=1M", "status=none", &format!("of={part}")], bytes)?;
        self.must(&["chmod", mode, &part])?;
        self.must(&["mv", "-f", &part, target]).map(drop)
    }

    /// A shell on our own terminal, or a command.
    pub fn attach(&self) -> Result<u8> {
        handover::attach(&self.client().arg("-t").inherit_env())
    }

    /// Waits for a login. `alive` fails when there will be none.
    pub fn wait(&self, seconds: u64, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        let requirement = Requirement {
            description: "a login at the lab's host".to_owned(),
            deadline: Duration::from_secs(seconds),
            hint: "see its console".to_owned(),
        };
        wait::until(&requirement, &Interrupt::default(), || {
            if let Err(error) = alive() {
                return Probed::Never(error);
            }
            let cmd = self.client().args(["--", "true"]).deadline(Duration::from_secs(20));
            match SystemExec::default().run(cmd) {
                Ok(output) if output.status.success() => Probed::Ready(()),
                Ok(output) => Probed::NotYet(output.last_words()),
                Err(error) => Probed::NotYet(error.one_line()),
            }
        })
    }

    /// Forgets the connection: the host behind it is going away.
    pub fn close(&self) {
        let _ =
            SystemExec::default().run(self.client().args(["-O", "exit"]).deadline(Duration::from_secs(10)));
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}

/// Refuses what a shell would read as anything but itself.
fn check(words: &[&str]) -> Result<()> {
    let plain = |word: &&str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@,+%".contains(&byte))
    };
    match words.iter().find(|word| !plain(word)) {
        None => Ok(()),
        Some(word) => {
            Err(Error::new("run", "a command in the lab").because(format!("`{word}` is no plain word")))
        }
    }
}
