//! The native runtime: Node and OpenClaw as the image carries them. Reads the guest's files.

use std::{path::PathBuf, time::Duration};

use fireclaw_core::{
    error::{Error, Kind, Result},
    guest::{
        paths::{GuestFiles, GuestPaths},
        unit::{self, Native},
    },
    id::InstanceId,
};
use fireclaw_host::exec::Cmd;

use super::{Guest, account::Owner};

/// A check of a configuration takes a second or two, and a minute where the guest is emulated.
pub(super) const VALIDATE: Duration = Duration::from_mins(5);

/// Where the image carries things.
pub(super) struct Install {
    pub(super) node: PathBuf,
    pub(super) package: PathBuf,
}

/// Finds Node and OpenClaw.
pub(super) fn find(guest: &Guest<'_>) -> Option<Install> {
    let node = GuestPaths::nodes().find(|path| guest.files.exists(path))?;
    let package = GuestPaths::packages().find(|path| guest.files.exists(&path.join("openclaw.mjs")))?;
    Some(Install { node, package })
}

/// As [`find`], for a request that needs them.
pub(super) fn require(guest: &Guest<'_>) -> Result<Install> {
    find(guest).ok_or_else(|| {
        Error::new("use", "the native runtime")
            .kind(Kind::Refused)
            .because("this image carries no OpenClaw")
            .hint("use --runtime docker, or an image made by `fireclaw image build`")
    })
}

/// The unit that starts the gateway.
pub(super) fn unit(install: &Install, id: &InstanceId, files: &GuestFiles, owner: &Owner) -> String {
    let native = Native { node: &install.node, package: &install.package, home: &owner.account.home };
    unit::native(id, &files.environment, &native)
}

/// The check of the candidate configuration by OpenClaw itself, as the user that will run it.
pub(super) fn validate(install: &Install, owner: &Owner) -> Cmd {
    let mut cmd = Cmd::new(&install.node)
        .arg(install.package.join("openclaw.mjs"))
        .args(["config", "validate", "--json"])
        .user(owner.account.uid, owner.account.gid)
        .cwd(&owner.account.home)
        .env("HOME", &owner.account.home)
        .env("OPENCLAW_CONFIG_PATH", &owner.state.candidate)
        .deadline(VALIDATE)
        .about("the new configuration");
    for (name, value) in unit::native_environment() {
        cmd = cmd.env(name, value);
    }
    cmd
}
