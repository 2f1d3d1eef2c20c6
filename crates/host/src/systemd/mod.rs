//! The supervisor for hosts where systemd is PID 1: two units an instance, driven over D-Bus. Writes unit files, speaks
//! with systemd; starts no program.
//!
//! Each call opens a connection of its own and keeps nothing: systemd may be replaced by an upgrade at any time, and
//! fireclaw leaves nobody behind who could hold a connection. A start enables the unit and a stop disables it, so that
//! after a reboot of the host what was wanted comes back and nothing else.

mod bus;
mod facts;
pub mod journal;
mod operations;
#[cfg(test)]
mod tests;
mod units;

use std::{
    io::{Error as IoError, Result as IoResult},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    id::{InstanceId, UnitName, unit_patterns},
    layout::Layout,
    render::systemd::{Features, Host, proxy_unit, vm_unit, wake_path_unit, wake_unit},
    spec::{ServiceSpec, SupervisorKind},
};

use self::{
    bus::{Bus, Peer, Trouble},
    facts::{Facts, state},
    units::Found,
};
use crate::{
    interrupt::Interrupt,
    supervisor::{Service, ServiceStatus, State, Supervisor},
};

/// This exists where systemd is PID 1, see `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";
/// Where the system's bus listens; Debian's `dbus` or `dbus-broker` brings it.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// A busy systemd reads its units for seconds; while it does it answers nobody.
const PATIENCE: Duration = Duration::from_secs(90);
/// What only looks gives up earlier.
const GLANCE: Duration = Duration::from_secs(5);

/// Whether the bus is there by which systemd is told.
pub fn has_bus() -> bool {
    Path::new(SOCKET).exists()
}

/// Whether systemd is PID 1 of this host.
pub fn is_booted() -> bool {
    Path::new(BOOTED).is_dir()
}

type Open = dyn Fn() -> IoResult<(UnixStream, Peer)> + Send + Sync;

/// The two units of every instance.
pub struct SystemdSupervisor {
    layout: Layout,
    program: PathBuf,
    environment: Vec<(String, String)>,
    interrupt: Interrupt,
    open: Box<Open>,
    patience: Duration,
}

impl SystemdSupervisor {
    /// `program` is the fireclaw that the units start; `environment` is what they carry: the roots that are not the
    /// default ones.
    pub fn new(layout: Layout, program: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self {
            layout,
            program,
            environment,
            interrupt: Interrupt::default(),
            open: Box::new(open),
            patience: PATIENCE,
        }
    }

    /// Ends waits when the interrupt is asked. What systemd was told goes on.
    #[must_use]
    pub fn interruptible(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
    }

    async fn connect(&self, patience: Duration) -> Result<Bus, Trouble> {
        let (stream, peer) = (self.open)().map_err(|error| Trouble::Lost(error.to_string()))?;
        Bus::open(stream, peer, patience).await
    }

    /// Runs one conversation with systemd to its end.
    fn talk<T>(&self, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Trouble::Lost(error.to_string()))?;
        runtime.block_on(work)
    }

    /// The texts of an instance's units, for the systemd of this version.
    fn texts(&self, id: &InstanceId, spec: &ServiceSpec, version: &str) -> Vec<(UnitName, PathBuf, String)> {
        let host = Host {
            layout: &self.layout,
            program: &self.program,
            environment: &self.environment,
            features: Features::of_version(version),
        };
        let mut all =
            vec![(id.vm_unit(), vm_unit(&host, id, spec)), (id.proxy_unit(), proxy_unit(&host, id, spec))];
        if spec.wakes {
            all.push((id.wake_path_unit(), wake_path_unit(&host, id)));
            all.push((id.wake_unit(), wake_unit(&host, id)));
        }
        all.into_iter().map(|(unit, text)| (unit.clone(), self.layout.unit(&unit), text)).collect()
    }

    async fn facts(bus: &Bus, unit: &str) -> Result<Facts, Trouble> {
        Ok(Facts::of(&bus.properties(unit).await?))
    }
}

fn open() -> IoResult<(UnixStream, Peer)> {
    match UnixStream::connect(SOCKET) {
        Ok(stream) => Ok((stream, Peer::Bus)),
        Err(error) => Err(IoError::new(error.kind(), format!("{SOCKET}: {error}"))),
    }
}

/// Turns trouble into an error with the next thing to do.
fn explain(trouble: Trouble, operation: &'static str, what: impl std::fmt::Display) -> Error {
    let error = Error::new(operation, what.to_string());
    match trouble {
        Trouble::Interrupted(inner) => error.source(inner),
        Trouble::Refused(ref name, _) if name.ends_with(".UnitMasked") => {
            let hint = format!("systemctl unmask {}", error.object());
            error.source(trouble).hint(hint)
        }
        Trouble::Refused(..) if trouble.is_no_such_unit() => {
            error.source(trouble).hint("`fireclaw doctor --fix` writes units that are missing")
        }
        Trouble::Lost(_) => error.kind(Kind::HostNotReady).source(trouble).hint(
            "see whether `busctl status` answers; `fireclaw doctor --fix` installs a bus that is missing",
        ),
        Trouble::Slow(_) => error.source(trouble).hint("see what systemd works on: `systemctl list-jobs`"),
        Trouble::Refused(..) => error.source(trouble),
    }
}

