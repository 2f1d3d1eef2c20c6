//! The rates of a record, put into force while its VM runs. Works through the VMM's control socket and the host's network.

use std::sync::Arc;

use fireclaw_core::{error::Result, spec::VmmKind, state::InstanceRecord};
use fireclaw_host::{
    supervisor::{Service, State},
    vmm,
};

use crate::{
    app::App,
    commands::run::{api_sock, vmm_of},
    fleet, steps,
};

/// The VMM that an instance runs on here: what the Bash fireclaw made runs on whatever this host has.
pub fn kind_of(app: &App, record: &InstanceRecord) -> VmmKind {
    if record.vmm_is_chosen {
        return record.vmm;
    }
    vmm_of(app, record).map_or(record.vmm, |(vmm, _)| vmm.kind())
}

/// Changes what a VM that runs may use. One that does not run finds its rates when it starts.
pub fn apply(app: &App, record: &InstanceRecord) -> Result<()> {
    if fleet::service_status(app, record, Service::Vm).state != State::Active {
        return Ok(());
    }
    let kind = kind_of(app, record);
    steps::limit_network(app, record, kind)?;
    if kind == VmmKind::Qemu {
        steps::reinstall_firewall(app)?;
    }
    let vmm = vmm::of(kind, Arc::clone(&app.host.exec))?;
    if let Err(error) = vmm.set_rates(&api_sock(app, record)?, &record.rates) {
        // A VM that an older fireclaw started has nothing that could be told.
        app.ui.warn(&format!("the new rates of the disk hold from the next start on: {}", error.one_line()));
    }
    Ok(())
}
