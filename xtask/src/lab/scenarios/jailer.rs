//! Firecracker through its jailer: what the jail is while it runs, every way to end it, and that nothing stays.

use fireclaw_core::error::Result;
use serde_json::Value;

use crate::lab::host::{Lab, ensure, same};

/// An id with what Firecracker does not take.
const ID: &str = "my_bot-1";

/// One instance through its whole life.
pub fn jailer(lab: &mut Lab) -> Result<()> {
    let report = lab.setup_tiny(ID, &[])?;
    same("vmm", &report["vmm"], &Value::from("firecracker"))?;
    same("health", &report["health"], &Value::from("up"))?;
    Ok(())
}
