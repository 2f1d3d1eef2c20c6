//! What the proxy may do: enough open files, and no root.

use fireclaw_core::error::{Context, Result};
use fireclaw_host::cores;
use nix::{
    sys::{
        prctl::set_no_new_privs,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

/// Standard streams, listeners, the runtime's own, and some to spare.
const OWN_FILES: usize = 32;

/// Raises the limit of open files as far as `connections` need it, two files each, and gives the number of connections
/// that there is room for.
pub(super) fn make_room(connections: usize, note: impl Fn(&str)) -> Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read", "the limit of open files")?;
    let wanted = connections.saturating_mul(2).saturating_add(OWN_FILES);
    let granted = (wanted as u64).clamp(soft.min(hard), hard);
    if granted > soft {
        setrlimit(Resource::RLIMIT_NOFILE, granted, hard).context("raise", "the limit of open files")?;
    }
    let room = usize::try_from(granted).unwrap_or(usize::MAX).saturating_sub(OWN_FILES) / 2;
    if room < connections {
        note(&format!("the limit of open files leaves room for {room} connections instead of {connections}"));
    }
    Ok(room.min(connections))
}

/// Becomes this user and group for good, without supplementary groups and without a way to gain privileges by exec.
pub(super) fn give_up_root(uid: u32, gid: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).context("give up", "the supplementary groups")?;
    setresgid(group, group, group).context("become", format!("group {gid}"))?;
    setresuid(user, user, user).context("become", format!("user {uid}"))?;
    cores::forbid_again()?;
    set_no_new_privs().context("give up", "new privileges")
}
