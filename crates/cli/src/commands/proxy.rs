//! `proxy`: serves `127.0.0.1:HOST_PORT`, and on the bridge what the instance's policy and keys ask for. What a supervisor runs.

use std::{net::SocketAddr, path::PathBuf};

use fireclaw_core::{error::Result, guest::GATEWAY_PORT, id::proxy_uid};

use fireclaw_host::{memory, requests::Requests};

use crate::{
    app::App,
    containment,
    proxy::{self, ProxySpec, Rest},
};

/// As root: reads the record, binds, gives root up, and copies. As the user of a unit, who may enter no folder of ours: takes
/// the record and the keys out of the folder in which systemd hands them over, `LoadCredential=` in systemd.exec(5).
pub fn run(app: &App, id: &str) -> Result<()> {
    let id = id.parse()?;
    let record = match std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) {
        Some(folder) => app.store().handed_over(&id, &folder)?,
        None => app.store().load(&id)?,
    };
    let uid = proxy_uid(record.vm_ip);
    let spec = ProxySpec {
        network: Some(record.network.subnet),
        user: nix::unistd::geteuid().is_root().then_some((uid, uid)),
        ..ProxySpec::new(record.host_port, SocketAddr::from((record.vm_ip, GATEWAY_PORT)))
    };
    let sidecar = containment::sidecar_of(app, &record)?;
    let paths = app.settings.layout.instance(&record.id)?;
    let requests = record.idle.is_watched().then(|| match spec.user {
        Some(user) => Requests::make(&paths.requests_dir, user),
        None => Requests::open(&paths.requests_dir_of_unit),
    });
    // Whether a channel keeps it awake is for `attend` to say: the record that a unit hands over does not tell.
    let rest = requests.transpose()?.map(|requests| Rest { after: record.idle.after, requests });
    let ui = app.ui;
    proxy::serve(&spec, Some(sidecar), rest, memory::give_back, move |line| ui.warn(line))
}
