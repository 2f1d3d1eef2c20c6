//! A [`Supervisor`] that runs nothing: what is installed and what is started is remembered, in memory or in a folder that
//! several processes share. Touches that folder only.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
    spec::{ServiceSpec, SupervisorKind},
};

use super::{Service, ServiceStatus, State, Supervisor};

type Services = BTreeMap<Service, ServiceStatus>;

/// Remembers. Clones are handles to the same one.
///
/// Stricter than the real ones in one point: a service that is not installed cannot be started, so that a plan in the
/// wrong order fails its test.
#[derive(Debug, Clone)]
pub struct FakeSupervisor {
    kind: SupervisorKind,
    store: Store,
    faults: Arc<Mutex<Vec<Fault>>>,
}

#[derive(Debug, Clone)]
enum Store {
    Memory(Arc<Mutex<Memory>>),
    Dir(PathBuf),
}

#[derive(Debug, Default)]
struct Memory {
    instances: BTreeMap<InstanceId, Services>,
    calls: Vec<String>,
}

#[derive(Debug)]
struct Fault {
    call: String,
    times: u32,
}

impl Default for FakeSupervisor {
    fn default() -> Self {
        Self::with(Store::Memory(Arc::default()))
    }
}

impl FakeSupervisor {
    /// In memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// In a folder, one file an instance, each written whole: a process that is killed leaves the state before or after
    /// a call, and the next process finds it.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self::with(Store::Dir(dir.into()))
    }

    fn with(store: Store) -> Self {
        Self { kind: SupervisorKind::Embedded, store, faults: Arc::default() }
    }

    /// Makes it say that it is of this kind.
    #[must_use]
    pub fn of_kind(mut self, kind: SupervisorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Makes the next `times` calls that begin with `call` fail without effect: `start`, `stop my-bot`,
    /// `start my-bot proxy`, `status my-bot proxy`. Injected faults are this process's own.
    pub fn fail(&self, call: &str, times: u32) {
        self.faults.lock().expect("no panic while held").push(Fault { call: call.to_owned(), times });
    }

    /// The calls that changed or tried to change something, of all processes: `install my-bot` (`install my-bot that wakes`), `start my-bot vm`,
    /// `stop my-bot proxy 30s`, `uninstall my-bot`; and `states 3`.
    pub fn calls(&self) -> Vec<String> {
        match &self.store {
            Store::Memory(memory) => memory.lock().expect("no panic while held").calls.clone(),
            Store::Dir(dir) => {
                let calls = fs::read_to_string(dir.join(CALLS)).unwrap_or_default();
                calls.lines().map(str::to_owned).collect()
            }
        }
    }

    /// The instances that are installed: none after everything was destroyed.
    pub fn installed(&self) -> Vec<InstanceId> {
        match &self.store {
            Store::Memory(memory) => {
                memory.lock().expect("no panic while held").instances.keys().cloned().collect()
            }
            Store::Dir(dir) => {
                let names = crate::fs::names(dir).unwrap_or_default();
                names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect()
            }
        }
    }

    /// The world changes by itself: a guest is powered off, a VMM crashes.
    pub fn set(&self, id: &InstanceId, service: Service, status: ServiceStatus) -> Result<()> {
        let mut services = self.load(id)?.unwrap_or_default();
        services.insert(service, status);
        self.save(id, Some(services))
    }

    fn load(&self, id: &InstanceId) -> Result<Option<Services>> {
        match &self.store {
            Store::Memory(memory) => {
                Ok(memory.lock().expect("no panic while held").instances.get(id).cloned())
            }
            Store::Dir(dir) => {
                let path = file(dir, id);
                let text = crate::fs::read_if_there(&path)?;
                text.map(|text| serde_json::from_str(&text)).transpose().context("read", path.display())
            }
        }
    }

    fn save(&self, id: &InstanceId, services: Option<Services>) -> Result<()> {
        match (&self.store, services) {
            (Store::Memory(memory), Some(services)) => {
                memory.lock().expect("no panic while held").instances.insert(id.clone(), services);
                Ok(())
            }
            (Store::Memory(memory), None) => {
                memory.lock().expect("no panic while held").instances.remove(id);
                Ok(())
            }
            (Store::Dir(dir), Some(services)) => {
                let text = serde_json::to_vec(&services).context("render", id)?;
                crate::fs::make_private_dir(dir)?;
                crate::fs::write(&file(dir, id), &text, 0o600)
            }
            (Store::Dir(dir), None) => crate::fs::remove_file(&file(dir, id)),
        }
    }

    fn called(&self, call: String) -> Result<()> {
        let outcome = self.fault(&call);
        match &self.store {
            Store::Memory(memory) => memory.lock().expect("no panic while held").calls.push(call),
            Store::Dir(dir) => {
                crate::fs::make_private_dir(dir)?;
                let log = OpenOptions::new().append(true).create(true).open(dir.join(CALLS));
                // One write a line: lines of several processes do not mix.
                log.and_then(|mut log| log.write_all(format!("{call}\n").as_bytes()))
                    .context("write", dir.join(CALLS).display())?;
            }
        }
        outcome
    }

    fn fault(&self, call: &str) -> Result<()> {
        let mut faults = self.faults.lock().expect("no panic while held");
        let fault = faults.iter_mut().find(|fault| fault.times > 0 && call.starts_with(&fault.call));
        fault.map_or(Ok(()), |fault| {
            fault.times -= 1;
            Err(Error::new("do", call.to_owned()).because("injected"))
        })
    }

    fn change(&self, id: &InstanceId, service: Service, state: State) -> Result<()> {
        let Some(mut services) = self.load(id)? else {
            return Err(Error::new("find", service.unit(id).to_string()).because("it is not installed"));
        };
        if services.get(&service).is_none_or(|status| status.state != state) {
            services.insert(service, ServiceStatus::of(state));
            self.save(id, Some(services))?;
        }
        Ok(())
    }
}

