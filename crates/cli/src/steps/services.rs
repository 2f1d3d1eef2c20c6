//! Steps on the two services of an instance. Works through the supervisor.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    render::scripts,
    spec::{ServiceSpec, SupervisorKind, release::PROGRAMS},
    state::InstanceRecord,
};
use fireclaw_host::{
    fs, proc,
    supervisor::{Service, ServiceStatus, State, Supervisor},
    systemd::journal,
    vmm::socket,
    wait::{Probed, Requirement, until},
};
use nix::sys::signal::Signal;

use super::Steps;
use crate::{
    app::App,
    commands::{
        clean::{self, by_hand},
        halt,
        run::api_sock,
    },
    engine::Observer,
    hibernate::inbox,
};

/// From SIGKILL to the end: a guest's memory is given back.
const KILLED: Duration = Duration::from_secs(30);

/// Makes the services of an instance what they should be, and with them the scripts that do the same by hand. What the Bash
/// fireclaw made stays where ours could not run in its place: its Firecracker needs no jailer.
pub fn install(app: &App, record: &InstanceRecord) -> Result<()> {
    let (id, supervisor) = (&record.id, app.supervisor_of(record));
    let has = |program: &str| app.host.exec.which(program).is_some();
    let [firecracker, jailer] = PROGRAMS;
    if has(firecracker) && !has(jailer) && supervisor.has_older_services(id)? {
        app.ui.warn(&format!(
            "`{id}` stays in the services that the Bash fireclaw made, without a jail: there is no jailer. \
             `fireclaw doctor --fix` brings one"
        ));
        return Ok(());
    }
    supervisor.install(id, &ServiceSpec::of(record, &app.settings))?;
    if supervisor.has_older_services(id)? { Ok(()) } else { write_scripts(app, id) }
}

/// The scripts of an instance's folder, where they say something else or are not there.
pub(super) fn write_scripts(app: &App, id: &InstanceId) -> Result<()> {
    let paths = app.settings.layout.instance(id)?;
    for (path, text) in [(&paths.start_script, scripts::start(id)), (&paths.stop_script, scripts::stop(id))] {
        if fs::read_if_there(path)?.as_deref() != Some(&text) {
            fs::write(path, text.as_bytes(), 0o700)?;
        }
    }
    Ok(())
}

