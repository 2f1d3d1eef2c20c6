//! A Firecracker's memory out of its jail and into another's. Touches the jail, the snapshot's files and the VMM's API.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    render::firecracker::{inside, jail_file},
};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use super::api::{Api, Snapshot};
use crate::{
    fs,
    interrupt::Interrupt,
    vmm::{SnapshotFiles, VmSpec},
};

/// The least that a disk writes in a second, for the time that a snapshot may take.
const SLOWEST: u64 = 16 << 20;

/// The root of the jail that a running Firecracker is in, from the link that leads to its socket.
fn jail_of(api_sock: &Path) -> Result<PathBuf> {
    let target = std::fs::read_link(api_sock).context("find the jail behind", api_sock.display())?;
    let root = target.parent().and_then(Path::parent).map(Path::to_owned);
    root.ok_or_else(|| {
        Error::new("find the jail behind", api_sock.display().to_string()).because("it leads nowhere")
    })
}

/// For a disk as slow as they get.
pub(super) fn longest_save(mem_mib: u32) -> Duration {
    Duration::from_secs(60 + (u64::from(mem_mib) << 20) / SLOWEST)
}

/// Has a paused VM written out, and takes the files out of its jail.
pub(super) fn save(spec: &VmSpec, to: &SnapshotFiles) -> Result<()> {
    let root = jail_of(&spec.api_sock)?;
    let files = [(root.join(jail_file::STATE), &to.state), (root.join(jail_file::MEMORY), &to.memory)];
    let saved = files.iter().try_for_each(|(inside, _)| make(inside, spec.uid, spec.gid)).and_then(|()| {
        let api = Api::new(&spec.api_sock, longest_save(spec.mem_mib));
        with_names(|snapshot| api.create_snapshot(snapshot))?;
        files.iter().try_for_each(|(inside, outside)| take(inside, outside))
    });
    if saved.is_err() {
        // The error is what counts; what cannot be removed goes with the jail, and with the folder.
        for (inside, outside) in &files {
            let _ = fs::remove_file(inside);
            let _ = fs::remove_file(outside);
        }
    }
    saved
}

/// The files in the jail, as Firecracker names them.
fn with_names(call: impl FnOnce(&Snapshot<'_>) -> Result<()>) -> Result<()> {
    call(&Snapshot { state: &inside(jail_file::STATE), memory: &inside(jail_file::MEMORY) })
}

/// An empty file for the VM's user alone. Firecracker fills it, and its mode never depends on a umask.
fn make(path: &Path, uid: u32, gid: u32) -> Result<()> {
    fs::remove_file(path)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|_| chown(path, Some(uid), Some(gid))).context("make", path.display())
}

/// From the VM's user to root, and out of the jail.
fn take(inside: &Path, outside: &Path) -> Result<()> {
    let file = File::open(inside).context("open", inside.display())?;
    std::os::unix::fs::fchown(&file, Some(0), Some(0)).context("take", inside.display())?;
    file.set_permissions(Permissions::from_mode(0o600)).context("take", inside.display())?;
    match std::fs::rename(inside, outside) {
        // A jail on another filesystem than the instance's folder.
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            crate::disk::copy_sparse(inside, outside, &Interrupt::default())?;
            std::fs::set_permissions(outside, Permissions::from_mode(0o600))
                .context("take", outside.display())?;
            fs::remove_file(inside)
        }
        other => other.context("take", inside.display()),
    }
}

/// Whether a snapshot lies in the jail, to be loaded or half written.
pub(super) fn has_memory(api_sock: &Path) -> bool {
    jail_of(api_sock).is_ok_and(|root| root.join(jail_file::MEMORY).exists())
}

/// Removes it. One that is in no jail, as the Bash fireclaw's were, has none.
pub(super) fn drop_memory(api_sock: &Path) -> Result<()> {
    let Ok(root) = jail_of(api_sock) else { return Ok(()) };
    [jail_file::MEMORY, jail_file::STATE].iter().try_for_each(|name| fs::remove_file(&root.join(name)))
}

/// Whether the Firecracker in the jail has ended, by the file in which its jailer tells its process. One that cannot be told of
/// counts as running.
pub(super) fn has_ended(api_sock: &Path) -> bool {
    let told = jail_of(api_sock).ok().and_then(|root| {
        let mut name = root.parent()?.parent()?.file_name()?.to_owned();
        name.push(".pid");
        std::fs::read_to_string(root.join(name)).ok()?.trim().parse().ok()
    });
    // Not by /proc, in which a unit's sandbox hides other users' processes.
    told.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// Loads the snapshot that lies in the jail, and removes it: Firecracker has mapped the memory.
pub(super) fn load(api_sock: &Path, deadline: Duration) -> Result<()> {
    let loaded = with_names(|snapshot| Api::new(api_sock, deadline).load_snapshot(snapshot, true));
    drop_memory(api_sock).and(loaded)
}
