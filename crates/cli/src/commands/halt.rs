//! `halt`: asks an instance's guest to shut down and waits. What a supervisor runs to stop a VM.

use std::{os::unix::net::UnixStream, time::Duration};

use fireclaw_core::error::Result;
use fireclaw_host::{
    exec::Stdin,
    fs,
    ssh::LoginState,
    wait::{Probed, Requirement, until},
};

use super::run::{api_sock, vmm_of};
use crate::{app::App, steps::guest_of};

/// Shuts down by SSH, which every guest understands, else by the power button; then waits until the VMM is gone.
pub fn run(app: &App, id: &str, timeout: u64) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    let api_sock = api_sock(app, &record)?;
    if UnixStream::connect(&api_sock).is_err() {
        return Ok(());
    }
    // Kept until `clean`: what ends from now on was asked to.
    let paths = app.settings.layout.instance(&record.id)?;
    if let Some(folder) = paths.halting.parent() {
        fs::ensure_private_dir(folder)?;
    }
    fs::write(&paths.halting, b"", 0o600)?;
    let guest = guest_of(app, &record)?;
    let (vmm, _) = vmm_of(app, &record)?;
    // One try: a guest without SSH is told by its power button.
    let told = matches!(app.host.shell.login(&guest), Ok(LoginState::In))
        && app
            .host
            .shell
            .run(
                &guest,
                &["sudo", "-n", "systemctl", vmm.ending_verb()],
                Stdin::Null,
                Duration::from_secs(20),
                &mut |_, _| {},
            )
            .is_ok();
    app.host.shell.close(&guest)?;
    if !told {
        vmm.press_power_button(&api_sock)?;
    }
    let requirement = Requirement {
        description: format!("the shutdown of `{id}`"),
        deadline: Duration::from_secs(timeout),
        hint: format!("`fireclaw stop {id} --now` cuts it off"),
    };
    until(&requirement, &app.interrupt, || match UnixStream::connect(&api_sock) {
        Ok(_) => Probed::NotYet("the VMM still runs".to_owned()),
        Err(_) => Probed::Ready(()),
    })
}
