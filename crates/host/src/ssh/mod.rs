//! The way into a guest: OpenSSH's client as a child, one multiplexed connection for each invocation of fireclaw.
//!
//! ```text
//!   login ──> (master connection, kept by OpenSSH) ──> run, push, attach … ──> close
//! ```
//!
//! The master is a process of OpenSSH's own. [`GuestShell::close`] ends it, dropping the [`SystemShell`] does too, and
//! where neither happens (kill -9) it ends itself seconds after its last use.

mod banner;
mod client;
pub mod control;
mod refusal;
mod wait;

#[cfg(any(test, feature = "fakes"))]
pub mod fake;
#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::error::{Error, Result};

pub use self::{client::SystemShell, wait::wait_for_login};
use crate::{
    exec::{Output, Stdin, Stream},
    wait::Probed,
};

/// Where a guest is and how we are known to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The port of its sshd: 22.
    pub port: u16,
    /// Whom we log in as.
    pub user: String,
    /// Our private key.
    pub key: PathBuf,
    /// The guest's pinned host key. While there is none, the first login that succeeds pins the one it saw.
    pub known_hosts: PathBuf,
    /// The socket of the master connection. It must be this invocation's alone: closing it ends every session on it.
    pub control: PathBuf,
}

impl Guest {
    /// Where its sshd listens.
    pub fn address(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }
}

/// How an attempt to log in ended.
#[derive(Debug)]
pub enum LoginState {
    /// We are in, and the connection stays open for what follows.
    In,
    /// Not yet: nothing listens, no route, no answer, or a guest that still boots. Says which.
    NotYet(String),
    /// The guest does not take our key. While cloud-init has not put it there yet this can pass.
    Denied(Error),
    /// The guest shows another host key than the pinned one.
    OtherHostKey(Error),
}

impl LoginState {
    /// For [`crate::wait::until`] on a guest that has booted already: a refusal is final.
    pub fn probed(self) -> Probed<()> {
        match self {
            Self::In => Probed::Ready(()),
            Self::NotYet(why) => Probed::NotYet(why),
            Self::Denied(error) | Self::OtherHostKey(error) => Probed::Never(error),
        }
    }
}

/// Commands in a guest.
pub trait GuestShell: Send + Sync {
    /// Tries once to log in. While nothing answers that costs one TCP connect of at most 300 ms.
    fn login(&self, guest: &Guest) -> Result<LoginState>;

    /// Runs a command. `words` are constants and names that a shell reads as they are; any other is an error. Any exit
    /// status is an `Ok`; an `Err` is a connection that failed, a deadline, or an interruption. After the last two the
    /// command may run on in the guest.
    fn run(
        &self,
        guest: &Guest,
        words: &[&str],
        stdin: Stdin,
        deadline: Duration,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Output>;

    /// Gives our own terminal or pipes to a command, or to a login shell when there are no words, and returns its exit
    /// code. The words are the user's: joined by spaces and read by the guest's shell, as `ssh` does. `tty`: whether the
    /// command gets a terminal; `None` when we have one at both ends.
    fn attach(&self, guest: &Guest, words: &[String], tty: Option<bool>) -> Result<u8>;

    /// Copies a program into the guest as root, mode 0755, under its name only when it is complete.
    fn push(&self, guest: &Guest, file: &Path, target: &str) -> Result<()>;

    /// Ends the connection and the process that holds it. None there is fine.
    fn close(&self, guest: &Guest) -> Result<()>;
}

/// Refuses a word that a shell would read as anything but itself.
pub(crate) fn check_words(words: &[&str]) -> Result<()> {
    let plain = |word: &&str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@,+%".contains(&byte))
    };
    match words.iter().find(|word| !plain(word)) {
        None if !words.is_empty() => Ok(()),
        found => Err(Error::new("run", "a command in the guest")
            .because(format!("`{}` is not a plain word", found.unwrap_or(&"").escape_debug()))),
    }
}
