//! The checks of the host as data: what is looked at, whether it is required, and what mends it. `doctor` shows them, `setup`
//! asks the required ones, `--fix` and `--yes` mend. Looks at the host; changes it only in [`mend`].

mod checks;
mod packages;
mod supervisor;

use fireclaw_core::{
    error::{Error, Kind, Result},
    report::DoctorCheck,
};
pub use packages::{Need, QEMU};

use crate::{app::App, engine::Observer};

/// What mends a failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Nothing is wrong, or nothing helps.
    None,
    /// Packages of the distribution.
    Packages(Vec<&'static str>),
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
            Fix::Firewall | Fix::Units => Some("fireclaw doctor --fix".to_owned()),
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

/// Looks at the whole host for the given needs.
pub fn examine(app: &App, needs: &[Need]) -> Vec<Finding> {
    let mut findings = vec![checks::root(), checks::platform()];
    findings.extend(needs.iter().map(|need| packages::check(app, *need)));
    findings.extend([
        supervisor::check(app),
        checks::tun(),
        checks::kvm(),
        checks::firecracker(app),
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

/// Carries out what mends the failed checks.
pub fn mend(app: &App, findings: &[Finding], watch: &mut dyn Observer) -> Result<()> {
    let mut wanted: Vec<&str> = findings
        .iter()
        .filter(|finding| !finding.ok)
        .filter_map(|finding| if let Fix::Packages(packages) = &finding.fix { Some(packages) } else { None })
        .flatten()
        .copied()
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if !wanted.is_empty() {
        packages::install(app, &wanted, watch)?;
    }
    if findings.iter().any(|finding| !finding.ok && finding.fix == Fix::Firewall) {
        crate::steps::reinstall_firewall(app)?;
    }
    if findings.iter().any(|finding| !finding.ok && finding.fix == Fix::Units) {
        supervisor::reinstall(app)?;
    }
    Ok(())
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
