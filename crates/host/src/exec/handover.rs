//! Programs that are not run to their end by us: one that replaces this process, one that is left alone in the
//! background, one that gets the terminal. Starts programs.

use std::{
    convert::Infallible,
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Stdio},
};

use fireclaw_core::error::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{Cmd, run::command};

/// Replaces this process by the program. Returns only when that fails. `keep` lists descriptors that the program
/// inherits under their present numbers.
pub fn replace(cmd: &Cmd, keep: &[OwnedFd]) -> Result<Infallible> {
    for fd in keep {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
            .context("keep open", format!("descriptor {}", fd.as_raw_fd()))?;
    }
    Err(cmd.error().source(command(cmd).exec()))
}

/// Starts the program in a session of its own with its output in `log`, and leaves it.
pub fn detach(cmd: &Cmd, log: &File) -> Result<u32> {
    let mut command = command(cmd);
    let out = log.try_clone().context("share", "a log file")?;
    let err = log.try_clone().context("share", "a log file")?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let child = command.spawn().map_err(|error| cmd.error().source(error))?;
    Ok(child.id())
}

/// Starts a child whose end the caller waits for, in its own process group, with its output in `log` (or dropped).
pub fn spawn(cmd: &Cmd, log: Option<&File>) -> Result<Child> {
    let mut command = command(cmd);
    command.process_group(0).stdin(Stdio::null());
    if let Some(log) = log {
        let out = log.try_clone().context("share", "a log file")?;
        let err = log.try_clone().context("share", "a log file")?;
        command.stdout(out).stderr(err);
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    command.spawn().map_err(|error| cmd.error().source(error))
}

/// Runs the program on our own terminal or pipes and gives its exit code (128 + n for a signal).
pub fn attach(cmd: &Cmd) -> Result<u8> {
    let mut command = command(cmd);
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let status = command.status().map_err(|error| cmd.error().source(error))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}
