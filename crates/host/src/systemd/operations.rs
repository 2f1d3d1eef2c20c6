//! Start, stop and removal: each a job of systemd that is waited for. Speaks with systemd, removes unit files.

use std::time::{Duration, Instant};

use fireclaw_core::{
    error::{Error, Result},
    id::InstanceId,
    layout::Layout,
};

use super::{
    SystemdSupervisor,
    bus::{Bus, Job, JobKind, Trouble},
    explain,
    facts::Facts,
    units,
};
use crate::{
    interrupt::Interrupt,
    supervisor::{Service, State},
};

/// Longer than a unit of ours may take to start: `clean` first, then the exec of `run`.
const STARTING: Duration = Duration::from_secs(330);
/// From SIGKILL to the end of `clean`.
const KILLED: Duration = Duration::from_secs(75);
/// How often a unit is looked at while its job is waited for.
const LOOK: Duration = Duration::from_secs(1);

impl SystemdSupervisor {
    /// Enables and starts. Failures of the past do not count: a person asked.
    pub(super) fn start_unit(&self, unit: &str, id: &InstanceId) -> Result<()> {
        let ended = self.talk(async {
            let bus = self.connect(self.patience).await?;
            // The link counts at the next boot, when systemd reads all units anyway: to have it read them now would take
            // seconds on a host with many, for nothing.
            bus.enable(unit).await?;
            bus.reset_failed(unit).await?;
            let mut job = bus.begin(JobKind::Start, unit).await?;
            let result = self.wait(&mut job, unit, JobKind::Start, STARTING, &self.interrupt).await?;
            let facts = match result.as_str() {
                "done" => None,
                _ => Some(Self::facts(&self.connect(self.patience).await?, unit).await?),
            };
            Ok(facts.map(|facts| (result, facts)))
        });
        match ended.map_err(|trouble| explain(trouble, "start", unit))? {
            None => Ok(()),
            Some((result, facts)) => Err(Error::new("start", unit.to_owned())
                .because(why(&result, &facts))
                .hint(format!("see `fireclaw logs {id} host --no-follow`"))),
        }
    }

    /// Disables and stops, with SIGKILL once the deadline has passed.
    pub(super) fn stop_unit(&self, unit: &str, deadline: Duration) -> Result<()> {
        self.talk(async {
            let bus = self.connect(self.patience).await?;
            let changed = match bus.disable(unit).await {
                Err(trouble) if trouble.is_no_such_unit() => false,
                other => other?,
            };
            self.bring_down(&bus, unit, deadline).await?;
            if changed {
                let _ = self.connect(self.patience).await?.reload().await;
            }
            Ok(())
        })
        .map_err(|trouble| explain(trouble, "stop", unit))
    }

    /// Stops both at once, and removes every file of theirs.
    pub(super) fn remove_units(&self, id: &InstanceId) -> Result<()> {
        let what = || format!("the units of `{id}`");
        let paths = Service::ALL.map(|service| units::path(&self.layout, id, service));
        for service in Service::ALL.into_iter().rev() {
            let stopped = self.stop_unit(service.unit(id).as_str(), Duration::ZERO);
            // Where systemd is out of reach and no unit is there, nothing is left to remove.
            if stopped.is_err() && paths.iter().all(|path| std::fs::symlink_metadata(path).is_err()) {
                return if (self.open)().is_err() { Ok(()) } else { stopped };
            }
            stopped?;
        }
        let mut removed = units::remove_wake(&self.layout, id)?;
        for path in &paths {
            removed |= units::remove(path)?;
        }
        // What systemd gave to the proxy's user: the link, and what it leads to.
        for path in [Layout::unit_state(id), Layout::unit_state_target(id)] {
            crate::fs::remove_any(&path)?;
        }
        if !removed {
            return Ok(());
        }
        self.talk(async {
            let bus = self.connect(self.patience).await?;
            bus.reload().await?;
            for service in Service::ALL {
                bus.reset_failed(service.unit(id).as_str()).await?;
            }
            Ok(())
        })
        .map_err(|trouble| explain(trouble, "remove", what()))
    }

