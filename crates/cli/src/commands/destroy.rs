//! `destroy`

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    plan::Plan,
};

use super::show_plan;
use crate::{app::App, args::DestroyArgs, steps::Steps, store::no_such};

/// Removes everything of an instance.
pub fn run(app: &App, args: &DestroyArgs) -> Result<()> {
    let id: InstanceId = args.target.id.parse()?;
    if !app.store().exists(&id)? {
        return Err(no_such(id.as_str()));
    }
    let plan = Plan::destroy(&id);
    if args.target.dry_run {
        return show_plan(app.ui, args.target.output, &plan, |_| String::new());
    }
    app.need_root()?;
    if !args.force {
        // A record that cannot be read is cleared with --force only: the person should know that it is damaged.
        app.store().load(&id)?;
        confirm(app, &id)?;
    }
    let mut progress = app.ui.progress();
    let _lock = app.hold(&id)?;
    if !app.recover(&id, &mut progress)?.is_gone() {
        app.carry_out(&plan, &mut Steps::of_existing(app, &id), &mut progress)?;
    }
    if args.target.output.json {
        return app.ui.json(&serde_json::json!({ "id": id.as_str(), "destroyed": true }));
    }
    app.ui.note(&format!("`{id}` is gone"));
    Ok(())
}

fn confirm(app: &App, id: &InstanceId) -> Result<()> {
    let question =
        format!("This removes `{id}` with its disk and all that the agent has done. Type the ID to go on:");
    let refused = |why: &str| {
        Error::new("destroy", format!("instance `{id}`"))
            .kind(Kind::Refused)
            .because(why.to_owned())
            .hint("`--force` asks nothing")
    };
    match app.ui.ask(&question) {
        Some(answer) if answer == id.as_str() => Ok(()),
        Some(_) => Err(refused("the answer was not its ID; nothing was changed")),
        None => Err(refused("there is no terminal to ask on; nothing was changed")),
    }
}
