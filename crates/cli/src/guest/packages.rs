//! Debian packages in a guest whose image does not bring them. Runs apt-get.

use std::time::Duration;

use fireclaw_core::error::Result;
use fireclaw_host::{apt, exec::Cmd};

use super::{Guest, events::Events};

/// Installs packages; their names are ours, never a user's.
pub(super) fn install(guest: &Guest<'_>, packages: &[&str], events: &mut Events<'_>) -> Result<()> {
    // Another apt may run: cloud-init's, or the daily one.
    let command = |verb: &str| {
        Cmd::new("apt-get")
            .args(["--quiet", "--yes", "-o", "DPkg::Lock::Timeout=600", verb])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1")
            .deadline(Duration::from_mins(30))
    };
    let update = || command("update");
    let told = apt::update(guest.exec, &guest.interrupt, &update, &mut |_, line| events.log(line))?;
    if let Some(why) = told {
        events.warning(why);
    }
    let install = command("install").arg("--no-install-recommends").args(packages);
    guest.exec.check_stream(install, &mut |_, line| events.log(line)).map(drop)
}
