//! One file a command; this one dispatches. Every command takes its arguments and the [`App`] and returns an exit code.

pub mod attend;
pub mod audit;
pub mod clean;
pub mod clone;
pub mod completion;
pub mod destroy;
pub mod doctor;
pub mod egress;
pub mod guest;
pub mod halt;
pub mod hibernate;
pub mod image;
pub mod keys;
pub mod lifecycle;
pub mod list;
pub mod logs;
pub mod provision;
pub mod proxy;
pub mod resume;
pub mod run;
pub mod setup;
pub mod shell;
pub mod status;
pub mod supervise;
pub mod token;

use std::process::ExitCode;

use fireclaw_core::{
    error::Result,
    plan::Plan,
    report::{PlanReport, PlannedStep},
};

use crate::{
    app::App,
    args::{Cli, Command, Output},
    ui::Ui,
};

/// Runs a parsed command line.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    let app = |quiet| App::system(quiet);
    match cli.command {
        Command::Setup(args) => done(setup::run(&app(args.output.quiet)?, &args)),
        Command::Provision(args) => done(provision::run(&app(args.output.quiet)?, &args)),
        Command::List(json) => done(list::run(&app(false)?, json.json)),
        Command::Status { id: None, json } => done(list::run(&app(false)?, json.json)),
        Command::Status { id: Some(id), json } => done(status::run(&app(false)?, &id, json.json)),
        Command::Start(args) => done(lifecycle::start(&app(args.output.quiet)?, &args)),
        Command::Stop(args) => done(lifecycle::stop(&app(args.target.output.quiet)?, &args)),
        Command::Hibernate(args) => done(hibernate::run(&app(args.output.quiet)?, &args)),
        Command::Restart(args) => done(lifecycle::restart(&app(args.target.output.quiet)?, &args)),
        Command::Logs(args) => logs::run(&app(false)?, &args),
        Command::Shell { id, command } => shell::run(&app(false)?, &id, &command),
        Command::Token { id } => done(token::run(&app(false)?, &id)),
        Command::Egress { id, action } => done(egress::run(&app(action.is_quiet())?, &id, &action)),
        Command::Keys { id, action } => done(keys::run(&app(action.output().quiet)?, &id, &action)),
        Command::Clone(args) => done(clone::run(&app(args.output.quiet)?, &args)),
        Command::Destroy(args) => done(destroy::run(&app(args.target.output.quiet)?, &args)),
        Command::Doctor { fix, firecracker_from, output } => {
            doctor::run(&app(output.quiet)?, fix, firecracker_from.as_deref(), output)
        }
        Command::Audit(json) => audit::run(&app(false)?, json.json),
        Command::Image(command) => done(image::run(command)),
        Command::Completion { shell } => done(completion::completion(Ui::new(false, true), shell)),
        Command::Man { dir } => done(completion::man(Ui::new(false, true), dir.as_deref())),
        Command::Run { id, forking } => run::run(&app(true)?, &id, forking),
        Command::Halt { id, timeout } => done(halt::run(&app(true)?, &id, timeout)),
        Command::Resume { id, vmm_pid, detach } => done(resume::run(&app(false)?, &id, vmm_pid, detach)),
        Command::Attend { id } => done(attend::run(app(true), &id)),
        Command::Clean { id, ended } => clean::run(&app(true)?, &id, ended),
        Command::Supervise { id } => done(supervise::run(&app(true)?, &id)),
        Command::Proxy { id } => done(proxy::run(&app(true)?, &id)),
        Command::Guest(command) => guest::run(command),
    }
}

/// Prints a plan instead of carrying it out.
fn show_plan(
    ui: Ui,
    output: Output,
    plan: &Plan,
    detail: impl Fn(&fireclaw_core::plan::Action) -> String,
) -> Result<()> {
    let report = PlanReport {
        operation: plan.operation.to_string(),
        id: plan.id.to_string(),
        steps: plan
            .actions
            .iter()
            .map(|action| PlannedStep { name: action.title().to_owned(), detail: detail(action) })
            .collect(),
    };
    if output.json {
        return ui.json(&report);
    }
    let mut text = format!("{} `{}` would:\n", report.operation, report.id);
    for (index, step) in report.steps.iter().enumerate() {
        let dash = if step.detail.is_empty() { "" } else { "  " };
        text.push_str(&format!("{:>3}. {:<22}{dash}{}\n", index + 1, step.name, step.detail));
    }
    ui.result(text.trim_end())
}
