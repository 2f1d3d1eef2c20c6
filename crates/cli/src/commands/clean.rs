//! `clean`: removes what a run left on the host. What a supervisor runs after a VM's end.

use fireclaw_core::error::Result;
use fireclaw_host::fs;

use crate::app::App;

/// Removes the tap and the API socket. What is not there is fine.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    app.host.network.detach(&record.id, &record.vm_tap)?;
    let own = app.settings.layout.instance(&record.id)?.api_sock;
    fs::remove_file(&own)?;
    if record.api_sock.as_os_str().is_empty() { Ok(()) } else { fs::remove_file(&record.api_sock) }
}
