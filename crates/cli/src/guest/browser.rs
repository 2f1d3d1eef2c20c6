//! The browser that the gateway drives. Reads the guest's files; installs a package.

use fireclaw_core::{
    error::Result,
    guest::{paths::GuestPaths, settings::Browser, system::Os},
    spec::value::Runtime,
};

use super::{Guest, events::Events, native, packages};

/// The packages of a browser that shows pages as people see them.
const PACKAGES: [&str; 2] = ["chromium", "fonts-liberation"];

/// Where a list of names says what is let through, a name must be readable and its address ours: no decoy of an encrypted
/// `ClientHello`, no QUIC, no resolver of the browser's own.
const POLICY: &str =
    "{\"EncryptedClientHelloEnabled\": false, \"QuicAllowed\": false, \"DnsOverHttpsMode\": \"off\"}\n";

/// Finds the browser, or installs one. A guest that can have none still has a gateway, so that is a warning.
pub(super) fn ensure(
    guest: &Guest<'_>,
    runtime: Runtime,
    events: &mut Events<'_>,
    changed: &mut Vec<String>,
) -> Result<Option<Browser>> {
    let sandbox = sandbox(guest)?;
    if runtime == Runtime::Docker {
        // The guest's own browser is out of a container's reach; images whose tag ends in -browser bring one.
        return Ok(Some(Browser { executable: None, sandbox }));
    }
    // An image of our own has no browser because its builder said so.
    let own = native::find(guest).is_some_and(|install| GuestPaths::is_own(&install.package));
    if find(guest).is_none() && !own {
        if os(guest)?.has_chromium() {
            events.step("install Chromium");
            match packages::install(guest, &PACKAGES, events) {
                Ok(()) => changed.push("browser".to_owned()),
                Err(error) => events.warning(format!("no browser: {}", error.one_line())),
            }
        } else {
            events.warning("no browser: this distribution's Chromium is a snap, which OpenClaw cannot drive");
        }
    }
    let found = find(guest);
    if found.is_some() {
        let path = GuestPaths::browser_policy();
        if let Some(folder) = path.parent() {
            guest.files.system_dir(folder)?;
        }
        guest.files.write(&path, POLICY, 0o644)?;
    }
    Ok(found.map(|path| Browser { executable: Some(path), sandbox }))
}

/// The browser that is there.
pub(super) fn find(guest: &Guest<'_>) -> Option<String> {
    GuestPaths::browsers().find(|path| guest.files.exists(path)).map(|path| path.display().to_string())
}

/// What the guest is.
pub(super) fn os(guest: &Guest<'_>) -> Result<Os> {
    for path in GuestPaths::os_release() {
        if let Some(text) = guest.files.read_system(&path)? {
            return Ok(Os::parse(&text));
        }
    }
    Ok(Os::default())
}

/// Whether the kernel lets an ordinary user make namespaces.
fn sandbox(guest: &Guest<'_>) -> Result<bool> {
    for (path, forbidden) in GuestPaths::user_namespaces() {
        if guest.files.read_system(&path)?.is_some_and(|text| text.trim() == forbidden) {
            return Ok(false);
        }
    }
    Ok(true)
}
