//! `token`

use fireclaw_core::error::Result;

use crate::app::App;

/// Prints the gateway token and a newline, nothing else.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    app.ui.result(&format!("{}\n", record.gateway_token.expose()))
}
