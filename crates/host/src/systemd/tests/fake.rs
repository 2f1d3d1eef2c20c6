//! A systemd that speaks real D-Bus over a socket pair and runs nothing: units are states in memory, files on a real disk.
//! It does wrong on demand.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_util::StreamExt as _;
use zbus::{
    Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant, connection::Builder, message,
};

use super::super::bus::{MANAGER, PATH, Peer};

/// What goes wrong, once each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// This method is answered by an error of this name.
    Refuse(&'static str, &'static str),
    /// This method is never answered.
    Ignore(&'static str),
    /// The next job ends with this result, and its unit in this state.
    JobEnds(&'static str, &'static str),
    /// The next job never ends.
    JobHangs,
    /// The next job's unit is gone before it ends.
    UnitVanishes,
    /// The connection is closed when this method is called.
    Close(&'static str),
    /// The connection is closed while the next job runs; the job ends well all the same.
    CloseDuringJob,
    /// The connection cannot be made.
    NoConnection,
}

#[derive(Debug, Clone)]
struct Unit {
    active: &'static str,
    result: &'static str,
    restarts: u32,
}

#[derive(Default)]
struct State {
    units: BTreeMap<String, Unit>,
    enabled: Vec<String>,
    /// The text of each unit when systemd last read it.
    read: BTreeMap<String, String>,
    faults: Vec<Fault>,
    calls: Vec<String>,
    jobs: u32,
    connections: u32,
}

impl State {
    fn fault(&mut self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(wanted)?;
        Some(self.faults.remove(at))
    }
}

/// Handles to one fake.
#[derive(Clone)]
pub(super) struct FakeSystemd {
    state: Arc<Mutex<State>>,
    units: PathBuf,
}

impl FakeSystemd {
    /// Reads unit files in this folder.
    pub(super) fn new(units: &Path) -> Self {
        Self { state: Arc::default(), units: units.to_owned() }
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push(fault);
    }

    /// The calls that change something, in order, and `ListUnitsByPatterns`.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub(super) fn connections(&self) -> u32 {
        self.state.lock().unwrap().connections
    }

    pub(super) fn is_enabled(&self, unit: &str) -> bool {
        self.state.lock().unwrap().enabled.iter().any(|name| name == unit)
    }

    /// The world changes by itself.
    pub(super) fn set(&self, unit: &str, active: &'static str, result: &'static str, restarts: u32) {
        self.state.lock().unwrap().units.insert(unit.to_owned(), Unit { active, result, restarts });
    }

    /// What `SystemdSupervisor` opens: one end of a pair, whose other end a thread of ours serves.
    pub(super) fn open(&self) -> io::Result<(UnixStream, Peer)> {
        if self.state.lock().unwrap().fault(|fault| *fault == Fault::NoConnection).is_some() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let (ours, theirs) = UnixStream::pair()?;
        let this = self.clone();
        this.state.lock().unwrap().connections += 1;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(this.serve(ours));
        });
        Ok((theirs, Peer::Manager))
    }

    async fn serve(self, stream: UnixStream) {
        let guid = zbus::Guid::generate();
        let Ok(connection) = Builder::unix_stream(stream).server(guid).p2p().build().await else { return };
        let mut messages = MessageStream::from(&connection);
        while let Some(Ok(message)) = messages.next().await {
            if message.message_type() == message::Type::MethodCall
                && self.answer(&connection, &message).await.is_none()
            {
                let _ = connection.close().await;
                return;
            }
        }
    }

    /// `None` closes the connection.
    async fn answer(&self, connection: &Connection, message: &Message) -> Option<()> {
        let header = message.header();
        let method = header.member()?.to_string();
        if self.fault(|fault| matches!(fault, Fault::Close(name) if *name == method)).is_some() {
            return None;
        }
        if self.fault(|fault| matches!(fault, Fault::Ignore(name) if *name == method)).is_some() {
            return Some(());
        }
        let refused = self.fault(|fault| matches!(fault, Fault::Refuse(name, _) if *name == method));
        if let Some(Fault::Refuse(_, error)) = refused {
            let _ = connection.reply_error(&header, error, &"injected.").await;
            return Some(());
        }
        let body = message.body();
        let unit = || body.deserialize::<(String, String)>().map(|(unit, _)| unit).unwrap_or_default();
        let unknown = "org.freedesktop.systemd1.NoSuchUnit";
        match method.as_str() {
            "Get" => connection.reply(&header, &Variant::from("252.38-1~deb12u1")).await.ok()?,
            "Subscribe" => connection.reply(&header, &()).await.ok()?,
            "Reload" => {
                self.reload();
                connection.reply(&header, &()).await.ok()?;
            }
            "EnableUnitFiles" | "DisableUnitFiles" => {
                let names: Vec<String> = if method == "EnableUnitFiles" {
                    body.deserialize::<(Vec<String>, bool, bool)>().unwrap().0
                } else {
                    body.deserialize::<(Vec<String>, bool)>().unwrap().0
                };
                let changed = self.change_links(&method, &names[0]);
                let changes: Vec<(String, String, String)> =
                    if changed { vec![("symlink".into(), names[0].clone(), String::new())] } else { vec![] };
                if method == "EnableUnitFiles" {
                    connection.reply(&header, &(true, changes)).await.ok()?;
                } else {
                    connection.reply(&header, &changes).await.ok()?;
                }
            }
            "ListUnitsByPatterns" => {
                let rows = self.list();
                connection.reply(&header, &rows).await.ok()?;
            }
            "LoadUnit" => {
                let name: (String,) = body.deserialize().unwrap();
                let path = self.load(&name.0);
                connection.reply(&header, &path).await.ok()?;
            }
            "GetAll" => {
                let properties = self.properties(header.path()?);
                connection.reply(&header, &properties).await.ok()?;
            }
            "ResetFailedUnit" => {
                let name: (String,) = body.deserialize().unwrap();
                self.note(format!("reset {}", name.0));
                if let Some(unit) = self.state.lock().unwrap().units.get_mut(&name.0) {
                    unit.restarts = 0;
                    if unit.active == "failed" {
                        unit.active = "inactive";
                    }
                }
                connection.reply(&header, &()).await.ok()?;
            }
            "KillUnit" => {
                let (name, whom, signal): (String, String, i32) = body.deserialize().unwrap();
                self.note(format!("kill {name} {whom} {signal}"));
                let hung = {
                    let mut state = self.state.lock().unwrap();
                    let unit = state.units.get_mut(&name);
                    unit.filter(|unit| unit.active == "deactivating").map(|unit| {
                        (unit.active, unit.result) = ("failed", "signal");
                    })
                };
                connection.reply(&header, &()).await.ok()?;
                if hung.is_some() {
                    let jobs = self.state.lock().unwrap().jobs;
                    removed(connection, jobs, &name, "done").await;
                }
            }
            "StartUnit" | "StopUnit" => {
                let name = unit();
                self.note(format!("{} {name}", if method == "StartUnit" { "start" } else { "stop" }));
                let known =
                    self.units.join(&name).exists() || self.state.lock().unwrap().units.contains_key(&name);
                if !known {
                    let text = format!("Unit {name} not loaded.");
                    connection.reply_error(&header, unknown, &text).await.ok()?;
                    return Some(());
                }
                return self.job(connection, &header, &name, method == "StartUnit").await;
            }
            other => {
                let _ =
                    connection.reply_error(&header, "org.freedesktop.DBus.Error.UnknownMethod", &other).await;
            }
        }
        Some(())
    }

    async fn job(
        &self,
        connection: &Connection,
        header: &message::Header<'_>,
        name: &str,
        start: bool,
    ) -> Option<()> {
        let jobs = {
            let mut state = self.state.lock().unwrap();
            state.jobs += 1;
            state.jobs
        };
        let path = ObjectPath::try_from(format!("{PATH}/job/{jobs}")).unwrap();
        // Somebody else's job ends first: it must not be taken for ours.
        removed(connection, 9999, "other.service", "failed").await;
        connection.reply(header, &path).await.ok()?;
        let (under_way, after) = if start { ("activating", "active") } else { ("deactivating", "inactive") };
        self.set(name, under_way, "success", 0);
        if self.fault(|fault| *fault == Fault::JobHangs).is_some() {
            return Some(());
        }
        if self.fault(|fault| *fault == Fault::UnitVanishes).is_some() {
            self.state.lock().unwrap().units.remove(name);
            let _ = std::fs::remove_file(self.units.join(name));
            removed(connection, jobs, name, "failed").await;
            return Some(());
        }
        if self.fault(|fault| *fault == Fault::CloseDuringJob).is_some() {
            self.set(name, after, "success", 0);
            return None;
        }
        let ends = self.fault(|fault| matches!(fault, Fault::JobEnds(..)));
        let (result, active) = match ends {
            Some(Fault::JobEnds(result, active)) => (result, active),
            _ => ("done", after),
        };
        self.set(name, active, if result == "done" { "success" } else { "exit-code" }, 0);
        removed(connection, jobs, name, result).await;
        Some(())
    }

    fn note(&self, call: String) {
        self.state.lock().unwrap().calls.push(call);
    }

    fn fault(&self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        self.state.lock().unwrap().fault(wanted)
    }

    fn reload(&self) {
        self.note("reload".to_owned());
        self.state.lock().unwrap().read.clear();
        for name in crate::fs::names(&self.units).unwrap() {
            self.load(&name);
        }
    }

    fn load(&self, name: &str) -> ObjectPath<'static> {
        if let Ok(text) = std::fs::read_to_string(self.units.join(name)) {
            self.state.lock().unwrap().read.entry(name.to_owned()).or_insert(text);
        }
        let escaped: String = name.bytes().map(|byte| format!("_{byte:02x}")).collect();
        ObjectPath::try_from(format!("{PATH}/unit/{escaped}")).unwrap()
    }

    fn change_links(&self, method: &str, name: &str) -> bool {
        let enable = method == "EnableUnitFiles";
        let mut state = self.state.lock().unwrap();
        state.calls.push(format!("{} {name}", if enable { "enable" } else { "disable" }));
        let was = state.enabled.iter().any(|unit| unit == name);
        state.enabled.retain(|unit| unit != name);
        if enable {
            state.enabled.push(name.to_owned());
        }
        was != enable
    }

    #[expect(clippy::type_complexity, reason = "the wire form of systemd's table")]
    fn list(
        &self,
    ) -> Vec<(
        String,
        String,
        String,
        String,
        String,
        String,
        ObjectPath<'static>,
        u32,
        String,
        ObjectPath<'static>,
    )> {
        self.note("list".to_owned());
        let none = || ObjectPath::try_from("/").unwrap();
        let text = str::to_owned;
        let state = self.state.lock().unwrap();
        state
            .units
            .iter()
            .map(|(name, unit)| {
                let active = unit.active;
                (
                    name.clone(),
                    text(""),
                    text("loaded"),
                    text(active),
                    text(""),
                    text(""),
                    none(),
                    0,
                    text(""),
                    none(),
                )
            })
            .collect()
    }

    fn properties(&self, path: &ObjectPath<'_>) -> HashMap<String, OwnedVariant> {
        let escaped = path.rsplit('/').next().unwrap();
        let name: Vec<u8> =
            escaped.split('_').skip(1).map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
        let name = String::from_utf8(name).unwrap();
        let on_disk = std::fs::read_to_string(self.units.join(&name)).ok();
        let state = self.state.lock().unwrap();
        let unit = state.units.get(&name).cloned();
        let unit = unit.unwrap_or(Unit { active: "inactive", result: "success", restarts: 0 });
        let enabled = state.enabled.contains(&name);
        let own = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        let load = if on_disk.is_some() { "loaded" } else { "not-found" };
        HashMap::from([
            ("LoadState".to_owned(), own(load.into())),
            ("ActiveState".to_owned(), own(unit.active.into())),
            ("SubState".to_owned(), own("".into())),
            ("Result".to_owned(), own(unit.result.into())),
            ("UnitFileState".to_owned(), own(if enabled { "enabled" } else { "disabled" }.into())),
            ("MainPID".to_owned(), own(if unit.active == "active" { std::process::id() } else { 0 }.into())),
            ("NRestarts".to_owned(), own(unit.restarts.into())),
            ("ExecMainCode".to_owned(), own(1_i32.into())),
            ("ExecMainStatus".to_owned(), own(203_i32.into())),
            ("NeedDaemonReload".to_owned(), own((on_disk.as_ref() != state.read.get(&name)).into())),
        ])
    }
}

async fn removed(connection: &Connection, job: u32, unit: &str, result: &str) {
    let path = ObjectPath::try_from(format!("{PATH}/job/{job}")).unwrap();
    let _ =
        connection.emit_signal(None::<&str>, PATH, MANAGER, "JobRemoved", &(job, path, unit, result)).await;
}
