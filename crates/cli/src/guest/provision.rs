//! Makes the guest what a request says. Writes what its parts write, in an order that a crash at any point leaves mendable.
//!
//! 1. what is missing is installed, and the container image pulled: nothing that runs is touched;
//! 2. the new configuration is checked by OpenClaw while the old one runs;
//! 3. the gateway is stopped, after its running answers;
//! 4. files are put in place and the gateway is started.
//!
//! From 3 on a marker says that the gateway is not what the files say; a run that finds it starts the gateway anew.

use std::{path::Path, time::Duration};

use fireclaw_core::{
    error::Result,
    guest::{
        SHUTDOWN_HOOK, STOP_SECONDS, environment,
        paths::{GuestFiles, GuestPaths, PRELOAD},
        protocol::{Done, ProvisionRequest},
        settings::{self, Facts},
        unit::PRELOAD_SCRIPT,
    },
    spec::value::Runtime,
};
use fireclaw_host::exec::Cmd;

use super::{
    Guest,
    account::{self, Owner},
    browser,
    config::{self, Configuration},
    docker,
    events::Events,
    native,
    service::Service,
};

/// How long the gateway may take to stop before it is killed.
pub(super) const STOP: Duration = Duration::from_secs(STOP_SECONDS + 20);

/// Does all of it. An unchanged request changes nothing and restarts nothing.
pub(super) fn provision(
    guest: &Guest<'_>,
    request: &ProvisionRequest,
    events: &mut Events<'_>,
) -> Result<Done> {
    let files = GuestPaths::instance(&request.instance_id);
    let service = guest.service(&request.instance_id);
    let mut run = Run { guest, request, files, service, events, changed: Vec::new() };
    let target = run.prepare()?;
    let due = run.is_due(&target)?;
    if due {
        run.stop()?;
    }
    // Whatever became of the files, a gateway that was stopped is started again.
    let written = run.write(&target);
    let started = if due || written.is_ok() { run.start(due) } else { Ok(false) };
    written?;
    let restarted = started?;
    run.changed.dedup();
    Ok(Done { changed: run.changed, restarted, kept: target.configuration.kept() })
}

/// One provisioning under way.
struct Run<'a, 'e> {
    guest: &'a Guest<'a>,
    request: &'a ProvisionRequest,
    files: GuestFiles,
    service: Service<'a>,
    events: &'a mut Events<'e>,
    changed: Vec<String>,
}

/// What the guest is going to be.
struct Target {
    owner: Owner,
    environment: String,
    unit: String,
    configuration: Configuration,
}

/// The script that the unit names.
fn write_preload(guest: &Guest<'_>) -> Result<()> {
    let path = Path::new(PRELOAD);
    guest.files.system_dir(path.parent().unwrap_or(path))?;
    guest.files.write(path, PRELOAD_SCRIPT, 0o644).map(drop)
}

impl Run<'_, '_> {
    /// Steps 1 and 2: nothing that runs is touched. A refusal ends here.
    fn prepare(&mut self) -> Result<Target> {
        self.events.step("prepare the guest");
        self.guest.files.private_dir(&self.files.etc)?;
        self.guest.files.private_dir(&self.files.var)?;
        // The check of a configuration in a container mounts it too.
        write_preload(self.guest)?;
        let hook = GuestPaths::shutdown_hook();
        self.guest.files.system_dir(hook.parent().unwrap_or(&hook))?;
        self.guest.files.write(&hook, SHUTDOWN_HOOK, 0o755)?;
        let owner = account::ensure(
            self.guest,
            &self.request.instance_id,
            self.request.runtime,
            self.events,
            &mut self.changed,
        )?;
        let (unit, validate) = self.runtime(&owner)?;
        let environment = environment::render(self.request);
        let configuration = self.configuration(&owner, &environment)?;
        if configuration.changed() {
            configuration.write_candidate(self.guest, &owner)?;
            // A first configuration has no predecessor to protect: the gateway's own start checks it, and sooner.
            if configuration.replaces {
                config::validate(self.guest, &owner, validate, self.events)?;
            }
        }
        Ok(Target { owner, environment, unit, configuration })
    }

