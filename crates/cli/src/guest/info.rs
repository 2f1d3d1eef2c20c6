//! What the guest has: names and versions. Reads files and asks small programs; OpenClaw itself is not started.

use fireclaw_core::{
    error::Result,
    guest::{paths::GuestPaths, protocol::InfoReport},
};
use fireclaw_host::exec::Cmd;
use serde_json::Value;

use super::{Guest, browser, native};

/// Gathers the report. What cannot be found out is not there.
pub(super) fn info(guest: &Guest<'_>) -> Result<InfoReport> {
    let install = native::find(guest);
    let openclaw = match &install {
        Some(install) => version(guest.files.read_system(&install.package.join("package.json"))?),
        None => None,
    };
    let node = install.and_then(|install| says(guest, Cmd::new(install.node).arg("--version")));
    let kernel = guest.files.read_system(&GuestPaths::kernel_release())?.unwrap_or_default();
    Ok(InfoReport {
        fireclaw: env!("CARGO_PKG_VERSION").to_owned(),
        os: browser::os(guest)?.name,
        kernel: kernel.trim().to_owned(),
        node: node.map(|version| version.trim_start_matches('v').to_owned()),
        openclaw,
        docker: docker(guest),
        browser: browser::find(guest),
    })
}

/// Docker's version, by its client.
pub(super) fn docker(guest: &Guest<'_>) -> Option<String> {
    let said = says(guest, Cmd::new(guest.exec.which("docker")?).arg("--version"))?;
    Some(docker_version(&said))
}

fn says(guest: &Guest<'_>, cmd: Cmd) -> Option<String> {
    let output = guest.exec.check(cmd).ok()?;
    Some(output.text()).filter(|text| !text.is_empty())
}

fn version(package: Option<String>) -> Option<String> {
    let package: Value = serde_json::from_str(&package?).ok()?;
    Some(package.get("version")?.as_str()?.to_owned())
}

/// `Docker version 26.1.5+dfsg1, build a72d7cd` → `26.1.5+dfsg1`.
fn docker_version(said: &str) -> String {
    let version = said.strip_prefix("Docker version ").unwrap_or(said);
    version.split(',').next().unwrap_or(version).to_owned()
}
