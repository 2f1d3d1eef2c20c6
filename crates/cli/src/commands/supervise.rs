//! `supervise`: keeps an instance's services running where there is no systemd.

use fireclaw_core::error::Result;
use fireclaw_host::embedded;

use crate::app::{App, own_program};

/// The whole life of an embedded supervisor.
pub fn run(app: &App, id: &str) -> Result<()> {
    embedded::supervise(
        &app.settings.layout,
        &id.parse()?,
        &own_program()?,
        &app.settings.child_environment(),
    )
}
