//! What a user says: values, settings and requests, parsed and checked before anything is done. Touches nothing.

pub mod network;
pub mod request;
pub mod settings;
pub mod value;

pub use network::NetworkSpec;
pub use request::{Changes, InstanceSpec, RawChanges, RawSetup};
pub use settings::{Origin, Settings};
pub use value::{DiskSize, Runtime, SupervisorKind, VmmKind};
