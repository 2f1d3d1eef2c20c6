//! A systemd that runs nothing: units are states in memory, their files lie on a real disk. It does wrong on demand. What
//! it knows is here; `serve` has how it speaks.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use zbus::{ObjectPath, OwnedVariant, Variant};

use super::super::bus::{PATH, Peer};

/// What goes wrong, once each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// This method is answered by an error of this name.
    Refuse(&'static str, &'static str),
    /// This method is never answered.
    Ignore(&'static str),
    /// The next job ends with this result, and its unit in this state.
    JobEnds(&'static str, &'static str),
    /// The next job ends well, and nobody is told: systemd was replaced.
    JobEndsUnheard,
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
pub(super) struct Unit {
    pub(super) active: &'static str,
    pub(super) result: &'static str,
    pub(super) restarts: u32,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) units: BTreeMap<String, Unit>,
    enabled: Vec<String>,
    /// The text of each unit when systemd last read it.
    read: BTreeMap<String, String>,
    faults: Vec<Fault>,
    calls: Vec<String>,
    pub(super) jobs: u32,
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
    pub(super) state: Arc<Mutex<State>>,
    pub(super) units: PathBuf,
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

    pub(super) fn note(&self, call: String) {
        self.state.lock().unwrap().calls.push(call);
    }

    pub(super) fn fault(&self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        self.state.lock().unwrap().fault(wanted)
    }

    pub(super) fn reload(&self) {
        self.note("reload".to_owned());
        self.state.lock().unwrap().read.clear();
        for name in crate::fs::names(&self.units).unwrap() {
            self.load(&name);
        }
    }

    pub(super) fn is_loaded(&self, name: &str) -> bool {
        self.state.lock().unwrap().read.contains_key(name)
    }

    /// Units that nobody needs are unloaded.
    pub(super) fn forget(&self) {
        self.state.lock().unwrap().read.clear();
    }

    pub(super) fn load(&self, name: &str) -> ObjectPath<'static> {
        if let Ok(text) = std::fs::read_to_string(self.units.join(name)) {
            self.state.lock().unwrap().read.entry(name.to_owned()).or_insert(text);
        }
        let escaped: String = name.bytes().map(|byte| format!("_{byte:02x}")).collect();
        ObjectPath::try_from(format!("{PATH}/unit/{escaped}")).unwrap()
    }

    pub(super) fn change_links(&self, method: &str, name: &str) -> bool {
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
    pub(super) fn list(
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

    pub(super) fn properties(&self, path: &ObjectPath<'_>) -> HashMap<String, OwnedVariant> {
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
