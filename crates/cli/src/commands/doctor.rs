//! `doctor`

use std::process::ExitCode;

use fireclaw_core::{
    error::{Kind, Result},
    report::DoctorReport,
    spec::release::Source,
};

use crate::{
    app::App,
    args::Output,
    doctor::{self, Need, Purpose},
    setup_checks, ui,
};

/// Checks the host, mends it when asked, and shows every effective setting. `from` says where Firecracker is to be
/// installed from, whichever is there.
pub fn run(app: &App, fix: bool, from: Option<&str>, output: Output) -> Result<ExitCode> {
    let from = from.map(Source::parse).transpose()?;
    let mut needs = Need::to_run(setup_checks::likely_vmm(app));
    needs.push(Need::ImageBuild);
    let mut purpose = Purpose::of_settings(app, needs);
    purpose.from = from.as_ref();
    let mut findings = doctor::examine(app, &purpose);
    if fix {
        let mut progress = app.ui.progress();
        progress.step("mend the host", |watch| doctor::mend(app, &findings, watch))?;
        // What was asked for is done, or has failed: this look is as anybody's.
        purpose.from = None;
        findings = doctor::examine(app, &purpose);
    }
    let ok = findings.iter().all(|finding| finding.ok || !finding.required);
    let checks: Vec<_> = findings.iter().map(doctor::Finding::report).collect();
    if output.json {
        app.ui.json(&DoctorReport { ok, checks })?;
    } else {
        let mut text = String::new();
        for check in &checks {
            let mark = if check.ok {
                "ok  "
            } else if check.required {
                "FAIL"
            } else {
                "warn"
            };
            text.push_str(&format!("{mark} {:<12} {}\n", check.name, check.detail));
            if let Some(fix) = &check.fix {
                text.push_str(&format!("     {:<12} fix: {fix}\n", ""));
            }
        }
        text.push_str("\nsettings\n");
        text.push_str(&ui::table(
            &["NAME", "VALUE", "FROM"],
            app.settings.shown.iter().map(|s| vec![s.name.to_owned(), s.value.clone(), s.origin.to_string()]),
        ));
        app.ui.result(&text)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::HostNotReady.exit_code()) })
}