impl Steps<'_> {
    pub(super) fn install_services(&self) -> Result<()> {
        install(self.app, self.known()?)
    }

    pub(super) fn remove_services(&self) -> Result<()> {
        self.app.host.supervisors.uninstall(&self.id)
    }

    pub(super) fn start_vm(&mut self, watch: &mut dyn Observer) -> Result<()> {
        self.before_start()?;
        let rests = |status: ServiceStatus| matches!(status.state, State::Inactive | State::Failed);
        if socket::is_listening(&api_sock(self.app, self.known()?)?)
            && self.supervisor()?.status(&self.id, Service::Vm).is_ok_and(rests)
        {
            return Err(by_hand(&self.id, "start"));
        }
        let started = self.begin(Service::Vm);
        if started.is_err() && self.resumed && self.paths()?.snapshot_dropped.exists() {
            // The VMM found fault with a memory that fitted. Without it there is nothing to find fault with.
            self.resumed = false;
            self.begin(Service::Vm)?;
        } else {
            started?;
        }
        // Its proxy may think that it sleeps.
        if self.known()?.idle.is_watched() {
            inbox(self.app, self.known()?)?.awake()?;
        }
        self.tell_of_drop(watch)
    }

    pub(super) fn start_proxy(&self) -> Result<()> {
        self.begin(Service::Proxy)
    }

    /// Starts a service. What systemd says of a start that came to nothing is a number; why, stands in its journal, where nobody
    /// looks once a new instance was undone.
    fn begin(&self, service: Service) -> Result<()> {
        let since = SystemTime::now();
        self.supervisor()?.start(&self.id, service).map_err(|error| {
            let said = if error.get_kind() == Kind::Failed {
                self.said_since(service, since)
            } else {
                String::new()
            };
            if said.is_empty() { error } else { error.adding(said) }
        })
    }

    /// What a service itself wrote to the journal; nothing where there is none.
    fn said_since(&self, service: Service, since: SystemTime) -> String {
        let by_systemd = self.known().is_ok_and(|it| self.app.supervised_by(it) == SupervisorKind::Systemd);
        let lines = if by_systemd { self.journal(service, 12) } else { Vec::new() };
        let own = lines.into_iter().filter(|line| !line.by_systemd && line.time >= since);
        own.map(|line| line.text).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn stop_proxy(&self) -> Result<()> {
        self.stop_service(Service::Proxy, Duration::from_secs(5))
    }

    pub(super) fn stop_vm(&self, watch: &mut dyn Observer) -> Result<()> {
        self.close();
        self.drop_memory(watch)?;
        // The gateway is down by now; what is left is the guest's own shutdown.
        let deadline = self.patience.min(Duration::from_secs(90));
        self.stop_service(Service::Vm, deadline)?;
        self.end_by_hand(deadline)
    }

    pub(super) fn cut_vm_off(&self) -> Result<()> {
        self.close();
        self.stop_service(Service::Vm, Duration::ZERO)?;
        self.end_by_hand(Duration::ZERO)
    }

    /// A VM that was started by hand is in no service: what its supervisor would do is done here, with what is left of it. It is
    /// known by the disk that it writes: who listens at the socket may be another, where two were given one path.
    fn end_by_hand(&self, deadline: Duration) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let api_sock = api_sock(self.app, record)?;
        if !socket::is_listening(&api_sock) {
            return Ok(());
        }
        let disk = self.paths()?.written_disk(record.disks).clone();
        let vmm = proc::writers(&disk);
        let Some(first) = vmm.first() else { return Ok(()) };
        if !deadline.is_zero() {
            match halt::run(self.app, self.id.as_str(), deadline.as_secs()) {
                Err(error) if error.get_kind() == Kind::Interrupted => return Err(error),
                // One that does not end is cut off.
                _ => {}
            }
        }
        vmm.iter().try_for_each(|process| process.signal(Signal::SIGKILL))?;
        let requirement = Requirement {
            description: format!("the end of the VM of `{}`, process {}", self.id, first.pid),
            deadline: KILLED,
            hint: "see what it does with `ps`".to_owned(),
        };
        // A process of many threads counts as ended before the last of them has given its files back.
        until(&requirement, &self.app.interrupt, || {
            if vmm.iter().any(|process| process.is_alive()) || socket::is_listening(&api_sock) {
                Probed::NotYet("it is there".to_owned())
            } else {
                Probed::Ready(())
            }
        })?;
        clean::leftovers(self.app, record)
    }

    pub(super) fn supervisor(&self) -> Result<&dyn Supervisor> {
        Ok(self.app.supervisor_of(self.known()?))
    }

    /// An instance whose record cannot be read may be anybody's: all are told.
    pub(super) fn stop_service(&self, service: Service, deadline: Duration) -> Result<()> {
        let supervisors = &self.app.host.supervisors;
        match &self.record {
            Some(record) => self.app.supervisor_of(record).stop(&self.id, service, deadline),
            None => supervisors.stop(&self.id, service, deadline),
        }
    }

    /// How often a service was restarted before this operation looked at it.
    const fn restarts(&self, service: Service) -> &Cell<Option<u32>> {
        match service {
            Service::Vm => &self.restarts[0],
            Service::Proxy => &self.restarts[1],
        }
    }

    /// Fails for good when a service is not going to come up, with the last words of its log. A supervisor that is too busy to
    /// say how the service is says nothing against it: who waits has a deadline of their own.
    pub(super) fn must_live(&self, service: Service) -> Result<()> {
        let Ok(status) = self.supervisor()?.status(&self.id, service) else { return Ok(()) };
        // A guest that restarted itself over months is none that does not come up.
        let before = self.restarts(service).get().unwrap_or(status.restarts);
        self.restarts(service).set(Some(before));
        let more = status.restarts.saturating_sub(before);
        if matches!(status.state, State::Active | State::Activating | State::Unknown) && more < 3 {
            return Ok(());
        }
        let detail = status.detail.unwrap_or_else(|| format!("it is {:?}", status.state).to_lowercase());
        let what = match service {
            Service::Vm => "VM",
            Service::Proxy => "proxy",
        };
        Err(Error::new("keep", format!("the {what} of `{}` running", self.id))
            .because(format!("{detail}\n{}", self.last_words(service, 12)?))
            .hint(format!("see `fireclaw logs {} host`", self.id)))
    }

    /// The end of a service's log; the VM's is its guest's console.
    pub(super) fn last_words(&self, service: Service, lines: usize) -> Result<String> {
        let record = self.known()?;
        if self.app.supervised_by(record) == SupervisorKind::Systemd {
            let lines = self.journal(service, u32::try_from(lines).unwrap_or(u32::MAX));
            return Ok(lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n"));
        }
        let paths = self.paths()?;
        let mut text = String::new();
        let logs = match service {
            Service::Vm => vec![&paths.vmm_log, &paths.console_log],
            Service::Proxy => vec![&paths.proxy_log],
        };
        for path in logs {
            if let Some(log) = fs::tail(path, 64 << 10)? {
                let all: Vec<&str> = log.lines().collect();
                text.push_str(&all[all.len().saturating_sub(lines)..].join("\n"));
            }
        }
        Ok(text)
    }

    /// The last lines of a unit. They are for an error that is there already: without a journal it comes without them.
    fn journal(&self, service: Service, lines: u32) -> Vec<journal::Line> {
        let said = self.app.host.exec.run(journal::command(&self.id, &[service], lines, false));
        let said = said.map(|said| said.text()).unwrap_or_default();
        said.lines().filter_map(|line| journal::Line::read(line, &self.id)).collect()
    }
}
