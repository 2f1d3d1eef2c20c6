//! `proxy`: serves `127.0.0.1:HOST_PORT`. What a supervisor runs.

use std::net::SocketAddr;

use fireclaw_core::{error::Result, guest::GATEWAY_PORT, id::proxy_uid};

use crate::{
    app::App,
    proxy::{self, ProxySpec},
};

/// Binds as root, then gives root up and copies.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    let uid = proxy_uid(record.vm_ip);
    let spec = ProxySpec {
        user: nix::unistd::geteuid().is_root().then_some((uid, uid)),
        ..ProxySpec::new(record.host_port, SocketAddr::from((record.vm_ip, GATEWAY_PORT)))
    };
    let ui = app.ui;
    proxy::serve(&spec, None, || (), move |line| ui.warn(line))
}
