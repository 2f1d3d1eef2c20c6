//! What a user says: values, settings and requests, parsed and checked before anything is done. Touches nothing.

pub mod network;
pub mod value;

pub use network::NetworkSpec;
pub use value::{DiskSize, Runtime, SupervisorKind, VmmKind};
