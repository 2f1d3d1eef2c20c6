//! What is written down of a service, so that a status costs one read and a supervisor can be replaced.

use std::path::Path;

use fireclaw_core::{
    error::{Context, Result},
    id::InstanceId,
};
use serde::{Deserialize, Serialize};

use crate::{
    fs,
    proc::ProcessId,
    supervisor::{ServiceStatus, State},
};

/// The format of the file; a later one may add fields.
const FORMAT: u32 = 1;

/// `vm.json` or `proxy.json`. Written by the supervisor at every change, whole and durably; written by a command only
/// while it holds the supervisor's lock, that is while there is no supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// Whether somebody wants the service to run.
    pub(super) wanted: bool,
    /// How it was when this was written.
    pub(super) state: State,
    /// Its process.
    pub(super) process: Option<ProcessId>,
    /// How often it was started again since it was started on purpose.
    pub(super) restarts: u32,
    /// Why it is in that state.
    pub(super) detail: Option<String>,
    /// How it ended the last time.
    pub(super) last_end: Option<LastEnd>,
    /// Who wrote this.
    pub(super) supervisor: Option<ProcessId>,
    /// The kernel's name of this boot: pids and start times of another one mean nothing.
    pub(super) boot: String,
}

/// An end of the service's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastEnd {
    /// RFC 3339, UTC.
    pub(super) at: String,
    /// "ended by signal 9"
    pub(super) how: String,
}

impl Record {
    /// A service that never ran.
    pub(super) fn new(boot: &str) -> Self {
        Self {
            format: FORMAT,
            wanted: false,
            state: State::Inactive,
            process: None,
            restarts: 0,
            detail: None,
            last_end: None,
            supervisor: None,
            boot: boot.to_owned(),
        }
    }

    /// Reads a record; `None` when there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = fs::read_if_there(path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).context("read", path.display())
    }

    /// Writes it durably.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context("render", path.display())?;
        text.push(b'\n');
        fs::write(path, &text, 0o600)
    }

    /// The service's process, if it is of this boot and still runs.
    pub(super) fn running(&self, boot: &str) -> Option<ProcessId> {
        self.process.filter(|process| self.boot == boot && process.is_alive())
    }

    /// The supervisor that wrote this, if it is of this boot and still runs.
    pub(super) fn supervised_by(&self, boot: &str) -> Option<ProcessId> {
        self.supervisor.filter(|process| self.boot == boot && process.is_alive())
    }

    /// Whether a supervisor has something to do: a service to run, or one to bring to its end.
    pub(super) fn needs_supervisor(&self, boot: &str) -> bool {
        let gave_up = self.state == State::Failed && self.boot == boot;
        let under_way = !matches!(self.state, State::Inactive | State::Failed);
        (self.wanted && !gave_up) || under_way || self.running(boot).is_some()
    }

    /// The state as it is now, seen without asking anybody.
    pub(super) fn status(self, id: &InstanceId, boot: &str) -> ServiceStatus {
        let (process, supervised) = (self.running(boot), self.supervised_by(boot).is_some());
        let at_rest = matches!(self.state, State::Inactive | State::Failed);
        let (state, detail) = match process {
            // It has ended a moment ago, and the supervisor is about to say so.
            None if supervised && self.state == State::Active => (State::Activating, self.detail),
            _ if supervised => (self.state, self.detail),
            Some(_) => {
                (State::Active, Some(format!("its supervisor is gone: `fireclaw start {id}` replaces it")))
            }
            None if self.wanted && self.needs_supervisor(boot) => (
                State::Inactive,
                Some(format!("its supervisor is gone: `fireclaw start {id}` brings both back")),
            ),
            None if at_rest => (self.state, self.detail),
            None => (State::Inactive, None),
        };
        ServiceStatus { state, process, restarts: self.restarts, detail }
    }
}

/// The kernel's name of this boot; empty where /proc does not tell.
pub(super) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}
