//! `run`: becomes the VM of an instance. What a supervisor starts.

use std::process::ExitCode;

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::vmm_uid,
    spec::{VmmKind, vmm_choice::choose},
    state::{Format, InstanceRecord},
};
use fireclaw_host::{
    exec::handover,
    firecracker::Firecracker,
    qemu::Qemu,
    vmm::{VmSpec, Vmm},
};

use crate::{app::App, setup_checks, steps};

/// Makes tap and rules ready, opens what the VMM needs, and execs it: nothing of fireclaw stays beside a VM.
pub fn run(app: &App, id: &str) -> Result<ExitCode> {
    app.need_root()?;
    let record = app.store().load(&id.parse()?)?;
    let (vmm, kvm) = vmm_of(app, &record)?;
    let spec = vm_spec(app, &record, kvm)?;
    if !spec.disk.exists() {
        return Err(Error::new("find", spec.disk.display().to_string())
            .because("the instance's disk is missing")
            .hint(format!("`fireclaw destroy {id} --force` removes what is left")));
    }
    steps::attach(app, &record)?;
    let launch = vmm.prepare(&spec)?;
    match handover::replace(&launch.cmd, &launch.keep)? {}
}

/// The VMM of an instance on this host. What the Bash fireclaw made ran on Firecracker; where that cannot run the same
/// kernel and disks run on QEMU.
pub fn vmm_of(app: &App, record: &InstanceRecord) -> Result<(Box<dyn Vmm>, bool)> {
    let wanted = (record.format == Format::PlainV2).then_some(record.vmm);
    let choice = choose(wanted, &setup_checks::vmm_facts(app, false)?)?;
    Ok((by_kind(choice.vmm), choice.kvm))
}

/// The driver of a VMM.
pub fn by_kind(kind: VmmKind) -> Box<dyn Vmm> {
    match kind {
        VmmKind::Firecracker => Box::new(Firecracker::default()),
        VmmKind::Qemu => Box::new(Qemu::default()),
    }
}

fn vm_spec(app: &App, record: &InstanceRecord, kvm: bool) -> Result<VmSpec> {
    let paths = app.settings.layout.instance(&record.id)?;
    let uid = vmm_uid(record.vm_ip);
    Ok(VmSpec {
        id: record.id.clone(),
        initrd: Some(paths.initrd).filter(|path| path.exists()),
        kernel: paths.kernel,
        cmdline: record.cmdline.clone(),
        disk: paths.disk,
        seed: paths.seed,
        vcpu: record.vcpu,
        mem_mib: record.mem_mib,
        tap: record.vm_tap.clone(),
        mac: record.vm_mac,
        ip: record.vm_ip,
        api_sock: if record.api_sock.as_os_str().is_empty() {
            paths.api_sock
        } else {
            record.api_sock.clone()
        },
        uid,
        gid: uid,
        vmm_config: paths.vmm_config,
        vmm_log: paths.vmm_log,
        kvm,
    })
}

/// A VM that is not there to talk to.
pub fn not_running(id: &str) -> Error {
    Error::new("reach", format!("the VM of `{id}`")).kind(Kind::Failed).because("it does not run")
}
