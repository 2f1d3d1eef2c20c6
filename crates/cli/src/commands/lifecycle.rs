//! `start`, `stop`, `restart`

use std::time::Duration;

use fireclaw_core::{error::Result, id::InstanceId, plan::Plan, report::SetupReport, state::InstanceRecord};

use super::{show_plan, status};
use crate::{
    app::App,
    args::{Output, StopArgs, Target},
    fleet,
    steps::Steps,
};

/// Boots an instance and waits until its gateway is up. Never provisions.
pub fn start(app: &App, args: &Target) -> Result<()> {
    carry_out(app, args, Plan::start, |steps| steps)
}

/// Proxy, gateway, VM; stays stopped across reboots.
pub fn stop(app: &App, args: &StopArgs) -> Result<()> {
    carry_out(app, &args.target, Plan::stop, |steps| steps.patient_for(patience(args)))
}

/// Stops, then starts.
pub fn restart(app: &App, args: &StopArgs) -> Result<()> {
    carry_out(app, &args.target, Plan::restart, |steps| steps.patient_for(patience(args)))
}

const fn patience(args: &StopArgs) -> Duration {
    if args.now { Duration::ZERO } else { Duration::from_secs(args.timeout) }
}

fn carry_out<'a>(
    app: &'a App,
    args: &Target,
    plan: impl Fn(&InstanceId) -> Plan,
    prepare: impl Fn(Steps<'a>) -> Steps<'a>,
) -> Result<()> {
    let id: InstanceId = args.id.parse()?;
    let record = app.store().load(&id)?;
    let plan = plan(&id);
    if args.dry_run {
        return show_plan(app.ui, args.output, &plan, |_| String::new());
    }
    app.need_root()?;
    let mut progress = app.ui.progress();
    let _lock = app.hold_existing(&id, &mut progress)?;
    let mut steps = prepare(Steps::of_existing(app, &id));
    let times = app.carry_out(&plan, &mut steps, &mut progress)?;
    finish(app, &record, args.output, times)
}

/// Ends a changing command with the instance's status.
pub fn finish(
    app: &App,
    record: &InstanceRecord,
    output: Output,
    steps: Vec<fireclaw_core::report::StepTime>,
) -> Result<()> {
    if output.json {
        let status = fleet::status(app, record)?;
        return app.ui.json(&SetupReport { status, steps });
    }
    if !output.quiet {
        let total: u64 = steps.iter().map(|step| step.ms).sum();
        app.ui.note(&format!("done in {}", crate::ui::seconds(total)));
        let report = fleet::status(app, record)?;
        let head: Vec<String> = status::text(&report).lines().take(6).map(str::to_owned).collect();
        app.ui.result(&head.join("\n"))?;
    }
    Ok(())
}
