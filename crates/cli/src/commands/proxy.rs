//! `proxy`: serves `127.0.0.1:HOST_PORT`, and on the bridge what the instance's policy and keys ask for. What a supervisor runs.

use std::{net::SocketAddr, path::PathBuf};

use fireclaw_core::{error::Result, guest::GATEWAY_PORT, id::proxy_uid};

use crate::{
    app::App,
    containment,
    proxy::{self, ProxySpec},
};

/// Binds and reads as root, then gives root up and copies.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    let uid = proxy_uid(record.vm_ip);
    let spec = ProxySpec {
        user: nix::unistd::geteuid().is_root().then_some((uid, uid)),
        ..ProxySpec::new(record.host_port, SocketAddr::from((record.vm_ip, GATEWAY_PORT)))
    };
    // systemd.exec(5), LoadCredential=
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let sidecar = containment::sidecar_of(app, &record, credentials.as_deref())?;
    let ui = app.ui;
    proxy::serve(&spec, Some(sidecar), || (), move |line| ui.warn(line))
}
