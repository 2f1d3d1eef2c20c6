//! Steps on the two services of an instance. Works through the supervisor.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    spec::{ServiceSpec, SupervisorKind},
};
use fireclaw_host::{
    fs,
    proc::ProcessId,
    supervisor::{Service, State, Supervisor},
    systemd::journal,
    vmm::socket,
    wait::{Probed, Requirement, until},
};
use nix::sys::signal::Signal;

use super::Steps;
use crate::{
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

impl Steps<'_> {
    pub(super) fn install_services(&self) -> Result<()> {
        let record = self.known()?;
        let supervisor = self.app.supervisor_of(record);
        let older = supervisor.has_older_services(&self.id)?;
        supervisor.install(&self.id, &ServiceSpec::of(record, &self.app.settings))?;
        // The scripts go with the services: what the old ones read is ours from the first start on.
        if older && !supervisor.has_older_services(&self.id)? { self.write_scripts() } else { Ok(()) }
    }

    pub(super) fn remove_services(&self) -> Result<()> {
        self.app.host.supervisors.uninstall(&self.id)
    }

    pub(super) fn start_vm(&mut self, watch: &mut dyn Observer) -> Result<()> {
        self.before_start()?;
        let down = matches!(
            self.supervisor()?.status(&self.id, Service::Vm)?.state,
            State::Inactive | State::Failed
        );
        if down && socket::is_listening(&api_sock(self.app, self.known()?)?) {
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
        // What runs already goes on with its count; what is started begins at nothing.
        let before = self.supervisor()?.status(&self.id, service);
        let running = before.ok().filter(|status| status.state == State::Active);
        self.restarts(service).set(Some(running.map_or(0, |status| status.restarts)));
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

    /// A VM that was started by hand is in no service: what its supervisor would do is done here, with what is left of it.
    fn end_by_hand(&self, deadline: Duration) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let api_sock = api_sock(self.app, record)?;
        let listener =
            socket::listener(&api_sock).filter(|pid| Some(*pid) != ProcessId::own().map(|own| own.pid));
        let Some(process) = listener.and_then(ProcessId::of) else { return Ok(()) };
        if !deadline.is_zero() {
            // One that does not end is cut off.
            let _ = halt::run(self.app, self.id.as_str(), deadline.as_secs());
        }
        let requirement = Requirement {
            description: format!("the end of the VM of `{}`, process {}", self.id, process.pid),
            deadline: KILLED,
            hint: "the process is stuck in the kernel".to_owned(),
        };
        if process.is_alive() {
            let _ = process.signal(Signal::SIGKILL);
        }
        until(&requirement, &self.app.interrupt, || {
            if process.is_alive() { Probed::NotYet("it is there".to_owned()) } else { Probed::Ready(()) }
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
