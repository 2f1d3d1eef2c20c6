//! Steps that put an instance to sleep, and what a start does with its memory. Works over SSH, through the supervisor and the
//! VMM's API.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fireclaw_core::{
    error::{Error, Kind, Result},
    guest::protocol::TrimReport,
};
use fireclaw_host::{
    ssh::{Guest, LoginState},
    supervisor::{Service, State},
};

use super::{Steps, guest::AGENT};
use crate::{engine::Observer, hibernate};

/// A guest that wrote gigabytes onto a slow disk.
const SYNC: Duration = Duration::from_mins(5);
/// Memory is dropped and cleared at gigabytes a second; an emulated guest takes ten times as long.
const TRIM: Duration = Duration::from_mins(1);
/// The guest's clock may be off by so much; a login takes about as long.
const CLOCK: Duration = Duration::from_secs(1);

impl Steps<'_> {
    /// Whether the instance sleeps. One whose record cannot be read does not.
    pub(super) fn is_hibernated(&self) -> Result<bool> {
        Ok(self.record.is_some() && self.paths()?.snapshot_manifest.exists())
    }

    /// Without this a cold boot, should it come to that, would find the disk as after a power cut.
    pub(super) fn sync_guest(&self, watch: &mut dyn Observer) -> Result<()> {
        let record = self.known()?;
        if self.supervisor()?.status(&self.id, Service::Vm)?.state != State::Active {
            return Err(Error::new("hibernate", format!("instance `{}`", self.id))
                .because("its VM does not run; nothing was changed")
                .hint(format!("`fireclaw start {}` starts it", self.id)));
        }
        hibernate::check(self.app, record)?;
        let guest = self.guest()?;
        match self.app.host.shell.login(&guest)? {
            LoginState::In => {}
            LoginState::Denied(error) | LoginState::OtherHostKey(error) => return Err(error),
            LoginState::NotYet(why) => {
                return Err(Error::new("hibernate", format!("instance `{}`", self.id))
                    .because(format!("its guest cannot be told to write out what it holds back: {why}"))
                    .hint(format!("see `fireclaw status {}`", self.id)));
            }
        }
        let synced = self.run(&guest, &["sync"], SYNC)?;
        if !synced.status.success() {
            return Err(
                Error::new("sync", format!("the guest of `{}`", self.id)).because(synced.last_words())
            );
        }
        self.trim(&guest, watch)?;
        // No connection of ours is to be asleep in the guest.
        self.close();
        Ok(())
    }

    /// A guest of the Bash fireclaw, or one that an older fireclaw provisioned, sleeps with all its memory.
    fn trim(&self, guest: &Guest, watch: &mut dyn Observer) -> Result<()> {
        let report = match self.run(guest, &["sudo", "-n", AGENT, "guest", "trim"], TRIM) {
            Err(error) if error.get_kind() == Kind::Interrupted => return Err(error),
            said => said.ok().and_then(|said| serde_json::from_str::<TrimReport>(&said.text()).ok()),
        };
        watch.detail(&match report {
            Some(report) => format!("{} MiB of files dropped from its memory", report.freed_kib >> 10),
            None => "its memory is kept with what it holds of files".to_owned(),
        });
        Ok(())
    }

    pub(super) fn save_memory(&self, watch: &mut dyn Observer) -> Result<()> {
        let record = self.known()?;
        watch.detail(&format!("{} MiB of memory", record.mem_mib));
        hibernate::save(self.app, record)
    }

    pub(super) fn let_run_on(&self) -> Result<()> {
        match &self.record {
            Some(record) => hibernate::let_run_on(self.app, record),
            None => Ok(()),
        }
    }

    /// Ends a paused VM at once. One that was let go on meanwhile has left what was written of it behind.
    pub(super) fn end_vm(&self) -> Result<()> {
        self.close();
        if hibernate::runs(self.app, self.known()?)? {
            hibernate::discard(&self.paths()?)?;
            return Ok(());
        }
        self.stop_service(Service::Vm, Duration::ZERO)
    }

    /// Connections that are open lead to a guest that is gone: they end now.
    pub(super) fn settle_proxy(&self) -> Result<()> {
        let wakes = self.known()?.idle.is_watched();
        let serves = self.supervisor()?.status(&self.id, Service::Proxy)?.state == State::Active;
        self.stop_proxy()?;
        if !(wakes && serves) {
            return Ok(());
        }
        self.start_proxy()?;
        hibernate::inbox(self.app, self.known()?)?.slept(true)
    }

    /// A VM that runs, paused by a hibernate that did not get further, runs on. One that does not run goes on from its memory.
    pub(super) fn before_start(&mut self) -> Result<()> {
        if !self.is_hibernated()? {
            return Ok(());
        }
        if self.supervisor()?.status(&self.id, Service::Vm)?.state == State::Active {
            return self.let_run_on();
        }
        self.resumed = true;
        Ok(())
    }

    /// Says why a memory was not used. The start goes on without.
    pub fn tell_of_drop(&self, watch: &mut dyn Observer) -> Result<()> {
        if let Some(why) = hibernate::told_drop(&self.paths()?)? {
            watch.warn(&format!(
                "the memory of `{}` was dropped, it boots instead and nothing on its disk is lost: {why}",
                self.id
            ));
        }
        Ok(())
    }

    /// `stop` means that nothing is kept but the disk, which was synced.
    pub(super) fn drop_memory(&self, watch: &mut dyn Observer) -> Result<()> {
        if self.is_hibernated()? && hibernate::discard(&self.paths()?)? {
            watch.warn(&format!("the memory of `{}` is dropped; its disk was synced before", self.id));
        }
        Ok(())
    }

    /// What a guest needs that slept: the time. A memory may also have turned out to be of no use by now.
    pub(super) fn after_login(&self, watch: &mut dyn Observer) -> Result<()> {
        if !self.resumed {
            return Ok(());
        }
        self.tell_of_drop(watch)?;
        if let Err(error) = self.step_clock() {
            watch.warn(&format!("the guest's clock may be behind: {}", error.one_line()));
        }
        Ok(())
    }

    /// Sets the guest's clock where Firecracker has not done so already, which it does for guests that use KVM's clock.
    pub fn step_clock(&self) -> Result<()> {
        let guest = self.guest()?;
        let said = self.run(&guest, &["date", "+%s.%N"], Duration::from_mins(1))?.text();
        let ours = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_right = |theirs: f64| (ours().as_secs_f64() - theirs).abs() < CLOCK.as_secs_f64();
        // A time that cannot be read is as wrong as any.
        if said.trim().parse().is_ok_and(is_right) {
            return Ok(());
        }
        let now = format!("--set=@{:.3}", ours().as_secs_f64());
        let set = self.run(&guest, &["sudo", "-n", "date", "--utc", &now], Duration::from_mins(1))?;
        if set.status.success() {
            return Ok(());
        }
        Err(Error::new("set", format!("the clock of `{}`", self.id)).because(set.last_words()))
    }
}
