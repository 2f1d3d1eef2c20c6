//! `clean`: removes what a run left on the host. What a supervisor runs after a VM's end.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    layout::InstancePaths,
    spec::SupervisorKind,
    state::InstanceRecord,
};
use fireclaw_host::{
    cgroup::Controllers,
    fs,
    supervisor::Service,
    systemd::journal,
    vmm::{self, console, socket},
    wait::{Probed, Requirement, until},
};

use super::run::api_sock;
use crate::app::App;

/// What systemd takes as a failure, and so starts the unit again: sysexits' "try again later".
const START_AGAIN: u8 = 75;
/// The journal has what a process wrote soon after its end.
const JOURNAL: Duration = Duration::from_secs(2);

/// Removes the tap, the API socket, the jail and the control group. What is not there is fine. With `ended` it says by its exit code whether the
/// run that has just ended is to be started again.
pub fn run(app: &App, id: &str, ended: bool) -> Result<ExitCode> {
    let record = app.store().load(&id.parse()?)?;
    let paths = app.settings.layout.instance(&record.id)?;
    let again = ended && restarts(app, &record.id, &paths);
    leftovers(app, &record)?;
    Ok(if again { ExitCode::from(START_AGAIN) } else { ExitCode::SUCCESS })
}

/// Removes what a run left that has ended; never to be called while its VM runs.
pub fn leftovers(app: &App, record: &InstanceRecord) -> Result<()> {
    let paths = app.settings.layout.instance(&record.id)?;
    let api_sock = api_sock(app, record)?;
    // One that was started by hand, beside its service: its socket is all that keeps a second VM off its disk.
    if socket::is_listening(&api_sock) {
        return Err(by_hand(&record.id, "clean up after"));
    }
    fs::remove_file(&paths.halting)?;
    app.host.network.detach(&record.id, &record.vm_tap)?;
    vmm::clean(&api_sock, &paths.jail_dir)?;
    if let (SupervisorKind::Embedded, Some(controllers)) = (app.supervised_by(record), Controllers::find()?) {
        controllers.leave(&record.id)?;
    }
    Ok(())
}

/// The refusal of what must not be done while a VM runs that no service keeps.
pub fn by_hand(id: &InstanceId, verb: &'static str) -> Error {
    Error::new(verb, format!("the VM of `{id}`"))
        .kind(Kind::Refused)
        .because("it runs outside of its service, as `start-vm.sh` starts it")
        .hint(format!("`fireclaw stop {id}` ends it"))
}

/// Whether the VM ended well, by itself, and because its guest restarts.
fn restarts(app: &App, id: &InstanceId, paths: &InstancePaths) -> bool {
    if std::env::var("SERVICE_RESULT").as_deref() != Ok("success") || paths.halting.exists() {
        return false;
    }
    let requirement = Requirement {
        description: format!("the last words of `{id}`"),
        deadline: JOURNAL,
        hint: "what is not known to restart stays down".to_owned(),
    };
    let begun = Instant::now();
    until(&requirement, &app.interrupt, || match last_words(app, id) {
        Ok(words) if console::restarts(&words) => Probed::Ready(()),
        Ok(_) => Probed::NotYet(format!("no restart after {} ms", begun.elapsed().as_millis())),
        Err(error) => Probed::Never(error),
    })
    .is_ok()
}

/// The end of the console of the run that has just ended.
fn last_words(app: &App, id: &InstanceId) -> Result<String> {
    let mut cmd = journal::command(id, &[Service::Vm], 30, false).deadline(Duration::from_secs(20));
    if let Ok(run) = std::env::var("INVOCATION_ID") {
        cmd = cmd.arg(format!("_SYSTEMD_INVOCATION_ID={run}"));
    }
    let said = app.host.exec.check(cmd)?.text();
    let words: Vec<String> = said
        .lines()
        .filter_map(|line| journal::Line::read(line, id))
        .filter(|line| !line.by_systemd)
        .map(|line| line.text)
        .collect();
    if words.is_empty() {
        return Err(Error::new("read", format!("the journal of `{id}`")).because("there is nothing in it"));
    }
    Ok(words.join("\n"))
}
