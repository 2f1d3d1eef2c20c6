//! `run`: becomes the VM of an instance. What a supervisor starts.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::vmm_uid,
    render::cgroup::{Size, entries},
    spec::{Arch, DiskKind, SupervisorKind, VmmKind, vmm_choice::choose},
    state::InstanceRecord,
};
use fireclaw_host::{
    cgroup::{self, Controllers},
    exec::handover,
    vmm::{self, Start, VmSpec, Vmm, kvm, socket},
};

use super::{clean, resume};
use crate::{app::App, hibernate, setup_checks, steps};

/// Makes tap and rules ready, opens what the VMM needs, and execs it: nothing of fireclaw stays beside a VM. With `forking`
/// the VMM is not this process but a child in a PID namespace of its own, and this process ends. Where there is a memory to go
/// on from it is loaded before that, or by `resume`, which is left behind.
pub fn run(app: &App, id: &str, forking: bool) -> Result<ExitCode> {
    app.need_root()?;
    let record = app.store().load(&id.parse()?)?;
    kvm::settle(Path::new("/"), Arch::named(std::env::consts::ARCH)?, &app.interrupt)?;
    let (vmm, kvm) = vmm_of(app, &record)?;
    let start = if forking { Start::Forking } else { Start::Becoming };
    let mut spec = vm_spec(app, &record, kvm, start)?;
    for file in spec.base.iter().chain([&spec.disk]) {
        setup_checks::disk_is_there(&record.id, file)?;
    }
    if socket::is_listening(&spec.api_sock) {
        return Err(Error::new("start", format!("the VM of `{id}`"))
            .kind(Kind::Refused)
            .because("it runs already")
            .hint(format!("see `fireclaw status {id}`")));
    }
    // A process less than a supervisor that has it done before.
    clean::leftovers(app, &record)?;
    steps::attach(app, &record)?;
    steps::limit_network(app, &record, vmm.kind())?;
    limit(app, &record, vmm.kind())?;
    let paths = app.settings.layout.instance(&record.id)?;
    spec.resume = hibernate::claim(&paths, &spec, &*vmm)?;
    let launch = vmm.prepare(&spec)?;
    if spec.resume.is_some() {
        // Used up: from here on only the jail has it.
        hibernate::discard(&paths)?;
        if forking {
            return resume::start(app, &record, &*vmm, &launch.cmd).map(|()| ExitCode::SUCCESS);
        }
        resume::spawn(app, &record.id)?;
    }
    match handover::replace(&launch.cmd, &launch.keep)? {}
}

/// Where no unit does it, this process limits itself and so the VMM that it becomes. What a kernel does not offer is said in
/// the VM's log.
fn limit(app: &App, record: &InstanceRecord, vmm: VmmKind) -> Result<()> {
    if app.supervised_by(record) != SupervisorKind::Embedded {
        return Ok(());
    }
    let limits = &app.settings.limits;
    let Some(controllers) = Controllers::find()? else {
        app.ui.warn("this kernel has no control groups: the VM is not limited");
        return Ok(());
    };
    let size = Size { vcpu: record.vcpu, mem_mib: record.mem_mib, vmm };
    let disk = cgroup::disk_of(&app.settings.layout.fc_root);
    let entries = entries(controllers.version, limits, size, disk);
    for told in controllers.join(&record.id, std::process::id(), &entries) {
        app.ui.warn(&format!("the VM is not limited as it should be: {told}"));
    }
    Ok(())
}

/// The VMM of an instance on this host. What the Bash fireclaw made ran on Firecracker; where that cannot run the same
/// kernel and disks run on QEMU.
pub fn vmm_of(app: &App, record: &InstanceRecord) -> Result<(Box<dyn Vmm>, bool)> {
    let wanted = record.vmm_is_chosen.then_some(record.vmm);
    let choice = choose(wanted, &setup_checks::vmm_facts(app, setup_checks::MayInstall::default())?)?;
    Ok((vmm::of(choice.vmm, Arc::clone(&app.host.exec))?, choice.kvm))
}

/// Where the VMM's API listens.
pub fn api_sock(app: &App, record: &InstanceRecord) -> Result<PathBuf> {
    if record.api_sock.as_os_str().is_empty() {
        return Ok(app.settings.layout.instance(&record.id)?.api_sock);
    }
    Ok(record.api_sock.clone())
}

/// All that a VMM must know of an instance's VM.
pub fn vm_spec(app: &App, record: &InstanceRecord, kvm: bool, start: Start) -> Result<VmSpec> {
    let paths = app.settings.layout.instance(&record.id)?;
    let uid = vmm_uid(record.vm_ip);
    Ok(VmSpec {
        id: record.id.clone(),
        disk: paths.written_disk(record.disks).clone(),
        initrd: Some(paths.initrd).filter(|path| path.exists()),
        kernel: paths.kernel,
        cmdline: record.cmdline.clone(),
        base: (record.disks == DiskKind::Shared).then_some(paths.base),
        seed: paths.seed,
        vcpu: record.vcpu,
        mem_mib: record.mem_mib,
        tap: record.vm_tap.clone(),
        mac: record.vm_mac,
        ip: record.vm_ip,
        api_sock: api_sock(app, record)?,
        uid,
        gid: uid,
        vmm_config: paths.vmm_config,
        vmm_log: paths.vmm_log,
        jail_dir: paths.jail_dir,
        kvm,
        rates: record.rates,
        start,
        resume: None,
    })
}
