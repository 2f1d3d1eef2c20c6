//! `token`

use fireclaw_core::error::{Error, Result};

use crate::app::App;

/// Prints the gateway token and a newline, nothing else.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    if record.gateway_token.expose().is_empty() {
        return Err(Error::new("find", format!("the gateway's token of `{id}`"))
            .because("neither `.env` nor `.token` in its folder has one")
            .hint("write one into `.token`, then `fireclaw provision` it"));
    }
    app.ui.result(&format!("{}\n", record.gateway_token.expose()))
}
