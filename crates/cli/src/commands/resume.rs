//! `resume`: loads the memory that a VMM was started for. `run` does it, or leaves it behind where it becomes the VMM.

use std::{fs::File, os::fd::AsFd, time::Duration};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
    state::InstanceRecord,
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
    let vmm = hibernate::vmm_of(app, &record)?;
    if !vmm.has_memory(&api_sock(app, &record)?) || go_on(app, &record, &*vmm).is_ok() {
        return Ok(());
    }
    // One that waits for nothing would wait for ever. Mostly it has ended by itself.
    match vmm_pid.and_then(ProcessId::of) {
        Some(process) => match process.signal(Signal::SIGKILL) {
            Err(error) if process.is_alive() => Err(error),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

/// For a process that the VMM outlives: starts it by way of the jailer, which ends once it runs, and loads the memory. Who waits
/// for this process finds the guest going on, and after a failure ends what is left.
pub fn start(app: &App, record: &InstanceRecord, vmm: &dyn Vmm, jailer: &Cmd) -> Result<()> {
    let mut child = handover::spawn(jailer, Some(&standard_error()?))?;
    let status = child.wait().context("wait for", "the jailer")?;
    if !status.success() {
        return Err(Error::new("start", format!("the VM of `{}`", record.id)).because(status.to_string()));
    }
    go_on(app, record, vmm)
}

/// A memory that cannot be loaded is dropped.
fn go_on(app: &App, record: &InstanceRecord, vmm: &dyn Vmm) -> Result<()> {
    if let Err(error) = load(app, vmm, &api_sock(app, record)?) {
        app.ui.warn(&format!("the memory was dropped: {}", error.one_line()));
        hibernate::drop_because(&app.settings.layout.instance(&record.id)?, &error.one_line())?;
        return Err(error);
    }
    // Without it the first connection comes through a second later.
    if let Err(error) = app.host.network.learn(&record.network, record.vm_mac, record.vm_ip) {
        app.ui.warn(&error.one_line());
    }
    app.ui.note("the VM goes on from its memory");
    Ok(())
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
        if vmm.has_ended(api_sock) {
            return Probed::Never(Error::new("reach", "the VMM").because("it has ended"));
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
    let resume = own(app, &["resume", id.as_str(), "--vmm-pid", &pid])?;
    handover::detach(&resume, &standard_error()?).map(drop)
}

/// What a supervisor gave us to write to, for whom we start.
fn standard_error() -> Result<File> {
    let own = std::io::stderr().as_fd().try_clone_to_owned();
    own.map(File::from).context("share", "standard error")
}

fn own(app: &App, words: &[&str]) -> Result<Cmd> {
    let cmd = Cmd::new(own_program()?).args(words).cwd("/");
    Ok(app.settings.child_environment().iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value)))
}
