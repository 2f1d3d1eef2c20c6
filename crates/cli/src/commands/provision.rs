//! `provision`

use fireclaw_core::{
    error::{Error, Result},
    id::InstanceId,
    plan::Plan,
    spec::request::check_bot_is_free,
};
use fireclaw_host::supervisor::{Service, State};

use super::{lifecycle::finish, show_plan};
use crate::{
    app::App, args::ProvisionArgs, containment, fleet, hibernate, secrets, setup_checks, steps::Steps,
};

/// Changes settings and provisions the guest again. A refused change has changed nothing.
pub fn run(app: &App, args: &ProvisionArgs) -> Result<()> {
    let id: InstanceId = args.id.parse()?;
    let changes = secrets::raw_changes(&args.changes, &|name| std::env::var(name).ok())?.check()?;
    let plan = Plan::provision(&id);
    if args.dry_run {
        changes.apply(&app.store().load(&id)?)?;
        return show_plan(app.ui, args.output, &plan, |_| String::new());
    }
    app.need_root()?;
    app.store().load(&id)?;
    let mut progress = app.ui.progress();
    let _lock = app.hold_existing(&id, &mut progress)?;
    // Read again: recovery may have put the settings of an interrupted run into the record.
    let record = app.store().load(&id)?;
    let changed = containment::completed(changes.apply(&record)?, false)?;
    check_bot_is_free(&changed, &app.store().records()?)?;
    app.warn_of_unknown_keys(&changed);
    setup_checks::warn_of_missing_key(app, &changed);
    containment::warn(app, &changed);
    containment::warn_of_idle(app, &changed);
    containment::warn_of_change(app, &record, &changed);
    if fleet::service_status(app, &record, Service::Vm).state != State::Active {
        let asleep = hibernate::bytes(app, &id).is_some();
        let how = if asleep { "it is hibernated" } else { "its VM does not run" };
        return Err(Error::new("provision", format!("instance `{id}`"))
            .because(format!("{how}; nothing was changed"))
            .hint(format!("`fireclaw start {id}`, then provision again")));
    }
    if containment::needs_own_services(&changed) {
        containment::need_own_services(app, &id, "change", format!("the settings of `{id}`"))?;
    }
    let mut steps = Steps::of_existing(app, &id).changing_to(changed);
    let times = app.carry_out(&plan, &mut steps, &mut progress)?;
    let changed = steps.guest_changes();
    app.ui.note(&if changed.is_empty() {
        "the guest was as it should be already".to_owned()
    } else {
        format!("changed in the guest: {}", changed.join(", "))
    });
    let record = app.store().load(&id)?;
    finish(app, &record, args.output, times)
}
