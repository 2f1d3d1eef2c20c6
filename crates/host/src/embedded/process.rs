//! The processes of an instance: started or taken over, ended with what they left, and found again when no record names
//! them. Starts programs, sends signals.

use std::{
    fs::File,
    path::Path,
    process::{Child, ExitStatus},
    time::Duration,
};

use fireclaw_core::error::{Context, Result};
use nix::{
    sys::signal::killpg,
    unistd::{Pid, getpgid},
};
use rustix::process::Signal;

use super::{
    files::Files,
    pidfd::{Held, writers},
};
use crate::{
    exec::{Cmd, handover},
    proc::ProcessId,
};

/// A process that runs: our child, or one that was taken over.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) held: Held,
    child: Option<Child>,
}

impl Running {
    /// One that was taken over.
    pub(super) const fn taken_over(held: Held) -> Self {
        Self { held, child: None }
    }

    /// Starts a child with its output in `output`.
    pub(super) fn spawn(cmd: &Cmd, output: &File) -> Result<Self> {
        let child = handover::spawn(cmd, Some(output))?;
        Ok(Self { held: Held::child(&child)?, child: Some(child) })
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // It is gone, or it is not ours to signal: either way its end, or the deadline, comes next.
        let _ = self.held.signal(signal);
    }

    /// SIGKILL, for what it started in its group as well: a child that we have not collected keeps the group's number.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
        if self.child.is_some() {
            let _ = killpg(Pid::from_raw(self.held.id.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Collects a process that has ended, and ends what it left running: in its group while that cannot be another's, else
    /// whatever still writes to `output`.
    pub(super) fn status(mut self, output: &Path) -> Option<ExitStatus> {
        if let Some(child) = &mut self.child {
            let _ = killpg(Pid::from_raw(self.held.id.pid), nix::sys::signal::Signal::SIGKILL);
            return child.wait().ok();
        }
        let status = self.held.exit_status();
        let _ = end_writers(output);
        status
    }
}

/// The process of a service that was started and not written down: the leader of the group that it was started in. What
/// is left of one whose leader is gone is ended: it would stand in the way of the next.
pub(super) fn find_unrecorded(output: &Path) -> Result<Option<ProcessId>> {
    let leads = |process: &ProcessId| {
        let pid = Pid::from_raw(process.pid);
        getpgid(Some(pid)) == Ok(pid)
    };
    let leader = writers(output)?.into_iter().find(leads);
    if leader.is_none() {
        end_writers(output)?;
    }
    Ok(leader)
}

fn end_writers(output: &Path) -> Result<()> {
    writers(output)?
        .into_iter()
        .try_for_each(|process| process.end("what an ended process left", Duration::ZERO))
}

/// Ends helpers that a supervisor before us left behind: one that cleans must not do so under a VM that we start.
pub(super) fn end_orphaned_helpers(files: &Files) -> Result<()> {
    end_writers(&files.helper_log).context("take over", "the instance")
}
