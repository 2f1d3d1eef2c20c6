//! `audit`

use std::process::ExitCode;

use fireclaw_core::{
    audit::{Exposure, ProcessReport, Report, Role},
    error::{Kind, Result},
};
use fireclaw_host::inspect::Proc;

use crate::{app::App, audit, ui::table};

/// Shows what every instance shows to the outside, and what is wrong with it. A finding of any weight ends with 1.
pub fn run(app: &App, json: bool) -> Result<ExitCode> {
    app.need_root()?;
    let report = audit::look(app, &Proc::default())?;
    if json {
        app.ui.json(&report)?;
    } else {
        app.ui.result(&text(&report))?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Failed.exit_code()) })
}

/// The report for a person.
pub fn text(report: &Report) -> String {
    let mut text = if report.instances.is_empty() {
        "no instances\n".to_owned()
    } else {
        table(
            &["ID", "EGRESS", "KEYS", "VMM", "PROXY", "UNITS", "LISTENS ON", "VERSIONS"],
            report.instances.iter().map(row),
        )
    };
    for finding in &report.findings {
        let of = finding.instance.as_ref().map_or_else(String::new, |id| format!("{id}: "));
        text.push_str(&format!(
            "\n{:<6} {:<9} {of}{}",
            finding.weight.as_str(),
            finding.check,
            finding.detail
        ));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("\n{:<16} hint: {hint}", ""));
        }
    }
    text.push_str(if report.ok { "\nnothing found\n" } else { "\n" });
    text
}

fn row(one: &Exposure) -> Vec<String> {
    let list = |all: Vec<String>| if all.is_empty() { "-".to_owned() } else { all.join(", ") };
    let process =
        |role| one.processes.iter().find(|process| process.role == role).map_or("-".to_owned(), confinement);
    vec![
        one.id.clone(),
        one.egress.to_string(),
        one.keys.to_string(),
        process(Role::Vm),
        process(Role::Proxy),
        list(one.units.iter().map(|unit| unit.exposure.clone().unwrap_or_else(|| "?".to_owned())).collect()),
        list(one.sockets.clone()),
        list(one.versions.clone()),
    ]
}

/// `uid 1900000002, seccomp, jail`
fn confinement(process: &ProcessReport) -> String {
    let words = [("seccomp", process.seccomp), ("jail", process.jailed)];
    let held: String = words.iter().filter(|(_, it)| *it).map(|(word, _)| format!(", {word}")).collect();
    format!("uid {}{held}", process.uid)
}
