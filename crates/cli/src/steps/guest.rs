//! Steps inside the guest, and the waits for it. Works over SSH and HTTP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::{
        GATEWAY_PORT,
        gate::{GatewayUnit, UNIT_PROPERTIES},
        protocol::{Event, Keys, ProvisionRequest, Telegram, VERSION},
    },
    report::Health,
    spec::{Runtime, Settings},
    state::InstanceRecord,
};
use fireclaw_host::{
    exec::{Output, Stdin, Stream},
    ssh::{Guest, LoginState, control, wait_for_login},
    supervisor::Service,
    wait::{Probed, Requirement, until_extended},
};

use super::Steps;
use crate::{app::own_program, containment, deadlines, digest, engine::Observer};

/// What OpenClaw says when the machine did not start its worker within OpenClaw's own five seconds, which a busy host that
/// emulates its guest can miss. Nothing is wrong with the configuration then, and the next start usually makes it.
const TOO_SLOW: &str = "state lease heartbeat did not become ready";
/// How often such a gateway is started again.
const RETRIES: u32 = 4;
/// A gateway that ended so often while it was waited for will not stay. Its unit starts it again five seconds later.
const ENDS: u32 = 5;
/// The port of the guest's sshd.
pub const SSH_PORT: u16 = 22;
/// Where this program lies in a guest.
pub const AGENT: &str = "/usr/local/bin/fireclaw";

