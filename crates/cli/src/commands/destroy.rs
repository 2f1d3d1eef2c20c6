//! `destroy`

use std::path::PathBuf;

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    plan::{Operation, Plan},
};
use fireclaw_host::fs;

use super::show_plan;
use crate::{
    app::App,
    args::DestroyArgs,
    engine::{Past, Recovered},
    steps::Steps,
    store::no_such,
};

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
    if !args.force && !is_begun(app, &id)? {
        // A record that cannot be read is cleared with --force only: the person should know that it is damaged.
        app.store().load(&id)?;
        confirm(app, &id)?;
    }
    let mut progress = app.ui.progress();
    let _lock = app.hold(&id)?;
    // A VM that is going to be killed need not be let run on before, which may take minutes where it hangs.
    if args.force && was(app, &id, Operation::Hibernate)? {
        fs::remove_file(&journal(app, &id)?)?;
    }
    let recovered = match app.recover(&id, &mut progress) {
        // Whatever was being done cannot be finished, and need not be: what there is goes.
        Err(error) if args.force && error.get_kind() != Kind::Interrupted => {
            app.ui.warn(&error.one_line());
            fs::remove_file(&journal(app, &id)?)?;
            Recovered::Nothing
        }
        other => other?,
    };
    if !recovered.is_gone() {
        app.carry_out(&plan, &mut Steps::of_existing(app, &id), &mut progress)?;
    }
    if args.target.output.json {
        return app.ui.json(&serde_json::json!({ "id": id.as_str(), "destroyed": true }));
    }
    app.ui.note(&format!("`{id}` is gone"));
    Ok(())
}

fn journal(app: &App, id: &InstanceId) -> Result<PathBuf> {
    Ok(app.settings.layout.instance(id)?.journal)
}

/// Whether somebody said yes already: the record may be gone by now.
fn is_begun(app: &App, id: &InstanceId) -> Result<bool> {
    was(app, id, Operation::Destroy)
}

/// Whether this is the operation that was cut short.
fn was(app: &App, id: &InstanceId, operation: Operation) -> Result<bool> {
    let past = Past::read(&journal(app, id)?).unwrap_or_default();
    Ok(past.is_some_and(|past| past.plan.operation == operation))
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