    async fn bring_down(&self, bus: &Bus, unit: &str, deadline: Duration) -> Result<(), Trouble> {
        let mut job = match bus.begin(JobKind::Stop, unit).await {
            Err(trouble) if trouble.is_no_such_unit() => return Ok(()),
            other => other?,
        };
        // An interrupt ends our wait; what systemd was told goes on.
        let graceful = if deadline.is_zero() {
            Err(Trouble::Slow(deadline))
        } else {
            self.wait(&mut job, unit, JobKind::Stop, deadline, &self.interrupt).await
        };
        match graceful {
            Ok(_) => {}
            Err(Trouble::Slow(_)) => {
                // The connection may have been lost while we waited.
                if let Err(Trouble::Lost(_)) = bus.kill(unit).await {
                    self.connect(self.patience).await?.kill(unit).await?;
                }
                self.wait(&mut job, unit, JobKind::Stop, KILLED, &Interrupt::default()).await?;
            }
            Err(other) => return Err(other),
        }
        let bus = self.connect(self.patience).await?;
        let facts = Self::facts(&bus, unit).await?;
        if matches!(facts.state(), State::Active | State::Activating) {
            return Err(Trouble::Refused(String::new(), "it was started again meanwhile".to_owned()));
        }
        // One that had to be killed is down as it was asked to be, and has not failed.
        bus.reset_failed(unit).await
    }

    /// Waits for a job. A systemd that is replaced by an upgrade meanwhile forgets who listens, or the connection is lost:
    /// so the unit is looked at now and then, and what it has come to counts as well.
    async fn wait(
        &self,
        job: &mut Job,
        unit: &str,
        kind: JobKind,
        deadline: Duration,
        interrupt: &Interrupt,
    ) -> Result<String, Trouble> {
        let begun = Instant::now();
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            let lost = match job.end(left.min(LOOK), interrupt).await {
                Ok(result) => return Ok(result),
                Err(Trouble::Slow(_)) => None,
                Err(trouble @ Trouble::Lost(_)) => Some(trouble),
                Err(other) => return Err(other),
            };
            let unseen = match self.look_at(unit).await {
                Ok(facts) if !facts.has_job => {
                    if let Some(result) = settled(&facts, kind) {
                        return Ok(result.to_owned());
                    }
                    None
                }
                Ok(_) => None,
                Err(trouble) => Some(trouble),
            };
            let left = deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(match unseen {
                    Some(trouble @ Trouble::Lost(_)) => trouble,
                    _ => Trouble::Slow(deadline),
                });
            }
            // With nothing to listen to any more, only looking is left.
            if lost.is_some() {
                tokio::time::sleep((LOOK / 4).min(left)).await;
            }
        }
    }

    async fn look_at(&self, unit: &str) -> Result<Facts, Trouble> {
        Self::facts(&self.connect(self.patience).await?, unit).await
    }
}

/// What a job must have come to, judged by its unit.
fn settled(facts: &Facts, kind: JobKind) -> Option<&'static str> {
    match (kind, facts.state()) {
        (JobKind::Start, State::Active) => Some("done"),
        (JobKind::Start, State::Failed | State::Inactive) => Some("failed"),
        // Between two tries: the start itself came to its end.
        (JobKind::Start, State::Activating) if facts.sub == "auto-restart" => Some("failed"),
        (JobKind::Stop, State::Inactive | State::Failed | State::Active) => Some("done"),
        _ => None,
    }
}

/// Why a start came to nothing.
fn why(result: &str, facts: &Facts) -> String {
    match result {
        "canceled" => "something else was asked of it meanwhile".to_owned(),
        "dependency" => "a unit that it needs did not start".to_owned(),
        "timeout" => "it took longer than its unit allows".to_owned(),
        "skipped" => "a condition of its unit does not hold".to_owned(),
        _ if facts.load == "not-found" => "its unit file is gone".to_owned(),
        _ => facts.failure(),
    }
}