impl Steps<'_> {
    /// How to reach the guest.
    pub(super) fn guest(&self) -> Result<Guest> {
        guest_of(self.app, self.known()?)
    }

    pub(super) fn await_login(&self, watch: &mut dyn Observer) -> Result<()> {
        self.await_boot(watch)?;
        self.after_login(watch)
    }

    fn await_boot(&self, watch: &mut dyn Observer) -> Result<()> {
        let guest = self.guest()?;
        let requirement = Requirement {
            description: format!("an SSH login at {}", guest.ip),
            deadline: self.in_company(deadlines::boot),
            hint: format!("see the boot log: `fireclaw logs {} host --no-follow`", self.id),
        };
        let mut looked = Instant::now();
        let mut meanwhile = |why: &str| {
            watch.detail(why);
            if looked.elapsed() < Duration::from_secs(1) {
                return Ok(());
            }
            looked = Instant::now();
            // A VM that died will not answer: say so at once and not at the deadline.
            self.must_live(Service::Vm)
        };
        let shell = self.app.host.shell.as_ref();
        let mut by_now = || self.in_company(deadlines::boot);
        let waited =
            wait_for_login(shell, &guest, &requirement, &mut by_now, &self.app.interrupt, &mut meanwhile);
        waited.map_err(|error| {
            // A failed setup removes the log with the instance: what it ended with is told now.
            match self.last_words(Service::Vm, 12) {
                Ok(tail) if !tail.is_empty() && error.get_kind() != Kind::Interrupted => {
                    error.adding(format!("the console's last lines:\n{tail}"))
                }
                _ => error,
            }
        })
    }

    /// How long something may take, by how many VMs share this host's processors. What cannot be counted counts as this one alone.
    fn in_company(&self, time: fn(usize, usize) -> Duration) -> Duration {
        let vms = self.app.store().records().and_then(|records| self.app.attached(&records));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        time(vms.unwrap_or(1), processors)
    }

    /// Gives the guest this very program, unless it has it.
    pub(super) fn install_agent(&self, watch: &mut dyn Observer) -> Result<()> {
        let guest = self.guest()?;
        let own = own_program()?;
        let wanted = digest::sha256_file(&own)?;
        let seen = self.run(&guest, &["sha256sum", AGENT], Duration::from_mins(1))?;
        if seen.text().split_whitespace().next() == Some(wanted.as_str()) {
            return Ok(());
        }
        watch.detail("copying this fireclaw into the guest");
        self.app.host.shell.push(&guest, &own, AGENT)
    }

    pub(super) fn provision_guest(&mut self, watch: &mut dyn Observer) -> Result<()> {
        let record = self.changed.as_ref().map_or_else(|| self.known(), Ok)?;
        let request = request(record, &self.app.settings);
        let body = serde_json::to_vec(&request).context("render", "the provisioning request")?;
        let guest = self.guest()?;
        let mut last = None;
        let mut on_line = |stream: Stream, line: &str| {
            let Ok(event) = serde_json::from_str::<Event>(line) else {
                if stream == Stream::Stderr && !line.is_empty() {
                    watch.warn(&format!("guest: {line}"));
                }
                return;
            };
            match event {
                Event::Step { name } => watch.detail(&name),
                Event::Log { line } => watch.detail(&line),
                Event::Warning { text } => watch.warn(&text),
                end @ (Event::Done(_) | Event::Error(_)) => last = Some(end),
                Event::Unknown => {}
            }
        };
        let words = ["sudo", "-n", AGENT, "guest", "provision"];
        let output = self.app.host.shell.run(
            &guest,
            &words,
            Stdin::Bytes(body),
            deadlines::provision(),
            &mut on_line,
        )?;
        match last {
            Some(Event::Done(done)) => {
                if !done.kept.is_empty() {
                    watch.warn(&format!(
                        "openclaw.json keeps what was edited by hand: {}",
                        done.kept.join(", ")
                    ));
                }
                self.guest_changes = done.changed;
                Ok(())
            }
            Some(Event::Error(failure)) => Err(failure.into()),
            _ => Err(Error::new("provision", format!("the guest of `{}`", self.id))
                .because(format!(
                    "it ended with code {} and no result: {}",
                    output.code(),
                    output.last_words()
                ))
                .hint(format!("see `fireclaw logs {} host --no-follow`", self.id))),
        }
    }

    pub(super) fn await_gates(&self, watch: &mut dyn Observer) -> Result<()> {
        let record = self.known()?;
        let inside = SocketAddr::from((record.vm_ip, GATEWAY_PORT));
        let outside = SocketAddr::from((Ipv4Addr::LOCALHOST, record.host_port));
        for (place, address) in [("in the guest", inside), ("through the proxy", outside)] {
            self.await_gate(place, address, watch)?;
        }
        Ok(())
    }

    fn await_gate(&self, place: &str, address: SocketAddr, watch: &mut dyn Observer) -> Result<()> {
        let requirement = Requirement {
            description: format!("the gateway's start gate {place} ({address})"),
            deadline: self.in_company(deadlines::gateway),
            hint: format!("see what it says with `fireclaw logs {} --no-follow`", self.id),
        };
        let (mut looked, mut asked) = (Instant::now(), Instant::now());
        let mut restarts = None;
        let mut by_now = || self.in_company(deadlines::gateway);
        until_extended(&requirement, &mut by_now, &self.app.interrupt, || {
            let health = match self.app.host.gateway.health(&[address], Duration::from_secs(5)) {
                Ok(health) => health.first().copied().unwrap_or(Health::Down),
                Err(error) => return Probed::Never(error),
            };
            match health {
                Health::Up | Health::Degraded => return Probed::Ready(()),
                Health::Starting => watch.detail("the gateway is starting"),
                Health::Down => watch.detail("the gateway does not answer yet"),
            }
            // A gate behind something that has ended will not open: said at once, and not at the deadline.
            let mut alive = Ok(());
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                alive = Service::ALL.into_iter().try_for_each(|service| self.must_live(service));
            }
            if alive.is_ok() && asked.elapsed() > Duration::from_secs(10) {
                asked = Instant::now();
                alive = self.gateway_must_live(&mut restarts);
            }
            if let Err(error) = alive {
                return Probed::Never(error);
            }
            Probed::NotYet(format!("it is {}", health.as_str()))
        })
    }

    /// Fails for good when the gateway's unit gave up, or ends again and again, with the last words of its journal. `before` is how often
    /// it had been started again when this was first asked. A guest that cannot be asked is no reason: it may be restarting.
    fn gateway_must_live(&self, before: &mut Option<u32>) -> Result<()> {
        let guest = self.guest()?;
        let name = self.id.guest_unit();
        let show = ["systemctl", "show", "--property", UNIT_PROPERTIES, name.as_str()];
        let unit = match self.run(&guest, &show, Duration::from_mins(1)) {
            Ok(said) if said.status.success() => GatewayUnit::parse(name.as_str(), &said.text()),
            _ => return Ok(()),
        };
        let ended = unit.restarts.saturating_sub(*before.get_or_insert(unit.restarts));
        let gave_up = unit.active == "failed";
        if !gave_up && ended < ENDS {
            return Ok(());
        }
        let words = ["sudo", "-n", "journalctl", "--no-pager", "-o", "cat", "-n", "40", "-u", name.as_str()];
        let journal = self.run(&guest, &words, Duration::from_mins(1))?;
        if journal.text().contains(TOO_SLOW) && self.retries.get() < RETRIES {
            self.retries.set(self.retries.get() + 1);
            *before = None;
            self.run(&guest, &["sudo", "-n", "systemctl", "restart", name.as_str()], Duration::from_mins(2))?;
            return Ok(());
        }
        let what = if gave_up { "it gave up".to_owned() } else { format!("it ended {ended} times") };
        Err(Error::new("keep", format!("{name} running"))
            .because(format!("{what}:\n{}", journal.text()))
            .hint(format!(
                "see `fireclaw logs {}`; change settings with `fireclaw provision {}`",
                self.id, self.id
            )))
    }

    /// Lets the gateway drain. A guest that cannot be reached is no reason to leave its VM running.
    pub(super) fn stop_gateway(&self, watch: &mut dyn Observer) -> Result<()> {
        if self.patience.is_zero() || self.is_hibernated()? {
            return Ok(());
        }
        let guest = self.guest()?;
        if !matches!(self.app.host.shell.login(&guest), Ok(LoginState::In)) {
            watch.warn(&format!("no SSH login at {}: the gateway is stopped with its VM", guest.ip));
            return Ok(());
        }
        let seconds = self.patience.as_secs().to_string();
        let deadline = self.patience + Duration::from_secs(20);
        let unit = self.id.guest_unit();
        let agent = ["sudo", "-n", AGENT, "guest", "stop", self.id.as_str(), "--timeout", &seconds];
        // A guest that the Bash fireclaw made and this one never provisioned has no agent.
        let plain = ["sudo", "-n", "systemctl", "stop", unit.as_str()];
        let has_agent = self.run(&guest, &["test", "-x", AGENT], Duration::from_mins(1))?.status.success();
        match self.run(&guest, if has_agent { &agent } else { &plain }, deadline) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                watch.warn(&format!("the gateway did not stop by itself: {}", output.last_words()));
                Ok(())
            }
            Err(error) if error.get_kind() == Kind::Interrupted => Err(error),
            Err(error) => {
                watch.warn(&error.one_line());
                Ok(())
            }
        }
    }

    pub(super) fn run(&self, guest: &Guest, words: &[&str], deadline: Duration) -> Result<Output> {
        self.app.host.shell.run(guest, words, Stdin::Null, deadline, &mut |_, _| {})
    }
}

