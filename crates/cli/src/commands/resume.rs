//! `resume`: loads the memory that a VMM was started for. What a supervisor runs after `run`, or what `run` leaves behind.

use std::time::Duration;

use fireclaw_core::{
    error::{Error, Result},
    id::InstanceId,
};
use fireclaw_host::{
    exec::{Cmd, handover},
    proc::ProcessId,
    vmm::{Vmm, socket},
    wait::{Probed, Requirement, until},
};
use nix::sys::signal::Signal;

use super::run::api_sock;
use crate::{
    app::{App, own_program},
    hibernate,
};

/// From the jailer's start until Firecracker listens: milliseconds, on a busy machine more.
const LISTENS: Duration = Duration::from_secs(20);
/// Memory is mapped, not read: the size hardly counts.
const LOADS: Duration = Duration::from_mins(1);

/// Loads the memory and lets the VM run. Where none waits to be loaded there is nothing to do. A memory that cannot be loaded
/// is gone, and its VMM is ended: the supervisor then starts the VM again, and it boots.
pub fn run(app: &App, id: &str, vmm_pid: Option<i32>, detach: bool) -> Result<()> {
    let record = app.store().load(&id.parse()?)?;
    if let (true, Some(pid)) = (detach, vmm_pid) {
        return leave_behind(app, &record.id, pid);
    }
    let api_sock = api_sock(app, &record)?;
    let vmm = hibernate::vmm_of(app, &record)?;
    if !vmm.awaits_memory(&api_sock) {
        return Ok(());
    }
    match load(app, &*vmm, &api_sock) {
        Ok(()) => {
            // Without it the first connection comes through a second later.
            if let Err(error) = app.host.network.learn(&record.network, record.vm_mac, record.vm_ip) {
                app.ui.warn(&error.one_line());
            }
            app.ui.note("the VM goes on from its memory");
            Ok(())
        }
        Err(error) => {
            let paths = app.settings.layout.instance(&record.id)?;
            app.ui.warn(&format!("the memory was dropped: {}", error.one_line()));
            hibernate::drop_because(&paths, &error.one_line())?;
            // One that waits for nothing would wait for ever.
            let told = std::env::var("MAINPID").ok().and_then(|pid| pid.parse().ok());
            match vmm_pid.or(told).and_then(ProcessId::of) {
                // Mostly it has ended by itself.
                Some(process) => match process.signal(Signal::SIGKILL) {
                    Err(error) if process.is_alive() => Err(error),
                    _ => Ok(()),
                },
                None => Ok(()),
            }
        }
    }
}

fn load(app: &App, vmm: &dyn Vmm, api_sock: &std::path::Path) -> Result<()> {
    let requirement = Requirement {
        description: "the VMM's API".to_owned(),
        deadline: LISTENS,
        hint: "the VM boots instead".to_owned(),
    };
    until(&requirement, &app.interrupt, || {
        if socket::is_listening(api_sock) {
            return Probed::Ready(());
        }
        Probed::NotYet("nobody listens".to_owned())
    })?;
    vmm.load(api_sock, LOADS)
}

/// For a process that is about to become the VMM: starts `resume` as nobody's child, which no VMM has to collect.
pub(super) fn spawn(app: &App, id: &InstanceId) -> Result<()> {
    let pid = std::process::id().to_string();
    let words = ["resume", id.as_str(), "--vmm-pid", &pid, "--detach"];
    app.host.exec.check(own(app, &words)?).map(drop)
}

fn leave_behind(app: &App, id: &InstanceId, vmm_pid: i32) -> Result<()> {
    let pid = vmm_pid.to_string();
    let out = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned();
    let log = out.map_err(|error| Error::new("share", "standard error").source(error))?.into();
    handover::detach(&own(app, &["resume", id.as_str(), "--vmm-pid", &pid])?, &log).map(drop)
}

fn own(app: &App, words: &[&str]) -> Result<Cmd> {
    let cmd = Cmd::new(own_program()?).args(words).cwd("/");
    Ok(app.settings.child_environment().iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value)))
}
