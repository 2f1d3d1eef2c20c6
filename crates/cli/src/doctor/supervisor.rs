//! Whether those who keep instances running can, and whether what they keep is as it should be. Looks at the supervisors;
//! [`reinstall`] writes anew what is missing or outdated.

use fireclaw_core::{
    error::Result,
    spec::{ServiceSpec, SupervisorKind},
};

use fireclaw_host::systemd;

use super::{Finding, Fix};
use crate::app::App;

/// Who would keep a new instance running.
pub(super) fn check(app: &App, kind: SupervisorKind) -> Finding {
    let supervisors = &app.host.supervisors;
    if !supervisors.has(kind) {
        let detail = format!("`{kind}` is configured and is not PID 1 of this host");
        let fix = Fix::Command("set `supervisor` in /etc/fireclaw/config.toml to auto".to_owned());
        return Finding::bad("supervisor", detail, fix);
    }
    match supervisors.of(kind).check() {
        Ok(detail) => Finding::good("supervisor", format!("{kind}: {detail}")),
        Err(error) => {
            let no_bus = kind == SupervisorKind::Systemd && !systemd::has_bus();
            let look = || Fix::Command("busctl status".to_owned());
            let fix = if no_bus { Fix::Packages(vec!["dbus"]) } else { look() };
            Finding::bad("supervisor", error.one_line(), fix)
        }
    }
}

/// Whether the units of all instances are as this fireclaw writes them. None where nothing has units.
pub(super) fn units(app: &App) -> Option<Finding> {
    let (count, drift) = match drifted(app) {
        Ok(found) => found,
        Err(error) => return Some(Finding::bad("units", error.one_line(), Fix::None).advice()),
    };
    match (count, drift.as_slice()) {
        (0, _) => None,
        (_, []) => Some(Finding::good("units", format!("those of {count} instances are in place")).advice()),
        (_, drift) => Some(Finding::bad("units", drift.join(", "), Fix::Units).advice()),
    }
}

/// How many instances have units, and what is wrong with them.
fn drifted(app: &App) -> Result<(usize, Vec<String>)> {
    let (mut count, mut drift) = (0, Vec::new());
    for record in app.store().records()? {
        let supervisor = app.supervisor_of(&record);
        if supervisor.kind() == SupervisorKind::Systemd {
            count += 1;
            drift.extend(supervisor.drift(&record.id, &ServiceSpec::of(&record, &app.settings))?);
        }
    }
    Ok((count, drift))
}

/// Writes units that are missing or outdated. What runs goes on running.
pub(super) fn reinstall(app: &App) -> Result<()> {
    app.need_root()?;
    for record in app.store().records()? {
        crate::steps::install_services(app, &record)?;
    }
    Ok(())
}
