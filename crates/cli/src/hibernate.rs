//! The memory of a hibernated instance: written while its VM is paused, looked at by commands, used up by one start. Touches the
//! instance's snapshot folder and its VMM.
//!
//! ```text
//!  running ──pause──▶ paused ──files, then manifest──▶ saved ──VMM ends──▶ hibernated ──run──▶ manifest gone ──load──▶ running
//!     ▲                 │ failure, kill -9                │ kill -9                │ does not fit
//!     └── let run on ───┘                                 └── VMM ends             └── dropped, cold boot
//! ```
//! The manifest is the one sign of a snapshot: it is written when all else is on the disk, and removed before anything is resumed,
//! so that nothing half-written is ever used and nothing is used twice.

use std::{fs::File, sync::Arc, time::Duration};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    id::InstanceId,
    layout::InstancePaths,
    report::StatusCheck,
    snapshot::{Manifest, Misfit},
    spec::{SupervisorKind, VmmKind},
    state::InstanceRecord,
};
use fireclaw_host::{
    disk::space::allocated_bytes,
    fs,
    requests::Inbox,
    snapshot,
    vmm::{self, SnapshotFiles, Start, VmSpec, Vmm, socket},
    wait::{Probed, Requirement, until},
};

use crate::{app::App, clock, commands::run::vm_spec, containment, rates};

/// What is left free beside the memory, for the guest's own disk and the logs.
const SPARE: u64 = 256 << 20;

/// A VMM that does nothing else answers at once, on a machine that is very busy a little later.
const ANSWERS: Duration = Duration::from_secs(10);

/// What a hibernated instance takes on the disk; `None` when it is not.
pub fn bytes(app: &App, id: &InstanceId) -> Option<u64> {
    let paths = app.settings.layout.instance(id).ok()?;
    if !paths.snapshot_manifest.exists() {
        return None;
    }
    let files = [&paths.snapshot_manifest, &paths.snapshot_state, &paths.snapshot_memory];
    Some(files.into_iter().filter_map(|path| allocated_bytes(path).ok()).sum())
}

/// The VMM that an instance was set up for, whether or not it can run here.
pub fn vmm_of(app: &App, record: &InstanceRecord) -> Result<Box<dyn Vmm>> {
    vmm::of(rates::kind_of(app, record), Arc::clone(&app.host.exec))
}

/// Where an instance's proxy puts its requests.
pub fn inbox(app: &App, record: &InstanceRecord) -> Result<Inbox> {
    let paths = app.settings.layout.instance(&record.id)?;
    Ok(Inbox::new(match app.supervised_by(record) {
        SupervisorKind::Systemd => paths.requests_dir_of_unit,
        SupervisorKind::Embedded => paths.requests_dir,
    }))
}

fn files(paths: &InstancePaths) -> SnapshotFiles {
    SnapshotFiles { state: paths.snapshot_state.clone(), memory: paths.snapshot_memory.clone() }
}

/// Fails when the memory of a VM cannot be kept: its VMM takes no snapshots, or there is no room.
pub fn check(app: &App, record: &InstanceRecord) -> Result<()> {
    if rates::kind_of(app, record) == VmmKind::Qemu {
        // Says why, and names no file that would have to be there.
        return vmm_of(app, record)?.snapshot_version(&record.id, None).map(drop);
    }
    containment::need_own_services(app, &record.id, "hibernate", format!("instance `{}`", record.id))?;
    let paths = app.settings.layout.instance(&record.id)?;
    let needed = (u64::from(record.mem_mib) << 20) + SPARE;
    let free = app.host.disks.free_bytes(&paths.dir)?;
    if free >= needed {
        return Ok(());
    }
    Err(Error::new("hibernate", format!("instance `{}`", record.id))
        .because(format!(
            "its memory takes up to {} MiB with what must stay free, and {} has {} MiB; nothing was changed",
            needed >> 20,
            paths.dir.display(),
            free >> 20
        ))
        .hint(format!("free some room there, or use `fireclaw stop {}`", record.id)))
}

/// Pauses the VM and writes its memory down, durably. After a failure [`let_run_on`] puts things right.
pub fn save(app: &App, record: &InstanceRecord) -> Result<()> {
    check(app, record)?;
    let paths = app.settings.layout.instance(&record.id)?;
    let vmm = vmm_of(app, record)?;
    let spec = vm_spec(app, record, true, Start::Becoming)?;
    // What was said of an earlier one is of no interest any more.
    fs::remove_file(&paths.snapshot_dropped)?;
    fs::remove_tree(&paths.snapshot_dir)?;
    fs::ensure_private_dir(&paths.snapshot_dir)?;
    let version = vmm.snapshot_version(&record.id, Some(&spec.api_sock))?;
    vmm.pause(&spec.api_sock)?;
    let saved = vmm.save(&spec, &files(&paths)).and_then(|()| {
        let state = snapshot::seal(&paths.snapshot_state)?;
        let memory = snapshot::seal(&paths.snapshot_memory)?;
        // What the guest wrote must be there after a power cut too, and with it the time of the last write, which ties the
        // memory to the disk.
        File::open(&spec.disk).and_then(|disk| disk.sync_all()).context("sync", spec.disk.display())?;
        let ties = snapshot::ties(&spec, version)?;
        let manifest = Manifest::new(clock::now_rfc3339(), ties, state, memory);
        fs::write(&paths.snapshot_manifest, manifest.render()?.as_bytes(), 0o600)?;
        fs::sync_dir(&paths.dir)
    });
    saved.map_err(|error| {
        let hint = format!("the VM runs on; see whether there is room on {}", paths.dir.display());
        Error::new("save", format!("the memory of `{}`", record.id)).source(error).hint(hint)
    })
}

