//! The user that the gateway runs as and the folder of its state. Writes the user database by useradd.

use std::path::{Path, PathBuf};

use fireclaw_core::{
    error::{Error, Result},
    guest::{
        USER, USER_ID,
        paths::{GuestPaths, StateFiles},
        system::{self, Account},
    },
    id::InstanceId,
    spec::value::Runtime,
};
use fireclaw_host::exec::Cmd;

use super::{Guest, events::Events, files::Ownership};

/// Who runs the gateway, and where its state lies.
pub(super) struct Owner {
    pub(super) account: Account,
    pub(super) state: StateFiles,
    /// Folders beside it that a container gets, and where.
    pub(super) volumes: Vec<(PathBuf, &'static str)>,
}

/// Finds the user, makes it where there is none, and makes its state folder belong to whoever runs the gateway: the user itself,
/// or the container's user of a fixed id. Says in `changed` what it did.
pub(super) fn ensure(
    guest: &Guest<'_>,
    id: &InstanceId,
    runtime: Runtime,
    events: &mut Events<'_>,
    changed: &mut Vec<String>,
) -> Result<Owner> {
    if find(guest)?.is_none() {
        events.step(format!("create user {USER}"));
        let args = ["--create-home", "--shell", "/bin/bash", "--user-group", USER];
        guest.exec.check(Cmd::new("useradd").args(args))?;
        changed.push("user".to_owned());
    }
    let mut account = find(guest)?
        .ok_or_else(|| Error::new("find", format!("user {USER}")).because("useradd did not make it"))?;
    let state = GuestPaths::state(&account.home);
    let mut volumes = Vec::new();
    if runtime == Runtime::Docker {
        (account.uid, account.gid) = (USER_ID, USER_ID);
        let older = GuestPaths::older_state(id, &account.home);
        if guest.files.adopt_dir(&older.config, &state.dir)? {
            events.step("take over what the Bash fireclaw kept");
            changed.push("state".to_owned());
        }
        let there = older.volumes().into_iter().filter(|(folder, _)| guest.files.exists(folder));
        volumes.extend(there.map(|(folder, place)| (folder.to_owned(), place)));
    }
    if guest.files.owned_dir(&state.dir, &account)? == Ownership::AnotherUsers {
        events.step(format!("hand {} over to its user", state.dir.display()));
        hand_over(guest, &state.dir, &account)?;
        guest.files.owned_dir(&state.dir, &account)?;
        changed.push("owner".to_owned());
    }
    Ok(Owner { account, state, volumes })
}

/// The user, if there is one.
pub(super) fn find(guest: &Guest<'_>) -> Result<Option<Account>> {
    Ok(guest.files.read_system(&GuestPaths::passwd())?.and_then(|passwd| system::account(&passwd, USER)))
}

/// A state folder of another user's (made by root's hand, or by the other runtime) ends in a gateway that cannot write.
pub(super) fn hand_over(guest: &Guest<'_>, dir: &Path, account: &Account) -> Result<()> {
    let owner = format!("{}:{}", account.uid, account.gid);
    let cmd = Cmd::new("chown").args(["--recursive", "--no-dereference", &owner]).arg(dir);
    guest.exec.check(cmd).map(drop)
}
