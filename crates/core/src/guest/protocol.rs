//! What the host and the guest say to each other: one JSON request on the guest's standard input, one JSON event a line on
//! its standard output. Touches nothing.
//!
//! Either side ignores what it does not know, so a host and a guest of neighbouring versions understand each other;
//! [`VERSION`] rises only when that would do harm. A request is the one place where secrets are serialised.

mod request;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::request::{Keys, ProvisionRequest, Telegram, VERSION};
use crate::error::Error;

/// One line of the guest's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step begins; the one before it is over.
    Step {
        /// "pull ghcr.io/openclaw/openclaw:latest"
        name: String,
    },
    /// A line of a program that the step runs.
    Log {
        /// Without its newline.
        line: String,
    },
    /// Something that the user should know and that stopped nothing.
    Warning {
        /// A sentence.
        text: String,
    },
    /// It is done. The last line.
    Done(Done),
    /// It failed, and the guest is as it was unless an earlier step says otherwise. The last line.
    Error(Failure),
    /// An event of a newer guest.
    #[serde(other)]
    Unknown,
}

/// The end of a provisioning that went well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was written or installed: `openclaw.json`, `environment`, `unit`, `docker`, `image`, `browser`, `user`.
    #[serde(default)]
    pub changed: Vec<String>,
    /// The gateway was started, or stopped and started.
    #[serde(default)]
    pub restarted: bool,
    /// Keys of openclaw.json that somebody changed by hand and that were left so, as JSON pointers.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// An error on its way to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The verb phrase.
    #[serde(default)]
    pub operation: String,
    /// What it was done to.
    #[serde(default)]
    pub object: String,
    /// The causes, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// The next thing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code that belongs to its kind.
    #[serde(default)]
    pub code: u8,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            operation: error.operation().to_owned(),
            object: error.object().to_owned(),
            causes: error.causes(),
            hint: error.get_hint().map(str::to_owned),
            code: error.get_kind().exit_code(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.operation, failure.object);
        if !failure.causes.is_empty() {
            error = error.because(failure.causes.join(": "));
        }
        if let Some(kind) = crate::error::Kind::ALL.into_iter().find(|kind| kind.exit_code() == failure.code)
        {
            error = error.kind(kind);
        }
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What `fireclaw guest stop` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// The gateway no longer runs.
    pub stopped: bool,
    /// It had to be killed: the time was up, or it hung after its last answer.
    #[serde(default)]
    pub killed: bool,
    /// How long it took.
    #[serde(default)]
    pub seconds: u64,
}

/// What `fireclaw guest trim` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimReport {
    /// The memory, in KiB, that came free.
    pub freed_kib: u64,
    /// How much of it is zeros now, so that a snapshot does not hold it.
    pub cleared_kib: u64,
}

/// What `fireclaw guest info` prints. A thing that is not there is null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InfoReport {
    /// The version of the fireclaw that answers.
    pub fireclaw: String,
    /// The distribution's name with its version.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// Node's version.
    pub node: Option<String>,
    /// OpenClaw's version, when the image carries it: the native runtime is possible.
    pub openclaw: Option<String>,
    /// Docker's version.
    pub docker: Option<String>,
    /// The browser's path.
    pub browser: Option<String>,
}

impl fmt::Display for Event {
    /// The event as its line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
