//! Who keeps an instance's two services running: the trait that systemd and the embedded supervisor share.

mod choice;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;

use std::time::Duration;

pub use choice::Supervisors;

use fireclaw_core::{
    error::Result,
    id::{InstanceId, UnitName},
    spec::{ServiceSpec, SupervisorKind},
};
use serde::{Deserialize, Serialize};

use crate::proc::ProcessId;

/// One of an instance's two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// `fireclaw run ID`, which becomes the VMM.
    Vm,
    /// `fireclaw proxy ID`.
    Proxy,
}

impl Service {
    /// Both, in the order in which they start.
    pub const ALL: [Self; 2] = [Self::Vm, Self::Proxy];

    /// The name of the service of an instance.
    pub fn unit(self, id: &InstanceId) -> UnitName {
        match self {
            Self::Vm => id.vm_unit(),
            Self::Proxy => id.proxy_unit(),
        }
    }
}

/// The states that a unit is reported in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Runs.
    Active,
    /// Does not run and is not meant to.
    Inactive,
    /// Is being started, or waits for its next try.
    Activating,
    /// Is being stopped.
    Deactivating,
    /// Gave up.
    Failed,
    /// Nobody can tell.
    Unknown,
}

/// What a supervisor knows of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its state.
    pub state: State,
    /// Its main process.
    pub process: Option<ProcessId>,
    /// How often it was restarted since it was last started on purpose.
    pub restarts: u32,
    /// Why it is in that state, where that is not obvious ("powered off from inside the guest").
    pub detail: Option<String>,
}

impl ServiceStatus {
    /// A state without a process.
    pub fn of(state: State) -> Self {
        Self { state, process: None, restarts: 0, detail: None }
    }
}

/// Runs an instance's services, restarts them when they fail, and keeps what was wanted across reboots where it can.
///
/// A VM service is `fireclaw run ID`; it is stopped by `fireclaw halt ID` and cleaned up after by `fireclaw clean ID`. It
/// is restarted with back-off when its VMM ends by a signal or a non-zero code, and stays down when it ends with 0: the
/// guest was powered off from inside.
pub trait Supervisor: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> SupervisorKind;

    /// Makes the services known, without starting them. Idempotent; services that run are not touched.
    fn install(&self, id: &InstanceId, spec: &ServiceSpec) -> Result<()>;

    /// Stops what still runs, at once, and forgets the services. Services that are not there are fine.
    fn uninstall(&self, id: &InstanceId) -> Result<()>;

    /// Starts a service and returns when its process runs. One that runs already is fine.
    fn start(&self, id: &InstanceId, service: Service) -> Result<()>;

    /// Stops a service for good and returns when it is gone: gracefully, and with SIGKILL after the deadline. With a
    /// deadline of zero at once.
    fn stop(&self, id: &InstanceId, service: Service, deadline: Duration) -> Result<()>;

    /// How a service is. Starts no child and asks nothing that can hang.
    fn status(&self, id: &InstanceId, service: Service) -> Result<ServiceStatus>;

    /// The states of both services of many instances, in the order of [`Service::ALL`], for tables: as cheap for hundreds
    /// as for one.
    fn states(&self, ids: &[&InstanceId]) -> Result<Vec<[State; 2]>> {
        let look = |id, service| self.status(id, service).map_or(State::Unknown, |status| status.state);
        Ok(ids.iter().map(|id| Service::ALL.map(|service| look(id, service))).collect())
    }

    /// Whether it can do its work here, in a few words for `doctor`.
    fn check(&self) -> Result<String>;

    /// Whether the services, or one of them, are still as the Bash fireclaw made them: a plain Firecracker and a socat, without our
    /// sidecar, rules at boot, jail or limits. [`Supervisor::install`] replaces those that do not run.
    fn has_older_services(&self, _id: &InstanceId) -> Result<bool> {
        Ok(false)
    }

    /// How what [`Supervisor::install`] made differs from what it would make now, a sentence each.
    fn drift(&self, _id: &InstanceId, _spec: &ServiceSpec) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
