//! QEMU as a VMM. It runs as the VM's unprivileged user with system calls filtered from its first instruction on, and
//! opens nothing that matters itself: disks, tap and control socket are opened here and inherited. Opens files and a
//! tap, makes a socket.
//!
//! Debian packages: `qemu-system-x86` (`qemu-system-arm` on arm64).

pub mod qmp;
pub mod tsc;

use std::{
    fs::{File, Metadata},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    render::qemu::{DISK_LIMITS, DiskLimits, Fds, QemuArgs, argv, program},
    spec::{Arch, Rates, VmmKind},
};
use serde_json::json;

use crate::{
    exec::{Cmd, Exec},
    qemu::qmp::Qmp,
    tap,
    vmm::{Launch, Start, VmSpec, Vmm, VmmInfo, check_readable, find_program, open_file, socket},
};

/// How long QEMU may take to answer: it answers in milliseconds, or it hangs.
const ANSWER: Duration = Duration::from_secs(2);

/// QEMU on this machine.
pub struct Qemu {
    exec: Arc<dyn Exec>,
    arch: Arch,
    dev_kvm: PathBuf,
}

impl Qemu {
    /// QEMU for guests of this machine's architecture. Fails on machines of an unknown one.
    pub fn new(exec: Arc<dyn Exec>) -> Result<Self> {
        Ok(Self { exec, arch: Arch::named(std::env::consts::ARCH)?, dev_kvm: "/dev/kvm".into() })
    }

    fn qmp(path: &Path) -> Result<Qmp> {
        Qmp::connect(path, ANSWER)
    }
}

/// The files of one VM, open.
struct Files {
    kernel: File,
    initrd: Option<File>,
    base: Option<File>,
    disk: File,
    seed: File,
}

impl Files {
    fn open(spec: &VmSpec, gid: u32) -> Result<Self> {
        let shared = |path: &Path| -> Result<File> {
            let (file, metadata) = open_file(path, false)?;
            check_readable(path, &metadata, spec.uid, gid)?;
            Ok(file)
        };
        Ok(Self {
            kernel: shared(&spec.kernel)?,
            initrd: spec.initrd.as_deref().map(shared).transpose()?,
            base: spec.base.as_deref().map(shared).transpose()?,
            disk: open_file(&spec.disk, true)?.0,
            seed: open_file(&spec.seed, false)?.0,
        })
    }
}

impl Vmm for Qemu {
    fn kind(&self) -> VmmKind {
        VmmKind::Qemu
    }

    /// The socket comes last: it is the one thing that `clean` has to remove.
    fn prepare(&self, spec: &VmSpec) -> Result<Launch> {
        if spec.start == Start::Forking {
            return Err(Error::new("start", "QEMU").because("it has no PID namespace to be left in"));
        }
        let program = program(self.arch);
        let path = find_program(&*self.exec, program)?;
        let gid = if spec.kvm { kvm_group(&self.dev_kvm, spec.uid, spec.gid)? } else { spec.gid };
        let files = Files::open(spec, gid)?;
        let tap = tap::open(&spec.tap)?;
        let qmp = socket::listen(&spec.api_sock)?;
        let args = argv(&QemuArgs {
            id: &spec.id,
            arch: self.arch,
            kvm: spec.kvm,
            vcpu: spec.vcpu,
            mem_mib: spec.mem_mib,
            cmdline: &spec.cmdline,
            mac: spec.mac,
            rates: spec.rates,
            tsc_khz: if spec.kvm { None } else { tsc::khz() },
            fds: Fds {
                kernel: files.kernel.as_raw_fd(),
                initrd: files.initrd.as_ref().map(AsRawFd::as_raw_fd),
                base: files.base.as_ref().map(AsRawFd::as_raw_fd),
                disk: files.disk.as_raw_fd(),
                seed: files.seed.as_raw_fd(),
                tap: tap.as_raw_fd(),
                qmp: qmp.as_raw_fd(),
            },
        });
        let mut keep: Vec<OwnedFd> =
            vec![files.kernel.into(), files.disk.into(), files.seed.into(), tap, qmp];
        keep.extend(files.initrd.into_iter().chain(files.base).map(OwnedFd::from));
        Ok(Launch { cmd: Cmd::new(path).args(args).cwd("/").user(spec.uid, gid).about(&spec.id), keep })
    }

    fn press_power_button(&self, api_sock: &Path) -> Result<()> {
        Self::qmp(api_sock)?.power_button()
    }

    fn pause(&self, api_sock: &Path) -> Result<()> {
        Self::qmp(api_sock)?.stop()
    }

    fn resume(&self, api_sock: &Path) -> Result<()> {
        Self::qmp(api_sock)?.cont()
    }

    /// A VM that was started without the object that holds the limits takes none until its next start.
    fn set_rates(&self, api_sock: &Path, rates: &Rates) -> Result<()> {
        let mut qmp = Self::qmp(api_sock)?;
        let limits = json!({ "path": format!("/objects/{DISK_LIMITS}"), "property": "limits", "value": DiskLimits::of(rates) });
        qmp.execute_with("qom-set", Some(&limits)).map(drop)
    }

    fn info(&self, api_sock: &Path) -> Result<VmmInfo> {
        let mut qmp = Self::qmp(api_sock)?;
        Ok(VmmInfo { state: qmp.status()?, version: qmp.version().to_owned() })
    }
}

/// The group as which a VM's user may open /dev/kvm. QEMU 7.2 opens the device by its path and takes no descriptor, so
/// where only the device's group may open it, QEMU runs in that group.
fn kvm_group(device: &Path, uid: u32, gid: u32) -> Result<u32> {
    let metadata: Metadata = device.metadata().context("look at", device.display())?;
    let mode = metadata.mode();
    let allowed = |shift: u32| mode >> shift & 0o6 == 0o6;
    if allowed(0) || (metadata.uid() == uid && allowed(6)) || (metadata.gid() == gid && allowed(3)) {
        return Ok(gid);
    }
    // Root's own group would be no loss of rights worth the name.
    if allowed(3) && metadata.gid() != 0 {
        return Ok(metadata.gid());
    }
    Err(Error::new("let the VMM use", device.display().to_string())
        .kind(Kind::HostNotReady)
        .because(format!("its mode is {:04o} and its group is {}", mode & 0o7777, metadata.gid()))
        .hint("chgrp kvm /dev/kvm && chmod 660 /dev/kvm"))
}

#[cfg(test)]
mod tests;
