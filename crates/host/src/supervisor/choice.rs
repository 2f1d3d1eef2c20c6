//! The supervisors of one host, and which of them an instance belongs to. Touches nothing.

use std::{sync::Arc, time::Duration};

use fireclaw_core::{error::Result, id::InstanceId, spec::SupervisorKind};

use super::{Service, Supervisor};

/// The supervisors that this host has.
#[derive(Clone)]
pub struct Supervisors {
    systemd: Option<Arc<dyn Supervisor>>,
    embedded: Arc<dyn Supervisor>,
}

impl Supervisors {
    /// `systemd` where it is PID 1.
    pub fn new(systemd: Option<Arc<dyn Supervisor>>, embedded: Arc<dyn Supervisor>) -> Self {
        Self { systemd, embedded }
    }

    /// What `auto` means here: systemd where it is PID 1.
    pub fn auto(&self) -> SupervisorKind {
        self.kind_for(SupervisorKind::Systemd)
    }

    /// Whether this host has one of this kind.
    pub fn has(&self, kind: SupervisorKind) -> bool {
        kind == SupervisorKind::Embedded || self.systemd.is_some()
    }

    /// Who keeps an instance running that was made for `recorded`: an instance of a host with systemd that is found
    /// where there is none (in a container, say) is kept by the embedded one.
    pub fn kind_for(&self, recorded: SupervisorKind) -> SupervisorKind {
        if self.has(recorded) { recorded } else { SupervisorKind::Embedded }
    }

    /// The one for an instance that was made for `recorded`.
    pub fn of(&self, recorded: SupervisorKind) -> &dyn Supervisor {
        match (recorded, &self.systemd) {
            (SupervisorKind::Systemd, Some(systemd)) => systemd.as_ref(),
            _ => self.embedded.as_ref(),
        }
    }

    /// Stops a service with everybody who might run it.
    pub fn stop(&self, id: &InstanceId, service: Service, deadline: Duration) -> Result<()> {
        let systemd = self.systemd.as_ref().map_or(Ok(()), |systemd| systemd.stop(id, service, deadline));
        self.embedded.stop(id, service, deadline).and(systemd)
    }

    /// Forgets an instance everywhere: its record may not say where it belongs. Goes on after a failure and gives the
    /// first.
    pub fn uninstall(&self, id: &InstanceId) -> Result<()> {
        let systemd = self.systemd.as_ref().map_or(Ok(()), |systemd| systemd.uninstall(id));
        self.embedded.uninstall(id).and(systemd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::fake::FakeSupervisor;

    fn fake(kind: SupervisorKind) -> Arc<dyn Supervisor> {
        Arc::new(FakeSupervisor::new().of_kind(kind))
    }

    #[test]
    fn each_instance_has_the_supervisor_that_it_was_made_for() {
        use SupervisorKind::{Embedded, Systemd};
        let both = Supervisors::new(Some(fake(Systemd)), fake(Embedded));
        assert_eq!(
            (both.auto(), both.of(Systemd).kind(), both.of(Embedded).kind()),
            (Systemd, Systemd, Embedded)
        );
        let alone = Supervisors::new(None, fake(Embedded));
        assert_eq!((alone.auto(), alone.of(Systemd).kind()), (Embedded, Embedded));
        assert!(!alone.has(Systemd));
    }

    #[test]
    fn an_instance_is_forgotten_by_all_even_when_one_fails() {
        let (systemd, embedded) =
            (FakeSupervisor::new().of_kind(SupervisorKind::Systemd), FakeSupervisor::new());
        let both = Supervisors::new(Some(Arc::new(systemd.clone())), Arc::new(embedded.clone()));
        systemd.fail("uninstall", 1);
        let id = "a".parse().unwrap();
        assert!(both.uninstall(&id).is_err());
        assert_eq!(embedded.calls(), ["uninstall a"]);
        both.uninstall(&id).unwrap();
    }
}
