//! `shell`

use std::process::ExitCode;

use fireclaw_core::error::{Error, Result};
use fireclaw_host::ssh::LoginState;

use crate::{app::App, hibernate, steps::guest_of};

/// A terminal in the guest, or one command, whose code is ours.
pub fn run(app: &App, id: &str, command: &[String]) -> Result<ExitCode> {
    let record = app.store().load(&id.parse()?)?;
    let guest = guest_of(app, &record)?;
    reachable(app, &record.id, &guest)?;
    let code = app.host.shell.attach(&guest, command, None);
    app.host.shell.close(&guest)?;
    code.map(ExitCode::from)
}

/// Fails with the next command when the guest cannot be logged in to.
pub fn reachable(
    app: &App,
    id: &fireclaw_core::id::InstanceId,
    guest: &fireclaw_host::ssh::Guest,
) -> Result<()> {
    match app.host.shell.login(guest)? {
        LoginState::In => Ok(()),
        LoginState::Denied(error) | LoginState::OtherHostKey(error) => Err(error),
        LoginState::NotYet(why) => {
            let error = Error::new("log in to", format!("the guest of `{id}`"))
                .because(why)
                .hint(format!("see `fireclaw status {id}`; `fireclaw start {id}` starts it"));
            Err(hibernate::asleep(app, id, error))
        }
    }
}
