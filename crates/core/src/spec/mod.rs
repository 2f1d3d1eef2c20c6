//! What a user says: values, settings and requests, parsed and checked before anything is done. Touches nothing.

pub mod idle;
pub mod limits;
pub mod network;
pub mod rates;
pub mod release;
pub mod request;
pub mod services;
pub mod settings;
pub mod value;
pub mod vmm_choice;

pub use idle::Idle;
pub use limits::{Bound, Limits};
pub use network::NetworkSpec;
pub use rates::Rates;
pub use request::{Changes, InstanceSpec, RawChanges, RawSetup};
pub use services::ServiceSpec;
pub use settings::{Origin, Settings};
pub use value::{DiskKind, DiskSize, EgressMode, KeyMode, Runtime, SupervisorKind, VmmKind};
pub use vmm_choice::{Arch, KvmFacts, Presence, VmmChoice, VmmFacts};
