//! `list`, and `status` without an id.

use fireclaw_core::error::Result;

use crate::{app::App, fleet, ui};

/// Shows all instances. A damaged one is a row.
pub fn run(app: &App, json: bool) -> Result<()> {
    let rows = fleet::rows(app)?;
    if json { app.ui.json(&rows) } else { app.ui.result(&ui::fleet(&rows)) }
}