/// The file of calls in a shared folder.
const CALLS: &str = "calls";

fn file(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join(format!("{id}.json"))
}

fn word(service: Service) -> &'static str {
    match service {
        Service::Vm => "vm",
        Service::Proxy => "proxy",
    }
}

impl Supervisor for FakeSupervisor {
    fn kind(&self) -> SupervisorKind {
        self.kind
    }

    fn install(&self, id: &InstanceId, spec: &ServiceSpec) -> Result<()> {
        self.called(format!("install {id}{}", if spec.wakes { " that wakes" } else { "" }))?;
        if self.load(id)?.is_none() {
            self.save(id, Some(Services::new()))?;
        }
        Ok(())
    }

    fn uninstall(&self, id: &InstanceId) -> Result<()> {
        self.called(format!("uninstall {id}"))?;
        self.save(id, None)
    }

    fn start(&self, id: &InstanceId, service: Service) -> Result<()> {
        self.called(format!("start {id} {}", word(service)))?;
        self.change(id, service, State::Active)
    }

    fn stop(&self, id: &InstanceId, service: Service, deadline: Duration) -> Result<()> {
        self.called(format!("stop {id} {} {deadline:?}", word(service)))?;
        if self.load(id)?.is_none() {
            return Ok(());
        }
        self.change(id, service, State::Inactive)
    }

    fn status(&self, id: &InstanceId, service: Service) -> Result<ServiceStatus> {
        self.fault(&format!("status {id} {}", word(service)))?;
        let known = self.load(id)?.and_then(|mut services| services.remove(&service));
        Ok(known.unwrap_or_else(|| ServiceStatus::of(State::Inactive)))
    }

    fn states(&self, ids: &[&InstanceId]) -> Result<Vec<[State; 2]>> {
        self.called(format!("states {}", ids.len()))?;
        let look = |id, service| self.status(id, service).map_or(State::Unknown, |status| status.state);
        Ok(ids.iter().map(|id| Service::ALL.map(|service| look(id, service))).collect())
    }

    fn check(&self) -> Result<String> {
        self.called("check".to_owned())?;
        Ok("a fake answers".to_owned())
    }

    /// An instance that is not installed has drifted.
    fn drift(&self, id: &InstanceId, _spec: &ServiceSpec) -> Result<Vec<String>> {
        let missing = self.load(id)?.is_none();
        Ok(missing.then(|| format!("{} is missing", id.vm_unit())).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaves(fake: &FakeSupervisor) {
        let id: InstanceId = "my-bot".parse().unwrap();
        assert!(fake.start(&id, Service::Vm).is_err(), "started without being installed");
        fake.install(&id, &ServiceSpec::small()).unwrap();
        fake.start(&id, Service::Vm).unwrap();
        fake.install(&id, &ServiceSpec::small()).unwrap();
        assert_eq!(fake.status(&id, Service::Vm).unwrap().state, State::Active);
        assert_eq!(fake.status(&id, Service::Proxy).unwrap().state, State::Inactive);

        fake.fail("stop my-bot vm", 1);
        assert!(fake.stop(&id, Service::Vm, Duration::from_secs(30)).is_err());
        assert_eq!(fake.status(&id, Service::Vm).unwrap().state, State::Active);
        fake.stop(&id, Service::Vm, Duration::from_secs(30)).unwrap();
        assert_eq!(fake.status(&id, Service::Vm).unwrap().state, State::Inactive);

        let off = ServiceStatus { detail: Some("off".into()), ..ServiceStatus::of(State::Inactive) };
        fake.set(&id, Service::Proxy, off.clone()).unwrap();
        assert_eq!(fake.status(&id, Service::Proxy).unwrap(), off);
        assert_eq!(fake.installed(), std::slice::from_ref(&id));
        fake.uninstall(&id).unwrap();
        fake.uninstall(&id).unwrap();
        fake.stop(&id, Service::Vm, Duration::ZERO).unwrap();
        assert_eq!(fake.installed(), []);
        let calls = fake.calls();
        assert_eq!(calls[..3], ["start my-bot vm", "install my-bot", "start my-bot vm"]);
        assert_eq!(calls[4..6], ["stop my-bot vm 30s", "stop my-bot vm 30s"]);
        assert_eq!(calls.len(), 9);
    }

    #[test]
    fn it_behaves_in_memory() {
        behaves(&FakeSupervisor::new());
    }

    #[test]
    fn it_behaves_in_a_folder_that_another_handle_sees() {
        let dir = tempfile::tempdir().unwrap();
        behaves(&FakeSupervisor::in_dir(dir.path().join("fake")));
        let (one, other) = (FakeSupervisor::in_dir(dir.path()), FakeSupervisor::in_dir(dir.path()));
        let id: InstanceId = "a".parse().unwrap();
        one.install(&id, &ServiceSpec::small()).unwrap();
        one.start(&id, Service::Proxy).unwrap();
        assert_eq!(other.status(&id, Service::Proxy).unwrap().state, State::Active);
        assert_eq!(other.calls(), ["install a", "start a proxy"]);
    }
}
