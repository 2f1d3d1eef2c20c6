//! The gateway's unit in the guest. Drives systemd by systemctl, and kills a gateway that hangs.

use std::time::{Duration, Instant};

use fireclaw_core::{
    error::{Kind, Result},
    guest::{
        gate::{GatewayUnit, UNIT_PROPERTIES},
        paths::{GuestFiles, GuestPaths},
        protocol::StopReport,
        unit,
    },
    id::{InstanceId, UnitName},
};
use fireclaw_host::{
    exec::Cmd,
    wait::{self, Probed, Requirement},
};

use super::Guest;

/// How long a gateway that no longer listens may take to end. Its answers are given by then; what is left is a second's work, but
/// 2026.9.6 can wait here for minutes for a Telegram connection that never came up.
pub(super) const HANG: Duration = Duration::from_secs(45);

/// How long the kernel may take to end what was killed.
const KILL: Duration = Duration::from_secs(30);

/// The unit of one instance.
pub(super) struct Service<'a> {
    guest: &'a Guest<'a>,
    name: UnitName,
    container: String,
    files: GuestFiles,
}

impl<'a> Service<'a> {
    pub(super) fn new(guest: &'a Guest<'a>, instance: &InstanceId) -> Self {
        Self {
            guest,
            name: instance.guest_unit(),
            container: unit::container(instance),
            files: GuestPaths::instance(instance),
        }
    }

    /// The unit as systemd knows it.
    pub(super) fn state(&self) -> Result<GatewayUnit> {
        let cmd = Cmd::new("systemctl").args(["show", "--property", UNIT_PROPERTIES, self.name.as_str()]);
        Ok(GatewayUnit::parse(self.name.as_str(), &self.guest.exec.check(cmd)?.text()))
    }

    /// The last lines of its last run's log; none when they cannot be had.
    pub(super) fn log(&self, lines: &str) -> Vec<String> {
        let which = ["show", "--property", "InvocationID", "--value", self.name.as_str()];
        let Ok(run) = self.guest.exec.check(Cmd::new("systemctl").args(which)) else { return Vec::new() };
        let args = ["--lines", lines, "--output", "cat", "--no-pager", "--quiet"];
        let only = format!("_SYSTEMD_INVOCATION_ID={}", run.text());
        match self.guest.exec.check(Cmd::new("journalctl").args(args).arg(only)) {
            Ok(output) => output.text().lines().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Makes systemd read changed unit files.
    pub(super) fn reload(&self) -> Result<()> {
        self.guest.exec.check(Cmd::new("systemctl").arg("daemon-reload")).map(drop)
    }

    /// Makes it start with the guest; says whether it did not yet.
    pub(super) fn enable(&self) -> Result<bool> {
        let is_enabled = Cmd::new("systemctl").args(["is-enabled", "--quiet", self.name.as_str()]);
        if self.guest.exec.run(is_enabled)?.status.success() {
            return Ok(false);
        }
        self.guest.exec.check(Cmd::new("systemctl").args(["enable", "--quiet", self.name.as_str()]))?;
        Ok(true)
    }

    /// Starts it. It is up when its process runs; its gates open later.
    pub(super) fn start(&self) -> Result<()> {
        self.guest.exec.check(Cmd::new("systemctl").args(["start", self.name.as_str()])).map(drop)
    }

    /// Stops it: asks, waits for the answers that it is giving, and kills it only when the time is up or when it hangs with its
    /// port closed. A unit that does not run is stopped.
    pub(super) fn stop(&self, within: Duration) -> Result<StopReport> {
        let begun = Instant::now();
        let mut killed = false;
        if self.state()?.is_running() {
            // The job goes on by itself: `systemctl stop` would wait as long as systemd does.
            self.guest.exec.check(Cmd::new("systemctl").args(["stop", "--no-block", self.name.as_str()]))?;
            if !self.ends(within, self.guest.hang)? {
                self.kill()?;
                killed = true;
            }
        }
        Ok(StopReport { stopped: !self.state()?.is_running(), killed, seconds: begun.elapsed().as_secs() })
    }

    /// Waits until it has ended; `false` when it will not by itself.
    fn ends(&self, within: Duration, hang: Duration) -> Result<bool> {
        let mut silent_since = None;
        let waited = wait::until(&self.requirement(within), &self.guest.interrupt, || match self.state() {
            Err(error) => Probed::Never(error),
            Ok(state) if !state.is_running() => Probed::Ready(true),
            Ok(_) if self.guest.gateway.listening() => {
                silent_since = None;
                Probed::NotYet("the gateway still answers".to_owned())
            }
            Ok(_) if silent_since.get_or_insert_with(Instant::now).elapsed() >= hang => Probed::Ready(false),
            Ok(state) => Probed::NotYet(format!("the unit is {}", state.active)),
        });
        match waited {
            Err(error) if error.get_kind() == Kind::Interrupted => Err(error),
            other => Ok(other.unwrap_or(false)),
        }
    }

    fn requirement(&self, deadline: Duration) -> Requirement {
        Requirement {
            description: format!("{} to stop", self.name),
            deadline,
            hint: format!("journalctl --unit {}", self.name),
        }
    }

    fn kill(&self) -> Result<()> {
        let unit = self.guest.files.read_system(&self.files.unit)?.unwrap_or_default();
        if unit.contains("docker run") {
            // The container is Docker's child, not the unit's; one that is gone already is an error of no consequence.
            self.guest.exec.run(Cmd::new("docker").args(["kill", &self.container]))?;
        }
        self.guest.exec.check(Cmd::new("systemctl").args([
            "kill",
            "--signal=SIGKILL",
            self.name.as_str(),
        ]))?;
        self.ends(KILL, KILL).map(drop)
    }
}
