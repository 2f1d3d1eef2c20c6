//! One connection to systemd's manager and the calls on it, each with a deadline. Speaks D-Bus on a socket that it is given.
//!
//! The interface is org.freedesktop.systemd1(5), on the system's bus. The socket of its own that systemd has beside is
//! not for others, says systemd(1).

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use zbus::{
    Connection, DBusError as _, DynamicType, MatchRule, Message, MessageStream, OwnedObjectPath,
    OwnedVariant, Type, connection::Builder, message,
};

use crate::interrupt::Interrupt;

pub(super) const NAME: &str = "org.freedesktop.systemd1";
pub(super) const PATH: &str = "/org/freedesktop/systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Jobs of others that may end while we wait for ours.
const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How often a wait looks whether it was interrupted.
const TICK: Duration = Duration::from_millis(100);

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A bus on which systemd has its name.
    Bus,
    /// The manager itself, with no bus in between.
    #[cfg(test)]
    Manager,
}

/// Why a call did not do what it was to do.
#[derive(Debug)]
pub(super) enum Trouble {
    /// systemd said no: the error's name and its text.
    Refused(String, String),
    /// The connection is gone, or what came over it was no D-Bus.
    Lost(String),
    /// No answer within so long.
    Slow(Duration),
    /// Somebody asked us to stop.
    Interrupted(fireclaw_core::error::Error),
}

impl Trouble {
    /// Whether the unit that the call was about is not known.
    pub(super) fn is_no_such_unit(&self) -> bool {
        const NAMES: [&str; 4] = [
            "org.freedesktop.systemd1.NoSuchUnit",
            "org.freedesktop.systemd1.NoSuchUnitFile",
            "org.freedesktop.DBus.Error.FileNotFound",
            "org.freedesktop.DBus.Error.UnknownObject",
        ];
        matches!(self, Self::Refused(name, _) if NAMES.contains(&name.as_str()))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(name, text) if text.is_empty() => write!(f, "systemd answered {name}"),
            Self::Refused(_, text) => f.write_str(text.trim_end_matches('.')),
            Self::Lost(why) => write!(f, "the connection to systemd was lost: {why}"),
            Self::Slow(patience) => write!(f, "systemd did not answer within {patience:?}"),
            Self::Interrupted(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<zbus::Error> for Trouble {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => {
                Self::Refused(name.to_string(), text.unwrap_or_default())
            }
            zbus::Error::FDO(error) => {
                Self::Refused(error.name().to_string(), error.description().unwrap_or_default().to_owned())
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

/// A unit as `ListUnits…` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) active: String,
}

/// The wire form of [`Listed`]: name, description, load, active and sub state, followed, path, job's id, kind and path.
type Row = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
/// A change of the unit files: kind, link, target.
type Change = (String, String, String);

/// What is started and watched by a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    Start,
    Stop,
}

impl JobKind {
    const fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
        }
    }
}

/// A job that is under way.
pub(super) struct Job {
    path: OwnedObjectPath,
    ends: MessageStream,
    /// The bus name that answered: on a bus anybody can send a signal that looks like systemd's.
    sender: Option<String>,
}

/// A connection. Lives inside one tokio runtime.
pub(super) struct Bus {
    connection: Connection,
    patience: Duration,
}

impl Bus {
    pub(super) async fn open(stream: UnixStream, peer: Peer, patience: Duration) -> Result<Self, Trouble> {
        let builder = match peer {
            Peer::Bus => Builder::unix_stream(stream),
            #[cfg(test)]
            Peer::Manager => Builder::unix_stream(stream).p2p(),
        };
        let connection = within(patience, builder.build()).await?;
        Ok(Self { connection, patience })
    }

