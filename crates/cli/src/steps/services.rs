//! Steps on the two services of an instance. Works through the supervisor.

use std::time::Duration;

use fireclaw_core::error::{Error, Result};
use fireclaw_host::{
    fs,
    supervisor::{Service, State},
};

use super::Steps;

impl Steps<'_> {
    pub(super) fn install_services(&self) -> Result<()> {
        self.app.host.supervisor.install(&self.id)
    }

    pub(super) fn remove_services(&self) -> Result<()> {
        self.app.host.supervisor.uninstall(&self.id)
    }

    pub(super) fn start_vm(&self) -> Result<()> {
        self.app.host.supervisor.start(&self.id, Service::Vm)
    }

    pub(super) fn start_proxy(&self) -> Result<()> {
        self.app.host.supervisor.start(&self.id, Service::Proxy)
    }

    pub(super) fn stop_proxy(&self) -> Result<()> {
        self.app.host.supervisor.stop(&self.id, Service::Proxy, Duration::from_secs(5))
    }

    pub(super) fn stop_vm(&self) -> Result<()> {
        self.close();
        // The gateway is down by now; what is left is the guest's own shutdown.
        let deadline = self.patience.min(Duration::from_secs(90));
        self.app.host.supervisor.stop(&self.id, Service::Vm, deadline)
    }

    pub(super) fn cut_vm_off(&self) -> Result<()> {
        self.close();
        self.app.host.supervisor.stop(&self.id, Service::Vm, Duration::ZERO)
    }

    /// Fails for good when the VM is not going to come up, with the last words of its console.
    pub(super) fn vm_must_live(&self) -> Result<()> {
        let status = self.app.host.supervisor.status(&self.id, Service::Vm)?;
        if matches!(status.state, State::Active | State::Activating | State::Unknown) && status.restarts < 3 {
            return Ok(());
        }
        let detail = status.detail.unwrap_or_else(|| format!("it is {:?}", status.state).to_lowercase());
        Err(Error::new("keep", format!("the VM of `{}` running", self.id))
            .because(format!("{detail}\n{}", self.console_tail(12)?))
            .hint(format!("see `fireclaw logs {} host`", self.id)))
    }

    pub(super) fn console_tail(&self, lines: usize) -> Result<String> {
        let paths = self.paths()?;
        let mut text = String::new();
        for path in [&paths.vmm_log, &paths.console_log] {
            if let Some(log) = fs::tail(path, 64 << 10)? {
                let all: Vec<&str> = log.lines().collect();
                text.push_str(&all[all.len().saturating_sub(lines)..].join("\n"));
            }
        }
        Ok(text)
    }
}
