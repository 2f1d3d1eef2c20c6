//! `hibernate`

use fireclaw_core::{error::Result, id::InstanceId, plan::Plan};
use fireclaw_host::supervisor::{Service, State};

use super::{lifecycle::finish, show_plan};
use crate::{app::App, args::Target, fleet, hibernate, steps::Steps};

/// Writes an instance's memory to the disk and ends its VM. `start` goes on where it was.
pub fn run(app: &App, args: &Target) -> Result<()> {
    let id: InstanceId = args.id.parse()?;
    let record = app.store().load(&id)?;
    let plan = Plan::hibernate(&id);
    hibernate::check(app, &record)?;
    if args.dry_run {
        return show_plan(app.ui, args.output, &plan, |_| String::new());
    }
    app.need_root()?;
    let mut progress = app.ui.progress();
    let _lock = app.hold_existing(&id, &mut progress)?;
    let record = app.store().load(&id)?;
    if hibernate::bytes(app, &id).is_some() {
        if fleet::service_status(app, &record, Service::Vm).state != State::Active {
            app.ui.note(&format!("`{id}` is hibernated already"));
            return finish(app, &record, args.output, Vec::new());
        }
        // A VM that an earlier try could not end: its guest stands still.
        hibernate::let_run_on(app, &record)?;
    }
    let mut steps = Steps::of_existing(app, &id);
    let times = app.carry_out(&plan, &mut steps, &mut progress)?;
    finish(app, &record, args.output, times)
}
