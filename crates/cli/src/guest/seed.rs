//! `guest seed`: makes this guest the machine that its seed disk describes, before its network and its SSH server start. Writes files
//! below /etc, /var/lib/fireclaw and its user's home; starts ssh-keygen or cloud-init.
//!
//! A seed that was applied before is not applied again. One that holds more than fireclaw's own do goes to cloud-init whole.

use std::{collections::BTreeMap, path::Path};

use fireclaw_core::{
    error::{Error, Result},
    guest::{
        USER,
        paths::{GuestPaths, IdentityFiles, SeedPaths},
        seed::{self, Seed},
        system::Account,
    },
};
use fireclaw_host::{exec::Cmd, seed::reader};

use super::{Guest, account, files::Ownership};
use crate::digest::sha256;

/// Applies it; a line about what was done.
pub(super) fn apply(guest: &Guest<'_>) -> Result<String> {
    let paths = GuestPaths::seed();
    if let Some(folder) = paths.flag.parent() {
        guest.files.system_dir(folder)?;
    }
    let Some(disk) = reader::find(&guest.files.root()) else {
        return cloud_init(guest, &paths, "there is no small vfat disk labelled CIDATA");
    };
    let stamp = format!("{}\n", sha256(&disk.bytes));
    // A stamp that cannot be read is no stamp.
    if guest.files.read(&paths.stamp).ok().flatten().as_ref() == Some(&stamp) {
        return Ok("this seed is applied already".to_owned());
    }
    let files: BTreeMap<String, String> = match disk.files() {
        Ok(files) => files,
        Err(error) => return cloud_init(guest, &paths, &error.to_string()),
    };
    match seed::read(&files) {
        Err(why) => cloud_init(guest, &paths, &why.to_string()),
        Ok(seed) => {
            become_it(guest, &paths, &seed)?;
            guest.files.write(&paths.stamp, &stamp, 0o600)?;
            Ok(format!("seed of {} applied", disk.device.display()))
        }
    }
}

/// The network comes first: whatever fails after it can be looked at from outside.
fn become_it(guest: &Guest<'_>, paths: &SeedPaths, seed: &Seed) -> Result<()> {
    let Seed { hostname, login_keys, host_key, network } = seed;
    guest.files.write(&paths.network, network, 0o644)?;
    let account = account::find(guest)?
        .ok_or_else(|| Error::new("find", format!("user {USER}")).because("the image has none"))?;
    let identity = GuestPaths::identity(&account.home);
    guest.files.write(&identity.hostname, &format!("{hostname}\n"), 0o644)?;
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost\n");
    guest.files.write(&paths.hosts, &hosts, 0o644)?;
    guest.files.write_in_place(&paths.kernel_hostname, hostname)?;
    let_log_in(guest, &identity, &account, login_keys)?;
    if let Some(key) = host_key {
        let line = |text: &str| format!("{}\n", text.trim_end());
        guest.files.write(&identity.host_key_public, &line(&key.public), 0o644)?;
        guest.files.write(&identity.host_key, &line(key.private.expose()), 0o600)?;
    }
    if !guest.files.exists(&identity.host_key) {
        // A guest that was given no host key makes one.
        let args = ["-q", "-t", "ed25519", "-N", "", "-f"];
        guest.exec.check(Cmd::new("ssh-keygen").args(args).arg(&identity.host_key))?;
    }
    Ok(())
}

/// As cloud-init does: keys that the user added stay.
fn let_log_in(guest: &Guest<'_>, identity: &IdentityFiles, account: &Account, keys: &[String]) -> Result<()> {
    let file = &identity.authorized_keys;
    let folder = file.parent().unwrap_or(Path::new("/"));
    if guest.files.owned_dir(folder, account)? == Ownership::AnotherUsers {
        account::hand_over(guest, folder, account)?;
        guest.files.owned_dir(folder, account)?;
    }
    let there = guest.files.read(file)?.unwrap_or_default();
    let others = there.lines().filter(|line| !keys.iter().any(|key| key == line));
    let text: String =
        keys.iter().map(String::as_str).chain(others).map(|line| format!("{line}\n")).collect();
    guest.files.write_owned(file, &folder.join("authorized_keys.new"), &text, account)
}

/// Leaves the seed to cloud-init: its first stage now, the others by a unit that waits for the network.
fn cloud_init(guest: &Guest<'_>, paths: &SeedPaths, why: &str) -> Result<String> {
    guest.files.remove(&paths.network)?;
    guest.files.remove(&paths.stamp)?;
    guest.files.write(&paths.flag, "", 0o644)?;
    guest.exec.check(Cmd::new("/usr/bin/cloud-init").args(["init", "--local"]))?;
    Ok(format!("cloud-init takes the seed: {why}"))
}