/// Drops what was written, and lets a VM run on that is paused. Where there is no VM, or it runs, that is fine. One that still
/// writes, whoever asked for it being gone, is waited for.
pub fn let_run_on(app: &App, record: &InstanceRecord) -> Result<()> {
    let paths = app.settings.layout.instance(&record.id)?;
    discard(&paths)?;
    let vmm = vmm_of(app, record)?;
    let api_sock = crate::commands::run::api_sock(app, record)?;
    let writes = vmm.has_memory(&api_sock);
    let requirement = Requirement {
        description: format!("the VM of `{}` to go on", record.id),
        deadline: if writes { vmm.longest_save(record.mem_mib).max(ANSWERS) } else { ANSWERS },
        hint: format!(
            "`fireclaw logs {} host` says what its VMM does; the next command tries again",
            record.id
        ),
    };
    let runs = until(&requirement, &app.interrupt, || match vmm.info(&api_sock) {
        Ok(info) if info.state != "paused" => Probed::Ready(info.state == "running"),
        Err(_) if !socket::is_listening(&api_sock) => Probed::Ready(false),
        // Paused, or too slow to say: a VM that runs takes it as well.
        _ => match vmm.resume(&api_sock) {
            Ok(()) => Probed::Ready(true),
            Err(error) => Probed::NotYet(error.one_line()),
        },
    })?;
    // What it wrote would take its room until the VM ends. Of one that has not begun it is what it is about to load.
    if runs { vmm.drop_memory(&api_sock) } else { Ok(()) }
}

/// Whether the VM runs, and is neither paused nor hung.
pub fn runs(app: &App, record: &InstanceRecord) -> Result<bool> {
    let api_sock = crate::commands::run::api_sock(app, record)?;
    Ok(vmm_of(app, record)?.info(&api_sock).is_ok_and(|info| info.state == "running"))
}

/// Removes a snapshot, its manifest first. True when there was one.
pub fn discard(paths: &InstancePaths) -> Result<bool> {
    let there = paths.snapshot_manifest.exists();
    if there {
        fs::remove_file(&paths.snapshot_manifest)?;
        fs::sync_dir(&paths.snapshot_dir)?;
    }
    fs::remove_tree(&paths.snapshot_dir)?;
    Ok(there)
}

/// The snapshot that a VM about to start goes on from. One that does not fit, or is damaged, is dropped, and a note says why.
pub fn claim(paths: &InstancePaths, spec: &VmSpec, vmm: &dyn Vmm) -> Result<Option<SnapshotFiles>> {
    let text = match fs::read_if_there(&paths.snapshot_manifest) {
        Ok(Some(text)) => text,
        Ok(None) => {
            // What a power cut left of one that was being written.
            discard(paths)?;
            return Ok(None);
        }
        Err(error) => {
            drop_because(paths, &error.one_line())?;
            return Ok(None);
        }
    };
    // Who cannot say its version now may a moment later: no memory is dropped for that.
    let version = match vmm.kind() {
        VmmKind::Qemu => None,
        VmmKind::Firecracker => Some(vmm.snapshot_version(&spec.id, None)?),
    };
    match fits(paths, spec, version, &text) {
        Ok(()) => Ok(Some(files(paths))),
        Err(misfit) => {
            drop_because(paths, &misfit.0)?;
            Ok(None)
        }
    }
}

fn fits(paths: &InstancePaths, spec: &VmSpec, version: Option<String>, manifest: &str) -> Result<(), Misfit> {
    let misfit = |error: Error| Misfit(error.one_line());
    let what = paths.snapshot_manifest.display().to_string();
    let manifest = Manifest::parse(&what, manifest).map_err(misfit)?;
    let Some(version) = version else {
        return Err(Misfit("it was Firecracker's, and the VM runs on qemu now".to_owned()));
    };
    manifest.ties.hold(&snapshot::ties(spec, version).map_err(misfit)?)?;
    snapshot::check(&paths.snapshot_state, manifest.state).map_err(misfit)?;
    snapshot::check(&paths.snapshot_memory, manifest.memory).map_err(misfit)
}

/// Drops a snapshot and leaves the reason for whoever started the VM.
pub fn drop_because(paths: &InstancePaths, why: &str) -> Result<()> {
    discard(paths)?;
    fs::write(&paths.snapshot_dropped, format!("{why}\n").as_bytes(), 0o600)
}

/// Why the last start did not go on from its snapshot, told once.
pub fn told_drop(paths: &InstancePaths) -> Result<Option<String>> {
    let told = fs::read_if_there(&paths.snapshot_dropped)?;
    if told.is_some() {
        fs::remove_file(&paths.snapshot_dropped)?;
    }
    Ok(told.map(|text| text.trim_end().to_owned()))
}

/// How the checks of `status` read for an instance that sleeps: nothing of them is wrong.
pub fn explain(record: &InstanceRecord, checks: &mut Vec<StatusCheck>) {
    let asleep = ["vm", "gateway in the guest", "gateway through the proxy"];
    checks.retain(|check| !asleep.contains(&check.name));
    checks.insert(
        0,
        StatusCheck {
            name: "vm",
            ok: true,
            detail: "hibernated".to_owned(),
            hint: Some(format!("`fireclaw start {}` wakes it", record.id)),
        },
    );
}

/// The error of a command that needs a running guest.
pub fn asleep(app: &App, id: &InstanceId, error: Error) -> Error {
    if bytes(app, id).is_none() {
        return error;
    }
    Error::new("reach", format!("the guest of `{id}`"))
        .kind(Kind::Failed)
        .because("it is hibernated")
        .hint(format!("`fireclaw start {id}` wakes it"))
}
