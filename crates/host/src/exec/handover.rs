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
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
};

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

/// Starts the program in a session of its own with its output in `log`, and leaves it. It gets none of our other
/// descriptors: whoever holds a lock or a pipe open for as long as we run must not wait for what we leave behind.
pub fn detach(cmd: &Cmd, log: &File) -> Result<u32> {
    let mut command = command(cmd);
    let out = log.try_clone().context("share", "a log file")?;
    let err = log.try_clone().context("share", "a log file")?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    // SAFETY: between fork and exec only setsid(2) and close_range(2) are called. Both are async-signal-safe and touch no
    // memory of ours. Descriptors are marked and not closed, for the library still reports a failed exec through one.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // From Linux 5.11 on; an older kernel refuses, and what we were given stays open as it would by default.
            let _ = libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        interrupt::Interrupt,
        wait::{Probed, Requirement, until},
    };

    #[test]
    fn what_is_left_behind_holds_nothing_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let held = File::create(dir.path().join("held")).unwrap();
        fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        detach(&Cmd::new("ls").args(["-l", "/proc/self/fd", "/proc/self/exe"]), &log).unwrap();
        let requirement = Requirement {
            description: "a list of descriptors".into(),
            deadline: std::time::Duration::from_secs(20),
            hint: String::new(),
        };
        let listed = until(&requirement, &Interrupt::default(), || {
            let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
            if text.contains("log") && text.contains("/proc/self/exe") {
                Probed::Ready(text)
            } else {
                Probed::NotYet(text)
            }
        })
        .unwrap();
        assert!(!listed.contains("held"), "{listed}");
    }
}