impl Supervisor for SystemdSupervisor {
    fn kind(&self) -> SupervisorKind {
        SupervisorKind::Systemd
    }

    /// Writes the units whose text is another and has systemd read them. Where nothing changed there is no reload, but for
    /// a unit that was written by a run that was cut short before its own.
    fn install(&self, id: &InstanceId, spec: &ServiceSpec) -> Result<()> {
        crate::fs::make_private_dir(&self.layout.locks())?;
        self.talk(async {
            let bus = self.connect(self.patience).await?;
            let version = bus.version().await?;
            let mut outdated = false;
            let texts = self.texts(id, spec, &version);
            for service in Service::ALL {
                let unit = service.unit(id);
                let path = units::path(&self.layout, id, service);
                match units::is_older(&self.layout, id, service) {
                    Ok(false) => continue,
                    Err(error) => return Ok(Err(error)),
                    Ok(true) => {}
                }
                // What runs was started as it says, and is stopped as it says.
                let state = Self::facts(&bus, unit.as_str()).await?.status(service).state;
                let text = texts.iter().find(|(_, other, _)| *other == path).map(|(_, _, text)| text);
                if let (State::Inactive | State::Failed, Some(text)) = (state, text) {
                    if let Err(error) = units::adopt(&path, text) {
                        return Ok(Err(error));
                    }
                    outdated = true;
                }
            }
            for (_, path, text) in texts {
                match units::write(&path, &text) {
                    Ok(wrote) => outdated |= wrote,
                    Err(error) => return Ok(Err(error)),
                }
            }
            if !spec.wakes {
                match units::remove_wake(&self.layout, id) {
                    Ok(removed) => outdated |= removed,
                    Err(error) => return Ok(Err(error)),
                }
            }
            if !outdated {
                for service in Service::ALL {
                    outdated |= bus.needs_reload(service.unit(id).as_str()).await?;
                }
            }
            if outdated {
                bus.reload().await?;
            }
            Ok(Ok(()))
        })
        .map_err(|trouble| explain(trouble, "install", format!("the units of `{id}`")))?
    }

    fn uninstall(&self, id: &InstanceId) -> Result<()> {
        self.remove_units(id)
    }

    fn start(&self, id: &InstanceId, service: Service) -> Result<()> {
        self.start_unit(service.unit(id).as_str(), id)
    }

    fn stop(&self, id: &InstanceId, service: Service, deadline: Duration) -> Result<()> {
        self.stop_unit(service.unit(id).as_str(), deadline)
    }

    fn status(&self, id: &InstanceId, service: Service) -> Result<ServiceStatus> {
        let unit = service.unit(id);
        self.talk(async {
            let bus = self.connect(GLANCE).await?;
            Self::facts(&bus, unit.as_str()).await
        })
        .map(|facts| facts.status(service))
        .map_err(|trouble| explain(trouble, "ask systemd for", &unit))
    }

    /// One call for all of them. What is not loaded does not run.
    fn states(&self, ids: &[&InstanceId]) -> Result<Vec<[State; 2]>> {
        let listed = self
            .talk(async { self.connect(GLANCE).await?.list(&unit_patterns()).await })
            .map_err(|trouble| explain(trouble, "ask systemd for", "its units"))?;
        let known: std::collections::HashMap<&str, &str> =
            listed.iter().map(|unit| (unit.name.as_str(), unit.active.as_str())).collect();
        let look = |id: &InstanceId, service: Service| {
            known.get(service.unit(id).as_str()).map_or(State::Inactive, |active| state(active))
        };
        Ok(ids.iter().map(|id| Service::ALL.map(|service| look(id, service))).collect())
    }

    fn check(&self) -> Result<String> {
        self.talk(async { self.connect(GLANCE).await?.version().await })
            .map(|version| format!("systemd {version} answers"))
            .map_err(|trouble| explain(trouble, "reach", "systemd"))
    }

    fn has_older_services(&self, id: &InstanceId) -> Result<bool> {
        for service in Service::ALL {
            if units::is_older(&self.layout, id, service)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn drift(&self, id: &InstanceId, spec: &ServiceSpec) -> Result<Vec<String>> {
        let version = self
            .talk(async { self.connect(GLANCE).await?.version().await })
            .map_err(|trouble| explain(trouble, "reach", "systemd"))?;
        let mut drift = Vec::new();
        for (unit, path, text) in self.texts(id, spec, &version) {
            match units::look(&path, &text).context("look at", &unit)? {
                Found::Current | Found::Foreign => {}
                Found::Outdated => drift.push(format!("{unit} is not as this fireclaw writes it")),
                Found::Missing => drift.push(format!("{unit} is missing")),
            }
        }
        Ok(drift)
    }
}
