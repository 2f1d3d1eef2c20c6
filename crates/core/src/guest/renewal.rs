//! What makes the copy of an instance's disk another instance's: which of its files go, which are written anew, which get the
//! new name. Touches nothing; the host carries the edits out on the disk before anything boots from it.
//!
//! What follows from the seed (network, login key, hostname) is applied by the guest before its network is up. What would run or
//! be shown before that, or without that, is here: machine id, host keys, the gateway's unit and token. The gateway's unit is
//! only taken away. Provisioning writes the new one, so the new gateway never runs with anything of the old.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    USER, channels, environment, merge,
    paths::{GuestFiles, GuestPaths, IdentityFiles, StateFiles},
};
use crate::{
    error::{Error, Kind, Result},
    id::InstanceId,
    render::cloud_init::GuestHostKey,
    secret::Secret,
    spec::DiskKind,
};

/// Who the guest is going to be.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// Whose disk was copied.
    pub from: InstanceId,
    /// Whose it is now.
    pub to: InstanceId,
    /// What kind of disk it is.
    pub disks: DiskKind,
    /// 32 hexadecimal digits (machine-id(5)).
    pub machine_id: String,
    /// The key that its sshd shows.
    pub host_key: GuestHostKey,
    /// The gateway's token.
    pub token: Secret,
    /// A login key that is no longer to open it: one line of `authorized_keys`.
    pub old_login: Option<String>,
    /// Take its channels away; else a copy that has some is refused.
    pub without_channels: bool,
}

/// A file of the guest's as it was found. Owner and mode are kept when it is written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// All of it.
    pub text: String,
    /// Its owner, group and permission bits.
    pub owner: Owner,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Owner {
    const fn root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }
}

/// How the files of the guest are looked at, by their paths on the disk.
pub trait Look {
    /// A regular file; `None` when there is nothing by this name. Anything else by this name is an error.
    fn file(&self, path: &str) -> Result<Option<Found>>;
    /// Whether there is anything by this name.
    fn exists(&self, path: &str) -> Result<bool>;
    /// Whether it is a regular file.
    fn is_file(&self, path: &str) -> Result<bool>;
    /// The regular files in a folder whose names are plain enough to be used again; none when there is no such folder.
    fn files(&self, path: &str) -> Result<Vec<String>>;
}

/// One change of the disk, by paths on the disk. Paths are made of letters, digits and `. _ / -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A file that is not to be there; one that is not there is fine.
    Remove(String),
    /// A file or folder that gets another name in the same folder.
    Rename(String, String),
    /// A file, in place of whatever is there.
    Write {
        /// Where; the folder is there.
        path: String,
        /// Its whole content.
        text: Secret,
        /// Whose it becomes.
        owner: Owner,
    },
}

/// What is to be done, and what it takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edits {
    /// In this order.
    pub edits: Vec<Edit>,
    /// The channels that the copy loses.
    pub channels: BTreeSet<String>,
}

impl Renewal {
    /// Where a path of the guest lies on its disk. Over a shared base, what was written lies in the upper layer, and homes beside
    /// it (the image's ramdisk says so).
    fn on_disk(&self, path: &std::path::Path) -> String {
        let path = path.display();
        match self.disks {
            DiskKind::Copy => path.to_string(),
            DiskKind::Shared if path.to_string().starts_with("/home/") => format!("/plain{path}"),
            DiskKind::Shared => format!("/upper{path}"),
        }
    }

    /// Looks at the disk and decides. [`Kind::Refused`] when it has a channel that it may not keep, and when it is not the disk of
    /// a guest that this fireclaw provisioned.
    pub fn edits(&self, disk: &dyn Look) -> Result<Edits> {
        let home = std::path::Path::new("/home").join(USER);
        let (files, state) = (GuestPaths::instance(&self.from), GuestPaths::state(&home));
        let mut edits = Vec::new();
        self.gateway(&files, disk, &mut edits)?;
        let channels = self.openclaw(&state, disk, &mut edits)?;
        // What an instance that was the Bash fireclaw's keeps under its own name.
        let [from, to] =
            [&self.from, &self.to].map(|id| self.on_disk(&GuestPaths::older_state(id, &home).folder));
        if disk.exists(&from)? {
            edits.push(Edit::Rename(from, to));
        }
        self.machine(&GuestPaths::identity(&home), disk, &mut edits)?;
        Ok(Edits { edits, channels })
    }

    /// Unit, environment, and what was asked for last time: that stays under the new name, for the user's own changes are told by
    /// it.
    fn gateway(&self, from: &GuestFiles, disk: &dyn Look, edits: &mut Vec<Edit>) -> Result<()> {
        let to = GuestPaths::instance(&self.to);
        let base = self.on_disk(&from.base);
        if !disk.is_file(&base)? {
            return Err(self.not_ours("it was never provisioned by this fireclaw"));
        }
        edits.push(Edit::Rename(base, self.on_disk(&to.base)));
        for path in [&from.wanted, &from.unit, &from.environment, &from.pending] {
            edits.push(Edit::Remove(self.on_disk(path)));
        }
        // What the user changed with `systemctl edit`.
        let own = self.on_disk(&from.drop_ins);
        if disk.exists(&own)? {
            edits.push(Edit::Rename(own, self.on_disk(&to.drop_ins)));
        }
        Ok(())
    }

