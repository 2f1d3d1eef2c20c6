//! `clean`: removes what a run left on the host. What a supervisor runs after a VM's end.

use fireclaw_core::error::Result;
use fireclaw_host::vmm;

use super::run::api_sock;
use crate::app::App;

/// Removes the tap, the API socket and the jail. What is not there is fine.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    app.host.network.detach(&record.id, &record.vm_tap)?;
    let paths = app.settings.layout.instance(&record.id)?;
    vmm::clean(&api_sock(app, &record)?, &paths.jail_dir)
}