/// How to reach the guest of an instance.
pub fn guest_of(app: &crate::app::App, record: &InstanceRecord) -> Result<Guest> {
    let paths = app.settings.layout.instance(&record.id)?;
    let key = if record.ssh_key_path.as_os_str().is_empty() {
        &app.settings.ssh_key_path
    } else {
        &record.ssh_key_path
    };
    Ok(Guest {
        ip: record.vm_ip,
        port: SSH_PORT,
        user: fireclaw_core::guest::USER.to_owned(),
        key: key.clone(),
        known_hosts: paths.known_hosts,
        control: control::own(&paths.ssh_control),
    })
}

/// What the guest is asked to be.
fn request(record: &InstanceRecord, settings: &Settings) -> ProvisionRequest {
    let (keys, providers) = containment::guest_keys(record);
    ProvisionRequest {
        version: VERSION,
        instance_id: record.id.clone(),
        runtime: record.runtime,
        host_port: record.host_port,
        gateway_token: record.gateway_token.clone(),
        model: record.model.clone(),
        skills: record.skills.clone(),
        telegram: record
            .telegram_token
            .clone()
            .map(|token| Telegram { token, users: record.telegram_users.clone() }),
        keys: Keys { anthropic: keys.anthropic, openai: keys.openai, minimax: keys.minimax },
        openclaw_image: match record.runtime {
            Runtime::Docker => record.openclaw_image.clone(),
            Runtime::Native => String::new(),
        },
        browser: !record.skip_browser_install,
        providers,
        insecure_registries: settings.insecure_registries.clone(),
    }
}