    fn openclaw(
        &self,
        state: &StateFiles,
        disk: &dyn Look,
        edits: &mut Vec<Edit>,
    ) -> Result<BTreeSet<String>> {
        let path = self.on_disk(&state.config);
        let Some(found) = disk.file(&path)? else {
            return Err(self.not_ours(&format!("there is no {}", state.config.display())));
        };
        let config = merge::parse_config(&found.text)?;
        let dotenv_path = self.on_disk(&state.dotenv);
        let dotenv = disk.file(&dotenv_path)?;
        let channels = channels::configured(&config, dotenv.as_ref().map(|found| found.text.as_str()));
        if !channels.is_empty() && !self.without_channels {
            let names: Vec<&str> = channels.iter().map(String::as_str).collect();
            return Err(has_channels(&self.from, &names));
        }
        let mut renewed = if self.without_channels { channels::without(&config) } else { config.clone() };
        // A token that an older tool or a hand put there would hide the new one.
        if let Some(auth) = renewed.pointer_mut("/gateway/auth").and_then(Value::as_object_mut) {
            auth.shift_remove("token");
        }
        if renewed != config {
            let text = Secret::new(merge::render_config(&renewed));
            edits.push(Edit::Write { path, text, owner: found.owner });
        }
        if let Some(Found { text, owner }) = dotenv {
            let text = if self.without_channels { channels::without_tokens(&text) } else { text };
            let text = Secret::new(environment::dotenv(Some(&text), self.token.expose()));
            edits.push(Edit::Write { path: dotenv_path, text, owner });
        }
        // Copies that OpenClaw or a hand kept may hold what was just taken out, and OpenClaw may go back to one.
        let folder = self.on_disk(&state.dir);
        edits.push(Edit::Remove(self.on_disk(&state.candidate)));
        let copies = disk.files(&folder)?.into_iter().filter(|name| name.starts_with("openclaw.json."));
        edits.extend(copies.map(|name| Edit::Remove(format!("{folder}/{name}"))));
        Ok(channels)
    }

    fn machine(&self, files: &IdentityFiles, disk: &dyn Look, edits: &mut Vec<Edit>) -> Result<()> {
        let write = |path: &std::path::Path, text: String, mode| Edit::Write {
            path: self.on_disk(path),
            text: Secret::new(text),
            owner: Owner::root(mode),
        };
        let id = || format!("{}\n", self.machine_id);
        edits.push(write(&files.machine_id, id(), 0o444));
        // Where it is not a link to the other, systemd takes a new id from it.
        if disk.is_file(&self.on_disk(&files.dbus_machine_id))? {
            edits.push(write(&files.dbus_machine_id, id(), 0o444));
        }
        edits.push(write(&files.hostname, format!("{}\n", self.to.guest_hostname()), 0o644));
        // Two guests with one would begin with the same randomness.
        edits.push(Edit::Remove(self.on_disk(&files.random_seed)));
        edits.extend(files.other_host_keys.iter().map(|path| Edit::Remove(self.on_disk(path))));
        let line = |text: &str| format!("{}\n", text.trim_end());
        edits.push(write(&files.host_key, line(self.host_key.private.expose()), 0o600));
        edits.push(write(&files.host_key_public, line(&self.host_key.public), 0o644));
        let path = self.on_disk(&files.authorized_keys);
        if let Some(old) = &self.old_login
            && let Some(Found { text, owner }) = disk.file(&path)?
        {
            let kept = text.lines().filter(|line| !same_key(line, old));
            let text = Secret::new(kept.fold(String::new(), |text, line| text + line + "\n"));
            edits.push(Edit::Write { path, text, owner });
        }
        Ok(())
    }

    fn not_ours(&self, why: &str) -> Error {
        Error::new("copy", format!("the guest of `{}`", self.from))
            .kind(Kind::Refused)
            .because(why.to_owned())
            .hint(provision_first(&self.from))
    }
}

/// The hint for an instance that this fireclaw does not know from inside.
pub fn provision_first(from: &InstanceId) -> String {
    format!("`fireclaw start {from}`, `fireclaw provision {from}`, `fireclaw stop {from}`, then again")
}

/// The refusal of an instance that has channels.
pub fn has_channels(from: &InstanceId, names: &[&str]) -> Error {
    Error::refused(
        "instance",
        from,
        format!("has channels that only one gateway may serve: {}", names.join(", ")),
    )
    .hint("--without-channels leaves them out of the clone")
}

/// Whether two lines of `authorized_keys` without options are the same key, whatever their comments.
fn same_key(one: &str, other: &str) -> bool {
    let key = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    key(one) == key(other)
}

#[cfg(test)]
mod tests;
