//! What is recorded of an instance, and its text on disk in three formats: `plain-v2` (ours), `plain-v1` (the Bash
//! fireclaw 0.2) and the older shell-quoted files without a format line. Touches nothing.

mod containment;
mod legacy;
mod lines;
mod record;
pub mod record_defaults;

pub use containment::Containment;
pub use lines::{Format, Lines, RESTORE};
pub use record::{InstanceRecord, ProviderKeys};