    /// Prepares the runtime: its unit, and its check of a configuration.
    fn runtime(&mut self, owner: &Owner) -> Result<(String, Cmd)> {
        let (guest, request) = (self.guest, self.request);
        if request.runtime == Runtime::Native {
            let install = native::require(guest)?;
            let unit = native::unit(&install, &request.instance_id, &self.files, owner);
            return Ok((unit, native::validate(&install, owner)));
        }
        docker::ensure_daemon(guest, request, &self.service, self.events, &mut self.changed)?;
        if docker::pull(guest, &request.openclaw_image, self.events)? {
            // The next start takes the new image; that one is due must survive a crash.
            self.mark()?;
            self.changed.push("image".to_owned());
        }
        Ok((docker::unit(request, &self.files, owner), docker::validate(request, owner)))
    }

    fn configuration(&mut self, owner: &Owner, environment: &str) -> Result<Configuration> {
        let browser = if self.request.browser {
            browser::ensure(self.guest, self.request.runtime, self.events, &mut self.changed)?
        } else {
            None
        };
        let before = self.guest.files.read(&self.files.environment)?;
        let differs = |name| environment::differs(name, before.as_deref(), environment);
        let facts = Facts {
            browser,
            gateway_token_changed: differs(environment::GATEWAY_TOKEN),
            telegram_token_changed: differs(environment::TELEGRAM_TOKEN),
        };
        let base = config::base(self.guest, &self.files, owner)?;
        let settings = settings::settings(self.request, &facts, base.as_ref());
        config::prepare(self.guest, owner, base.as_ref(), &settings)
    }

    /// Whether the gateway runs with something else than it should.
    fn is_due(&self, target: &Target) -> Result<bool> {
        let files = &self.guest.files;
        Ok(target.configuration.changed()
            || files.exists(&self.files.pending)
            || files.read(&self.files.environment)?.as_deref() != Some(&target.environment)
            || files.read(&self.files.unit)?.as_deref() != Some(&target.unit))
    }

    fn mark(&self) -> Result<()> {
        self.guest.files.write(&self.files.pending, "", 0o600).map(drop)
    }

    fn stop(&mut self) -> Result<()> {
        self.mark()?;
        if self.service.state()?.is_running() {
            self.events.step("stop the gateway");
            let report = self.service.stop(STOP)?;
            if report.killed {
                let text =
                    format!("the gateway did not end by itself and was killed after {} s", report.seconds);
                self.events.warning(text);
            }
        }
        Ok(())
    }

    fn write(&mut self, target: &Target) -> Result<()> {
        let files = &self.guest.files;
        let Target { owner, configuration, .. } = target;
        if configuration.changed() {
            files.replace(&owner.state.candidate, &owner.state.config)?;
            self.changed.push("openclaw.json".to_owned());
        }
        configuration.remember(self.guest, &self.files)?;
        if files.write(&self.files.environment, &target.environment, 0o600)? {
            self.changed.push("environment".to_owned());
        }
        let dotenv = files.read(&owner.state.dotenv)?;
        let wanted = environment::dotenv(dotenv.as_deref(), self.request.gateway_token.expose());
        if dotenv.as_deref() != Some(&wanted) {
            files.write_owned(&owner.state.dotenv, &owner.state.candidate, &wanted, &owner.account)?;
        }
        if files.write(&self.files.unit, &target.unit, 0o644)? {
            self.changed.push("unit".to_owned());
        }
        // Keys and token of before, which no unit names any more.
        let older = GuestPaths::older_state(&self.request.instance_id, &owner.account.home);
        files.remove(&older.environment)?;
        self.service.enable().map(drop)
    }

    fn start(&mut self, due: bool) -> Result<bool> {
        let starts = due || !self.service.state()?.is_up();
        if starts {
            self.events.step("start the gateway");
            if due {
                self.service.reload()?;
            }
            self.service.start()?;
            self.guest.files.remove(&self.files.pending)?;
        }
        Ok(starts)
    }
}
