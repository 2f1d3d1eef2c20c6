//! What happens to a service and what is done about it: the words that [`super::machine`] is spoken to in.

use std::time::Duration;

/// How a service's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code, and the last that it said where that tells something.
    Code(i32, Option<String>),
    /// By this signal.
    Signal(i32),
    /// Unseen: it was not our child, or it ended while there was no supervisor.
    Unknown,
    /// It did not begin, and why.
    NotStarted(String),
}

impl End {
    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Code(code, None) => format!("ended with exit code {code}"),
            Self::Code(code, Some(words)) => format!("ended with exit code {code}, its last words: {words}"),
            Self::Signal(signal) => format!("ended by signal {signal}"),
            Self::Unknown => "ended unseen".to_owned(),
            Self::NotStarted(why) => why.clone(),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody wants it to run.
    Start,
    /// A new supervisor found it wanted and not running.
    Resume,
    /// A new supervisor found its process.
    Adopt,
    /// A new supervisor found it unwanted, not running, and maybe not cleaned up after.
    Tidy,
    /// Somebody wants it down, gracefully for so long.
    Stop(Duration),
    /// Its process runs.
    Began,
    /// Its process ended, or did not begin.
    Ended(End),
    /// The helper (`clean` or `halt`) ended, with success or not.
    Helped(bool),
    /// The moment that the machine wants to be woken at has come.
    Time,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start `fireclaw clean` as the helper.
    Clean,
    /// Start `fireclaw halt` as the helper.
    Halt,
    /// Start the service's process.
    Run,
    /// SIGTERM for the process.
    Terminate,
    /// SIGKILL for the process.
    Kill,
    /// SIGTERM for the helper.
    EndHelper,
    /// SIGKILL for the helper.
    KillHelper,
    /// SIGTERM for both: `halt` has had its time.
    TerminateAll,
}
