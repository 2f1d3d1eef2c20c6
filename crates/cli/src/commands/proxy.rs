//! `proxy`: serves `127.0.0.1:HOST_PORT`. What a supervisor runs.

use std::net::{Ipv4Addr, SocketAddr};

use fireclaw_core::{
    error::Result,
    guest::GATEWAY_PORT,
    id::{InstanceId, proxy_uid},
};

use crate::{
    app::App,
    proxy::{self, ProxySpec},
    ui::Ui,
};

/// Reads port and address in the record.
pub fn run(app: &App, id: &str) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    serve(app.ui, id, record.host_port, record.vm_ip)
}

/// Serves what it is told: a user that may read neither record nor settings can do that. As root it binds first, then
/// gives root up, and copies.
pub fn serve(ui: Ui, id: &str, port: u16, guest: Ipv4Addr) -> Result<()> {
    let _: InstanceId = id.parse()?;
    let uid = proxy_uid(guest);
    let spec = ProxySpec {
        user: nix::unistd::geteuid().is_root().then_some((uid, uid)),
        ..ProxySpec::new(port, SocketAddr::from((guest, GATEWAY_PORT)))
    };
    proxy::serve(&spec, || (), move |line| ui.warn(line))
}
