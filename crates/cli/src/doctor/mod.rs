//! The checks of the host as data: what is looked at, whether it is required, and what mends it. `doctor` shows them, `setup`
//! asks the required ones, `--fix` and `--yes` mend. Looks at the host; changes it only in [`mend`].

mod checks;
pub mod firecracker;
mod packages;
mod supervisor;

use fireclaw_core::{
    error::{Error, Kind, Result},
    report::DoctorCheck,
    spec::{SupervisorKind, release::Source},
};
pub use packages::{Need, QEMU};

use crate::{
    app::App,
    engine::{Observer, together},
};

/// What mends a failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Nothing is wrong, or nothing helps.
    None,
    /// Packages of the distribution.
    Packages(Vec<&'static str>),
    /// Firecracker and its jailer, from a release.
    Firecracker(Source),
    /// Our firewall tables, rendered anew.
    Firewall,
    /// The units of instances, written anew.
    Units,
    /// A command that the user runs: we do not decide this for them.
    Command(String),
}

/// One look at the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// Whether fireclaw works without it.
    pub required: bool,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What mends it.
    pub fix: Fix,
}

impl Finding {
    fn good(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), required: true, ok: true, detail: detail.into(), fix: Fix::None }
    }

    fn bad(name: &str, detail: impl Into<String>, fix: Fix) -> Self {
        Self { name: name.to_owned(), required: true, ok: false, detail: detail.into(), fix }
    }

    const fn advice(mut self) -> Self {
        self.required = false;
        self
    }

    /// The finding as a line of `doctor`.
    pub fn report(&self) -> DoctorCheck {
        let fix = match &self.fix {
            Fix::None => None,
            Fix::Packages(packages) => Some(format!("apt-get install {}", packages.join(" "))),
            Fix::Firewall | Fix::Units | Fix::Firecracker(_) => Some("fireclaw doctor --fix".to_owned()),
            Fix::Command(command) => Some(command.clone()),
        };
        DoctorCheck {
            name: self.name.clone(),
            required: self.required,
            ok: self.ok,
            detail: self.detail.clone(),
            fix: fix.filter(|_| !self.ok),
        }
    }
}

/// What the host is looked at for.
#[derive(Debug, Clone)]
pub struct Purpose<'a> {
    /// The programs.
    pub needs: Vec<Need>,
    /// Who is to keep an instance running.
    pub supervisor: SupervisorKind,
    /// Where the user wants Firecracker from, whichever is there.
    pub from: Option<&'a Source>,
}

impl Purpose<'_> {
    /// Whatever the settings say, with the Firecracker that is there.
    pub fn of_settings(app: &App, needs: Vec<Need>) -> Self {
        let auto = || app.host.supervisors.auto();
        Self { needs, supervisor: app.settings.supervisor.unwrap_or_else(auto), from: None }
    }
}

/// Looks at the whole host.
pub fn examine(app: &App, purpose: &Purpose<'_>) -> Vec<Finding> {
    let needs = &purpose.needs;
    let mut findings = vec![checks::root(), checks::platform()];
    findings.extend(
        needs.iter().filter(|need| **need != Need::Firecracker).map(|need| packages::check(app, *need)),
    );
    findings.extend([
        supervisor::check(app, purpose.supervisor),
        checks::tun(),
        checks::kvm(),
        firecracker::check(app, needs.contains(&Need::Firecracker), purpose.from),
        checks::memory(app),
        checks::space(app),
        checks::forwarding(app),
        checks::firewall(app),
        checks::image(app),
        checks::instances(app),
    ]);
    findings.extend(supervisor::units(app));
    findings
}

/// Carries out what mends the failed checks. What needs nothing comes first, and where one thing cannot be mended the others are.
pub fn mend(app: &App, findings: &[Finding], watch: &mut dyn Observer) -> Result<()> {
    let failed: Vec<&Finding> = findings.iter().filter(|finding| !finding.ok).collect();
    let mut results: Vec<Result<()>> = Vec::new();
    if failed.iter().any(|finding| finding.fix == Fix::Firewall) {
        results.push(crate::steps::reinstall_firewall(app));
    }
    if failed.iter().any(|finding| finding.fix == Fix::Units) {
        results.push(supervisor::reinstall(app));
    }
    let of_packages = |finding: &&Finding| match &finding.fix {
        Fix::Packages(packages) => packages.clone(),
        _ => Vec::new(),
    };
    let mut wanted: Vec<&str> = failed.iter().flat_map(of_packages).collect();
    let releases: Vec<(&Finding, &Source)> = failed
        .iter()
        .filter_map(|finding| match &finding.fix {
            Fix::Firecracker(source) => Some((*finding, source)),
            _ => None,
        })
        .collect();
    wanted.extend(releases.iter().flat_map(|(_, source)| firecracker::packages(app, source)));
    wanted.sort_unstable();
    wanted.dedup();
    if !wanted.is_empty() {
        results.push(packages::install(app, &wanted, watch));
    }
    for (finding, source) in releases {
        results.push(match firecracker::install(app, source, watch) {
            // QEMU runs VMs too: the host is as good as before.
            Err(error) if !finding.required => {
                watch.warn(&error.one_line());
                Ok(())
            }
            done => done.map(drop),
        });
    }
    together(results.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

/// Fails with exit code 4 when a required check does.
pub fn must_be_ready(findings: &[Finding]) -> Result<()> {
    let failed: Vec<String> = findings
        .iter()
        .filter(|finding| finding.required && !finding.ok)
        .map(|finding| format!("{}: {}", finding.name, finding.detail))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new("use", "this host")
        .kind(Kind::HostNotReady)
        .because(failed.join("\n"))
        .hint("run `fireclaw doctor --fix`, or give --yes to have it done"))
}
