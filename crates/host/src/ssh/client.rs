//! The real [`GuestShell`]: OpenSSH's client. Starts programs; touches the control socket and the file
//! of the pinned host key.

use std::{
    ffi::OsString,
    fs::File,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fireclaw_core::error::{Context, Error, Kind, Result};

use super::{Guest, GuestShell, LoginState, banner, check_words, control, refusal};
use crate::{
    exec::{Cmd, Exec, Output, Stdin, Stream, SystemExec, handover},
    fs,
    interrupt::Interrupt,
    proc::ProcessId,
};

/// TCP, key exchange and all, in a guest that is emulated and busy booting.
const CONNECT_SECONDS: u32 = 20;
/// One attempt to log in, with a command that does nothing.
const LOGIN: Duration = Duration::from_secs(40);
/// A program of some tens of megabytes into an emulated guest.
const PUSH: Duration = Duration::from_mins(10);
/// How long the master outlives its last session: enough for what an invocation does in between, little enough when
/// the invocation was killed.
const PERSIST_SECONDS: u32 = 15;
/// What the client exits with when it is the connection that failed. A command may exit with it too.
const CLIENT_FAILED: i32 = 255;

/// Guests by way of `ssh`.
pub struct SystemShell {
    exec: Arc<dyn Exec>,
    /// Never interrupted: the master must end also when we are being stopped.
    closing: SystemExec,
    opened: Mutex<Vec<Guest>>,
}

/// Which host key the client takes.
#[derive(Clone, Copy)]
enum Trust<'a> {
    /// The pinned one.
    Pinned,
    /// Any, written to this file.
    First(&'a Path),
}

impl SystemShell {
    /// `exec` runs `ssh`.
    pub fn new(exec: Arc<dyn Exec>) -> Self {
        Self { exec, closing: SystemExec::default(), opened: Mutex::default() }
    }

    /// The client with all it must know but the host and what to do there.
    fn client(guest: &Guest, trust: Trust<'_>) -> Result<Cmd> {
        let (known_hosts, strict) = match trust {
            Trust::Pinned => (guest.known_hosts.as_path(), "yes"),
            Trust::First(candidate) => (candidate, "accept-new"),
        };
        for path in [&guest.key, known_hosts, &guest.control] {
            check_path(path)?;
        }
        let option = |name: &str, value: &Path| {
            let mut text = OsString::from(name);
            text.push("=");
            text.push(value);
            text
        };
        Ok(Cmd::new("ssh")
            // Nobody's configuration, agent or other keys.
            .args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
            .arg("-i")
            .arg(&guest.key)
            .args(["-o", "BatchMode=yes", "-o", "PreferredAuthentications=publickey"])
            // The way to the guest is a link of this host, where nobody records for a quantum computer. What OpenSSH 9 prefers costs it
            // a tenth of a second of processor time at every login. Servers that do not know this one get what they know.
            .args(["-o", "KexAlgorithms=^curve25519-sha256"])
            .args(["-o", "ClearAllForwardings=yes", "-o", "ForwardAgent=no", "-o", "ForwardX11=no"])
            .arg("-o")
            .arg(option("UserKnownHostsFile", known_hosts))
            .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "UpdateHostKeys=no"])
            .args(["-o", "HashKnownHosts=no", "-o", &format!("StrictHostKeyChecking={strict}")])
            .args(["-o", "LogLevel=ERROR", "-o", &format!("ConnectTimeout={CONNECT_SECONDS}")])
            .args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"])
            .args(["-o", &format!("ControlPersist={PERSIST_SECONDS}"), "-o"])
            .arg(option("ControlPath", &guest.control))
            .args(["-p", &guest.port.to_string(), "-l", &guest.user]))
    }

    /// A client that uses the master, and becomes it when there is none.
    fn shared(&self, guest: &Guest, trust: Trust<'_>) -> Result<Cmd> {
        if let Some(folder) = guest.control.parent() {
            fs::ensure_private_dir(folder)?;
        }
        let mut opened = self.opened.lock().expect("no panic while held");
        if !opened.contains(guest) {
            opened.push(guest.clone());
        }
        Ok(Self::client(guest, trust)?.args(["-o", "ControlMaster=auto"]))
    }

    /// The master's process, when one answers on the control socket.
    fn master(&self, guest: &Guest) -> Result<Option<ProcessId>> {
        if !guest.control.exists() {
            return Ok(None);
        }
        let cmd = Self::client(guest, Trust::Pinned)?.args(["-O", "check", "--", &guest.ip.to_string()]);
        let output = self.closing.run(cmd.deadline(Duration::from_secs(5)))?;
        // "Master running (pid=123)", on standard error.
        let said = String::from_utf8_lossy(&output.stderr);
        let pid = said.split_once("pid=").and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
        Ok(pid.filter(|_| output.status.success()).and_then(ProcessId::of))
    }

    /// Makes sure of a master, for what cannot be tried again.
    fn connect(&self, guest: &Guest) -> Result<()> {
        if self.master(guest)?.is_some() {
            return Ok(());
        }
        match self.login(guest)? {
            LoginState::In => Ok(()),
            LoginState::NotYet(why) => {
                Err(refusal::failed(guest).because(why).hint("`fireclaw status` shows whether the VM runs"))
            }
            LoginState::Denied(error) | LoginState::OtherHostKey(error) => Err(error),
        }
    }

    /// The client for a command on our own streams. It never becomes the master: its end would be the master's.
    pub(super) fn attached(guest: &Guest, words: &[String], tty: Option<bool>) -> Result<Cmd> {
        let ours = || std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        // Twice the letter: also when we have none ourselves.
        let terminal = if tty.unwrap_or_else(ours) { "-tt" } else { "-T" };
        let cmd = Self::client(guest, Trust::Pinned)?
            .args(["-o", "ControlMaster=no", terminal, "--", &guest.ip.to_string()])
            .args(words)
            .about(format!("the guest at {}", guest.ip));
        Ok(match std::env::var_os("TERM") {
            Some(kind) => cmd.env("TERM", kind),
            None => cmd,
        })
    }

    fn try_login(&self, guest: &Guest, trust: Trust<'_>) -> Result<LoginState> {
        let cmd = self.shared(guest, trust)?.args(["-T", "--", &guest.ip.to_string(), "true"]);
        match self.exec.run(cmd.deadline(LOGIN).about(format!("the guest at {}", guest.ip))) {
            Ok(output) if output.status.success() => Ok(LoginState::In),
            Ok(output) if output.code() == CLIENT_FAILED => {
                Ok(refusal::read(guest, &String::from_utf8_lossy(&output.stderr)))
            }
            Ok(output) => Ok(LoginState::NotYet(format!(
                "its shell ended with {}: {}",
                output.code(),
                output.last_words()
            ))),
            Err(error) if error.get_kind() == Kind::Failed => {
                // The deadline: a master whose guest is gone would hold up the next attempt as well.
                self.close(guest)?;
                Ok(LoginState::NotYet(error.one_line()))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an exit code of 255 was the connection's and not the command's.
    fn lost(&self, guest: &Guest, code: i32) -> Result<bool> {
        Ok(code == CLIENT_FAILED && self.master(guest)?.is_none())
    }
}

impl GuestShell for SystemShell {
    fn login(&self, guest: &Guest) -> Result<LoginState> {
        if !guest.key.is_file() {
            return Err(refusal::failed(guest)
                .because(format!("there is no key {}", guest.key.display()))
                .hint("SSH_KEY_PATH must name the key that the instance was made with"));
        }
        if !guest.control.exists()
            && let Err(why) = banner::answers(guest.address())
        {
            return Ok(LoginState::NotYet(why));
        }
        if is_pinned(&guest.known_hosts)? {
            return self.try_login(guest, Trust::Pinned);
        }
        // The client writes a key down before it knows whether it is let in. Only a login that succeeds pins it.
        let candidate = candidate_for(&guest.known_hosts);
        fs::remove_file(&candidate)?;
        let state = self.try_login(guest, Trust::First(&candidate));
        let seen = fs::read_if_there(&candidate)?;
        fs::remove_file(&candidate)?;
        if let (Ok(LoginState::In), Some(seen)) = (&state, seen) {
            fs::write(&guest.known_hosts, seen.as_bytes(), 0o600)?;
        }
        state
    }

    fn run(
        &self,
        guest: &Guest,
        words: &[&str],
        stdin: Stdin,
        deadline: Duration,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Output> {
        check_words(words)?;
        if !is_pinned(&guest.known_hosts)? {
            self.connect(guest)?;
        }
        let about = format!("`{}` in the guest at {}", words.join(" "), guest.ip);
        let mut cmd = self
            .shared(guest, Trust::Pinned)?
            .args(["-T", "--", &guest.ip.to_string()])
            .args(words)
            .deadline(deadline)
            .about(&about);
        cmd.stdin = stdin;
        let output = self.exec.stream(cmd, on_line)?;
        if self.lost(guest, output.code())? {
            let error = Error::new("run", about);
            return Err(match refusal::read(guest, &String::from_utf8_lossy(&output.stderr)) {
                LoginState::Denied(source) | LoginState::OtherHostKey(source) => error.source(source),
                LoginState::NotYet(why) => {
                    error.because(why).hint("`fireclaw status` shows whether the VM runs")
                }
                LoginState::In => error,
            });
        }
        Ok(output)
    }

    fn attach(&self, guest: &Guest, words: &[String], tty: Option<bool>) -> Result<u8> {
        self.connect(guest)?;
        let cmd = Self::attached(guest, words, tty)?;
        let code = handover::attach(&cmd)?;
        if self.lost(guest, i32::from(code))? {
            return Err(Error::new("keep", format!("the connection to the guest at {}", guest.ip))
                .because("it broke")
                .hint("`fireclaw status` shows whether the VM runs"));
        }
        Ok(code)
    }

    fn push(&self, guest: &Guest, file: &Path, target: &str) -> Result<()> {
        let source = File::open(file).context("open", file.display())?;
        let part = format!("{target}.part");
        let steps: [(&[&str], Stdin); 2] = [
            (&["sudo", "-n", "install", "-D", "-m", "0755", "/dev/stdin", &part], Stdin::File(source)),
            (&["sudo", "-n", "mv", "-f", "-T", "--", &part, target], Stdin::Null),
        ];
        for (words, stdin) in steps {
            let output = self.run(guest, words, stdin, PUSH, &mut |_, _| {})?;
            if !output.status.success() {
                return Err(Error::new("copy", format!("{} to {target} in the guest", file.display()))
                    .because(format!("exit code {}: {}", output.code(), output.last_words())));
            }
        }
        Ok(())
    }

    fn close(&self, guest: &Guest) -> Result<()> {
        self.opened.lock().expect("no panic while held").retain(|opened| opened != guest);
        let master = self.master(guest)?;
        if let Some(process) = master {
            let cmd = Self::client(guest, Trust::Pinned)?.args(["-O", "exit", "--", &guest.ip.to_string()]);
            self.closing.run(cmd.deadline(Duration::from_secs(5)))?;
            let what = "the SSH connection";
            if process.wait_gone(what, Duration::from_secs(2), &Interrupt::default()).is_err() {
                process.end(what, Duration::from_secs(1))?;
            }
        }
        // A master that was killed leaves its socket.
        fs::remove_file(&guest.control)?;
        self.close_for_the_dead(guest)
    }
}

impl SystemShell {
    /// Ends what invocations that were killed left of the same guest.
    fn close_for_the_dead(&self, guest: &Guest) -> Result<()> {
        for socket in control::all(&guest.control)? {
            if ProcessId::of(socket.owner).is_some() {
                continue;
            }
            if socket.is_ready {
                self.close(&Guest { control: socket.path, ..guest.clone() })?;
            } else {
                fs::remove_file(&socket.path)?;
            }
        }
        Ok(())
    }
}

impl Drop for SystemShell {
    fn drop(&mut self) {
        let opened = std::mem::take(&mut *self.opened.lock().expect("no panic while held"));
        for guest in opened {
            let _ = self.close(&guest);
        }
    }
}

/// The file is of one guest: any entry in it is that guest's.
fn is_pinned(known_hosts: &Path) -> Result<bool> {
    let text = fs::read_if_there(known_hosts)?.unwrap_or_default();
    Ok(text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#')))
}

fn candidate_for(known_hosts: &Path) -> PathBuf {
    let mut name = known_hosts.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// OpenSSH reads blanks, quotes, `%`, `$` and a leading `~` in its options' paths as something else.
fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let odd =
        |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"\"'%$\\#,".contains(byte);
    if path.is_absolute() && !bytes.iter().any(odd) {
        return Ok(());
    }
    Err(Error::new("use", format!("{} with SSH", path.display()))
        .kind(Kind::Refused)
        .because("OpenSSH takes only absolute paths without blanks, quotes and the characters % $ # , \\")
        .hint("choose other STATE_ROOT and SSH_KEY_PATH"))
}
