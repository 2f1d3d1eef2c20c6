//! What every command works with: settings, the host's effects, signals and the printer. Reads the environment, the
//! configuration file and, once, what kind of host this is.

use std::{path::Path, sync::Arc};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    plan::Plan,
    report::StepTime,
    spec::{Settings, SupervisorKind},
    state::InstanceRecord,
};
use fireclaw_host::{
    disk::{Disks, SystemDisks},
    embedded::EmbeddedSupervisor,
    exec::{Exec, SystemExec},
    fs,
    interrupt::Interrupt,
    lock::{self, Lock},
    network::{Network, SystemNetwork},
    ssh::{GuestShell, SystemShell},
    supervisor::{Supervisor, Supervisors},
    systemd::{self, SystemdSupervisor},
};

use crate::{
    engine::{Engine, Observer, recovery::Recovered},
    gates::{GatewayProbe, HttpGates},
    steps::Steps,
    store::{Store, no_such},
    ui::Ui,
};

/// Every effect, replaceable by a fake of the same trait.
#[derive(Clone)]
pub struct Host {
    /// Programs.
    pub exec: Arc<dyn Exec>,
    /// Bridge, taps, firewall.
    pub network: Arc<dyn Network>,
    /// Disks of instances.
    pub disks: Arc<dyn Disks>,
    /// Who keeps the services running.
    pub supervisors: Supervisors,
    /// SSH to guests.
    pub shell: Arc<dyn GuestShell>,
    /// HTTP to gateways.
    pub gateway: Arc<dyn GatewayProbe>,
}

/// One invocation.
#[derive(Clone)]
pub struct App {
    /// Settings of the host.
    pub settings: Settings,
    /// Effects.
    pub host: Host,
    /// Ctrl-C and SIGTERM.
    pub interrupt: Interrupt,
    /// The printer.
    pub ui: Ui,
}

impl App {
    /// The real host.
    pub fn system(quiet: bool) -> Result<Self> {
        let config = fs::read_if_there(Path::new(Settings::CONFIG_FILE))?;
        let settings = Settings::resolve(&|name| std::env::var(name).ok(), config.as_deref())?;
        let interrupt = Interrupt::from_signals()?;
        let exec: Arc<dyn Exec> = Arc::new(SystemExec::new(interrupt.clone()));
        let supervisors = supervisors(&settings, &interrupt)?;
        Ok(Self {
            host: Host {
                network: Arc::new(
                    SystemNetwork::new(Arc::clone(&exec)).remembering(settings.layout.firewall_mark()),
                ),
                disks: Arc::new(SystemDisks::new(Arc::clone(&exec), interrupt.clone())),
                supervisors,
                shell: Arc::new(SystemShell::new(Arc::clone(&exec))),
                gateway: Arc::new(HttpGates),
                exec,
            },
            settings,
            interrupt,
            ui: Ui::new(quiet, std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())),
        })
    }

    /// Which kind of supervisor keeps an instance running on this host, whatever it was made for.
    pub fn supervised_by(&self, record: &InstanceRecord) -> SupervisorKind {
        self.host.supervisors.kind_for(record.supervisor)
    }

    /// Who keeps an instance running.
    pub fn supervisor_of(&self, record: &InstanceRecord) -> &dyn Supervisor {
        self.host.supervisors.of(record.supervisor)
    }

    /// The records.
    pub const fn store(&self) -> Store<'_> {
        Store::new(&self.settings)
    }

    /// Tells of keys that only another version knows, before a record is written anew.
    pub fn warn_of_unknown_keys(&self, record: &InstanceRecord) {
        for key in record.unknown_keys() {
            self.ui.warn(&format!(
                "the record of `{}` has the unknown key {key}: it is kept, and changes nothing",
                record.id
            ));
        }
    }

    /// Takes an instance for this invocation.
    pub fn hold(&self, id: &InstanceId) -> Result<Lock> {
        lock::take(&self.settings.layout.instance(id)?.lock, &format!("instance `{id}`"))
    }

    /// Holds an instance that must exist, and deals with what an earlier run left of it. A half-made one is removed and
    /// then does not exist.
    pub fn hold_existing(&self, id: &InstanceId, observer: &mut dyn Observer) -> Result<Lock> {
        if !self.store().exists(id)? {
            return Err(no_such(id.as_str()));
        }
        let lock = self.hold(id)?;
        if self.recover(id, observer)?.is_gone() {
            return Err(no_such(id.as_str()));
        }
        Ok(lock)
    }

    /// Deals with a journal that an earlier run of a held instance left.
    pub fn recover(&self, id: &InstanceId, observer: &mut dyn Observer) -> Result<Recovered> {
        let journal = self.settings.layout.instance(id)?.journal;
        let mut steps = Steps::of_existing(self, id);
        Engine { journal: &journal, interrupt: &self.interrupt, observer }.recover(&mut steps)
    }

    /// Carries a plan out and closes what its steps kept open, whatever came of it.
    pub fn carry_out(
        &self,
        plan: &Plan,
        steps: &mut Steps<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<StepTime>> {
        let journal = self.settings.layout.instance(&plan.id)?.journal;
        let result = Engine { journal: &journal, interrupt: &self.interrupt, observer }.run(plan, steps);
        steps.close();
        result
    }

    /// How many of these instances have their tap on this host: their VMs run, or are just being started.
    pub fn attached(&self, records: &[InstanceRecord]) -> Result<usize> {
        let links = self.host.network.links()?;
        Ok(records.iter().filter(|record| links.contains(record.vm_tap.as_str())).count())
    }

    /// Refuses to go on without root.
    pub fn need_root(&self) -> Result<()> {
        if nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        Err(Error::new("change", "this host")
            .kind(Kind::HostNotReady)
            .because("fireclaw is not run as root")
            .hint("run it with sudo"))
    }
}

/// The supervisors of this host: systemd's where it is PID 1, and always the embedded one.
fn supervisors(settings: &Settings, interrupt: &Interrupt) -> Result<Supervisors> {
    let (layout, program) = (&settings.layout, own_program()?);
    let systemd = systemd::is_booted().then(|| {
        let units = SystemdSupervisor::new(layout.clone(), program.clone(), settings.unit_environment());
        Arc::new(units.interruptible(interrupt.clone())) as Arc<dyn Supervisor>
    });
    let embedded = EmbeddedSupervisor::new(layout.clone(), program, settings.child_environment())
        .interruptible(interrupt.clone());
    Ok(Supervisors::new(systemd, Arc::new(embedded)))
}

/// The path of this program, as children are to call it: without the mark of a file that was replaced while we run.
pub fn own_program() -> Result<std::path::PathBuf> {
    let path = std::env::current_exe().map_err(|error| Error::new("find", "this program").source(error))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), Into::into))
}