    async fn ask(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<Message, Trouble> {
        let call = self.connection.call_method(Some(NAME), path, Some(interface), method, body);
        within(self.patience, call).await
    }

    async fn call<R: DeserializeOwned + Type>(
        &self,
        method: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<R, Trouble> {
        let reply = self.ask(PATH, MANAGER, method, body).await?;
        Ok(reply.body().deserialize()?)
    }

    /// A property of the manager.
    pub(super) async fn version(&self) -> Result<String, Trouble> {
        let reply = self.ask(PATH, PROPERTIES, "Get", &(MANAGER, "Version")).await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        String::try_from(value).map_err(|error| Trouble::Lost(error.to_string()))
    }

    /// Has systemd read all unit files again. It answers when that is done.
    pub(super) async fn reload(&self) -> Result<(), Trouble> {
        self.ask(PATH, MANAGER, "Reload", &()).await.map(drop)
    }

    /// Has a unit started at boot.
    pub(super) async fn enable(&self, unit: &str) -> Result<(), Trouble> {
        let _: (bool, Vec<Change>) = self.call("EnableUnitFiles", &([unit].as_slice(), false, true)).await?;
        Ok(())
    }

    /// Has a unit not started at boot. True when it was before.
    pub(super) async fn disable(&self, unit: &str) -> Result<bool, Trouble> {
        let changes: Vec<Change> = self.call("DisableUnitFiles", &([unit].as_slice(), false)).await?;
        Ok(!changes.is_empty())
    }

    /// Forgets failures and how often a unit was started. One that is not loaded has nothing to forget.
    pub(super) async fn reset_failed(&self, unit: &str) -> Result<(), Trouble> {
        match self.ask(PATH, MANAGER, "ResetFailedUnit", &(unit,)).await {
            Err(trouble) if trouble.is_no_such_unit() => Ok(()),
            other => other.map(drop),
        }
    }

    /// SIGKILL for every process of a unit. One that is not loaded, or has none, is fine.
    pub(super) async fn kill(&self, unit: &str) -> Result<(), Trouble> {
        match self.ask(PATH, MANAGER, "KillUnit", &(unit, "all", nix::libc::SIGKILL)).await {
            Err(Trouble::Refused(..)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The loaded ones among the units with these names.
    pub(super) async fn list(&self, patterns: &[&str]) -> Result<Vec<Listed>, Trouble> {
        let none: &[&str] = &[];
        let rows: Vec<Row> = self.call("ListUnitsByPatterns", &(none, patterns)).await?;
        Ok(rows.into_iter().map(|row| Listed { name: row.0, active: row.3 }).collect())
    }

    /// All properties of a unit, read from its file where it is not loaded.
    pub(super) async fn properties(&self, unit: &str) -> Result<HashMap<String, OwnedVariant>, Trouble> {
        let path: OwnedObjectPath = self.call("LoadUnit", &(unit,)).await?;
        let reply = self.ask(path.as_str(), PROPERTIES, "GetAll", &("",)).await?;
        Ok(reply.body().deserialize()?)
    }

    /// Whether systemd goes by an older file of a unit than there is. One that it has not loaded, as of an instance that is
    /// stopped, it reads when it is asked for. To look at one property of a unit costs it a search for all of the unit's
    /// files, so nothing more is asked, and nothing is loaded for it.
    pub(super) async fn needs_reload(&self, unit: &str) -> Result<bool, Trouble> {
        let path: OwnedObjectPath = match self.call("GetUnit", &(unit,)).await {
            Err(trouble) if trouble.is_no_such_unit() => return Ok(false),
            other => other?,
        };
        let reply = self.ask(path.as_str(), PROPERTIES, "Get", &(UNIT, "NeedDaemonReload")).await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        bool::try_from(value).map_err(|error| Trouble::Lost(error.to_string()))
    }

    /// Has a unit started or stopped, instead of what else is to be done with it.
    pub(super) async fn begin(&self, kind: JobKind, unit: &str) -> Result<Job, Trouble> {
        // systemd sends signals while somebody wants them. The stream comes first, so that no end is missed that comes
        // before the answer.
        self.ask(PATH, MANAGER, "Subscribe", &()).await?;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .path(PATH)
            .build()?;
        let ends =
            within(self.patience, MessageStream::for_match_rule(rule, &self.connection, Some(QUEUE))).await?;
        let reply = self.ask(PATH, MANAGER, kind.method(), &(unit, "replace")).await?;
        let sender = reply.header().sender().map(ToString::to_string);
        Ok(Job { path: reply.body().deserialize()?, ends, sender })
    }
}

impl Job {
    /// Waits for the end of the job and gives its result: `done`, `failed`, `timeout`, `canceled`, `dependency`…
    pub(super) async fn end(&mut self, deadline: Duration, interrupt: &Interrupt) -> Result<String, Trouble> {
        let begun = Instant::now();
        loop {
            interrupt.check().map_err(Trouble::Interrupted)?;
            let left = deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Trouble::Slow(deadline));
            }
            let Ok(next) = tokio::time::timeout(left.min(TICK), self.ends.next()).await else { continue };
            let Some(message) = next else { return Err(Trouble::Lost("it was closed".to_owned())) };
            let message = message?;
            if message.header().sender().map(ToString::to_string) != self.sender {
                continue;
            }
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                message.body().deserialize()?;
            if path == self.path {
                return Ok(result);
            }
        }
    }
}

async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, zbus::Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(patience, work).await {
        Ok(result) => result.map_err(Trouble::from),
        Err(_) => Err(Trouble::Slow(patience)),
    }
}
