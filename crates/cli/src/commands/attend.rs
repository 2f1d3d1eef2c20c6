//! `attend`: does what an instance's proxy asks for, as root. What a supervisor runs when there is a request in the proxy's folder.
//!
//! All that comes from the proxy, which nobody trusts, is that a file is there. An instance is woken only from its own sleep: one
//! that was stopped or that failed stays down. It is put to sleep only when the host itself sees that it rests.

use std::time::Duration;

use fireclaw_core::{
    activity,
    error::{Error, Kind, Result},
    id::InstanceId,
    layout::Layout,
    plan::Plan,
    state::InstanceRecord,
};
use fireclaw_host::{
    exec::Stdin,
    lock,
    proc::ProcessId,
    requests::{Inbox, Want},
    ssh::{LoginState, control},
    supervisor::{Service, State},
};

use crate::{app::App, fleet, hibernate, steps::Steps};

/// A client waits as long as whoever holds the instance works on it.
const HELD: Duration = Duration::from_mins(15);
/// A look at the guest is a login and one command.
const LOOK: Duration = Duration::from_secs(30);

/// Deals with requests until there is none. Where that cannot even begin (settings or a record that cannot be read), whoever asks
/// is told: systemd starts this for as long as a request lies there, and would again and again.
pub fn run(app: Result<App>, id: &str) -> Result<()> {
    let id: InstanceId = id.parse()?;
    let done = app.and_then(|app| serve(&app, &id));
    if let Err(error) = &done {
        // The embedded supervisor sees to its own folder.
        give_up(&Inbox::new(Layout::unit_run(&id)), error);
    }
    done
}

/// The error itself goes to the journal; what stays unsaid beside it is of no use to anybody.
fn give_up(inbox: &Inbox, error: &Error) {
    let _ = inbox.give_up(&error.one_line());
}

/// As [`run`], for one that could begin.
pub fn serve(app: &App, id: &InstanceId) -> Result<()> {
    app.need_root()?;
    let record = app.store().load(id)?;
    let inbox = hibernate::inbox(app, &record)?;
    while let Some(want) = inbox.wanted() {
        match want {
            Want::Wake => {
                let woken = wake(app, &record, &inbox);
                if let Err(error) = &woken {
                    app.ui.warn(&format!("cannot wake `{id}`: {}", error.one_line()));
                    inbox.woke(Some(&error.one_line()))?;
                }
            }
            Want::Sleep => {
                let slept = doze(app, &record, &inbox).unwrap_or_else(|error| {
                    app.ui.warn(&format!("`{id}` stays awake: {}", error.one_line()));
                    false
                });
                inbox.slept(slept)?;
            }
        }
    }
    Ok(())
}

/// Sees to it that the VM runs, tells the proxy, and only then looks after the guest: the client waits for the first.
fn wake(app: &App, record: &InstanceRecord, inbox: &Inbox) -> Result<()> {
    let id = &record.id;
    let paths = app.settings.layout.instance(id)?;
    // The file first: systemd would load the unit, and gather its properties, for an answer that is of no use then.
    let runs = || {
        !paths.snapshot_manifest.exists()
            && matches!(
                fleet::service_status(app, record, Service::Vm).state,
                State::Active | State::Activating
            )
    };
    // Somebody may hold the instance and wait for its gateway through this very proxy. What nobody works on any more may be a VM
    // that was left paused.
    if runs() && (!paths.journal.exists() || lock::last_holder(&paths.lock).is_some()) {
        return inbox.woke(None);
    }
    let held = lock::wait_for(&paths.lock, &format!("instance `{id}`"), HELD, &app.interrupt)?;
    let mut progress = app.ui.progress();
    app.recover(id, &mut progress)?;
    if runs() {
        return inbox.woke(None);
    }
    if !paths.snapshot_manifest.exists() {
        return Err(Error::new("wake", format!("instance `{id}`"))
            .because("it does not sleep: its VM is down")
            .hint(format!("`fireclaw start {id}`")));
    }
    let mut steps = Steps::of_existing(app, id);
    app.carry_out(&Plan::wake(id), &mut steps, &mut progress)?;
    inbox.woke(None)?;
    // What is left changes nothing of the instance, and takes seconds that its owner's next command should not wait for.
    drop(held);
    if let Err(error) = steps.step_clock() {
        app.ui.warn(&format!("the guest's clock may be behind: {}", error.one_line()));
    }
    // Should it have had to boot, it has said why by now.
    steps.tell_of_drop(&mut progress)?;
    steps.close();
    Ok(())
}

/// Puts an instance to sleep that rests. False when it does not, or somebody works on it: the proxy asks again.
fn doze(app: &App, record: &InstanceRecord, inbox: &Inbox) -> Result<bool> {
    let id = &record.id;
    if record.idle.sleeps_after(record.has_channel()).is_none() {
        return Ok(false);
    }
    let _lock = match app.hold(id) {
        Err(error) if error.get_kind() == Kind::Held => return Ok(false),
        other => other?,
    };
    let mut progress = app.ui.progress();
    app.recover(id, &mut progress)?;
    let sleeps = hibernate::bytes(app, id).is_some();
    if fleet::service_status(app, record, Service::Vm).state != State::Active {
        return Ok(sleeps);
    }
    if sleeps {
        // An earlier try kept the memory and could not end the VM: its guest stands still.
        hibernate::let_run_on(app, record)?;
    }
    hibernate::check(app, record)?;
    if let Some(work) = work_of(app, record)? {
        app.ui.note(&format!("`{id}` stays awake: {work}"));
        return Ok(false);
    }
    if !inbox.take_up()? {
        return Ok(false);
    }
    app.carry_out(&Plan::doze(id), &mut Steps::of_existing(app, id), &mut progress).map(|_| true)
}

/// What keeps an instance awake that no client is connected to.
fn work_of(app: &App, record: &InstanceRecord) -> Result<Option<String>> {
    if let Some(pid) = someone_inside(app, &record.id)? {
        return Ok(Some(format!("process {pid} is logged in to it")));
    }
    let guest = crate::steps::guest_of(app, record)?;
    let shell = &app.host.shell;
    if !matches!(shell.login(&guest)?, LoginState::In) {
        return Ok(Some("its guest does not answer".to_owned()));
    }
    let words: Vec<&str> = ["cat"].into_iter().chain(activity::FILES).collect();
    let said = shell.run(&guest, &words, Stdin::Null, LOOK, &mut |_, _| {});
    shell.close(&guest)?;
    Ok(activity::work(&said?.text(), record.vcpu, record.network.gateway_ip(), record.host_port))
}

/// A `shell` or `logs` of somebody: its connection's socket is named after the process.
fn someone_inside(app: &App, id: &InstanceId) -> Result<Option<i32>> {
    let own = ProcessId::own().map(|process| process.pid);
    let sockets = control::all(&app.settings.layout.instance(id)?.ssh_control)?;
    let others = sockets.into_iter().filter(|socket| socket.is_ready && Some(socket.owner) != own);
    Ok(others.map(|socket| socket.owner).filter(|pid| ProcessId::of(*pid).is_some()).min())
}
