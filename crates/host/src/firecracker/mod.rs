//! Firecracker as a VMM, always through its jailer: a chroot, a mount namespace, the VM's own user, the default system
//! call filters. Makes a jail and writes the machine configuration of the instance.
//!
//! The jailer becomes Firecracker (same process), unless a PID namespace is asked for with [`Start::Forking`]:
//! then it forks and ends, and the VM's process is what is left of the service.
//!
//! A guest that powers off on `x86_64` halts without ending Firecracker, which has no such switch; a guest that reboots
//! ends it with exit code 0. The power button is Ctrl-Alt-Del, which systemd answers with a reboot.

pub mod api;
mod hibernate;
pub mod install;
pub mod jail;
mod libraries;
mod version;

use std::{
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    id::InstanceId,
    render::firecracker::{JailerArgs, MachineArgs, jail_file, jailer_argv, machine_config},
    spec::{Rates, VmmKind},
};
pub use version::Version;

use crate::{
    exec::{Cmd, Exec},
    firecracker::{
        api::{Action, Api, VmState},
        jail::{Jail, Share},
    },
    vmm::{
        Launch, SnapshotFiles, Start, VmSpec, Vmm, VmmInfo, check_readable, find_program, open_file, socket,
    },
};

/// How long Firecracker may take to answer: it answers in milliseconds, or it hangs.
const ANSWER: Duration = Duration::from_secs(2);

/// The first version that boots a kernel as distributions pack it; older ones take an ELF file only.
const BZIMAGE_SINCE: Version = Version { major: 1, minor: 17, patch: 0 };

/// Firecracker on this machine.
pub struct Firecracker {
    exec: Arc<dyn Exec>,
}

/// The two programs, by their real paths, and the version that both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Firecracker.
    pub firecracker: PathBuf,
    /// Its jailer.
    pub jailer: PathBuf,
    /// Their version.
    pub version: Version,
}

impl Firecracker {
    /// Firecracker by these programs.
    pub fn new(exec: Arc<dyn Exec>) -> Self {
        Self { exec }
    }

    /// Finds Firecracker and its jailer. Fails with [`Kind::HostNotReady`] when one is missing or the two differ in
    /// version, which Firecracker does not support.
    pub fn installed(&self) -> Result<Installed> {
        let find = |program: &str| {
            let path = find_program(&*self.exec, program)?;
            // The jailer names the jail after the file at the end of all symlinks.
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            let said = self.exec.check(Cmd::new(&path).arg("--version").deadline(ANSWER))?.text();
            let version = Version::in_text(&said)
                .ok_or_else(|| Error::new("read the version of", path.display().to_string()))?;
            Ok::<_, Error>((path, version))
        };
        let (firecracker, version) = find("firecracker")?;
        let (jailer, jailer_version) = find("jailer")?;
        if version != jailer_version {
            return Err(Error::new("use", "firecracker")
                .kind(Kind::HostNotReady)
                .because(format!("it is version {version} and its jailer is {jailer_version}"))
                .hint("install both from one release: `fireclaw doctor --fix`"));
        }
        Ok(Installed { firecracker, jailer, version })
    }

    /// The version to the last letter, as a running one tells it too: development builds share their numbers.
    fn exact_version(&self) -> Result<String> {
        let path = find_program(&*self.exec, "firecracker")?;
        let said = self.exec.check(Cmd::new(&path).arg("--version").deadline(ANSWER))?.text();
        let word = said.split_whitespace().find_map(|word| word.strip_prefix('v'));
        word.map(str::to_owned).ok_or_else(|| Error::new("read the version of", path.display().to_string()))
    }

    fn api(path: &Path) -> Api {
        Api::new(path, ANSWER)
    }
}

impl Vmm for Firecracker {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    /// Everything is checked first; then an old jail is removed and a new one made, since the jailer takes none that was
    /// used before.
    fn prepare(&self, spec: &VmSpec) -> Result<Launch> {
        let installed = self.installed()?;
        let fsize = check(spec, installed.version)?;
        let libraries = libraries::of(&*self.exec, &installed.firecracker)?;
        socket::refuse_running(&spec.api_sock)?;
        fireclaw_core::layout::check_socket_path("API socket path", &spec.api_sock)?;
        crate::vmm::clean(&spec.api_sock, &spec.jail_dir)?;

        let jail = Jail::make(&spec.jail_dir, &installed.firecracker, &spec.id)?;
        write_config(spec)?;
        let owner = (spec.uid, spec.gid);
        jail.share(&spec.kernel, jail_file::KERNEL, Share::AsItIs, owner)?;
        if let Some(initrd) = &spec.initrd {
            jail.share(initrd, jail_file::INITRD, Share::AsItIs, owner)?;
        }
        if let Some(base) = &spec.base {
            jail.share(base, jail_file::BASE, Share::AsItIs, owner)?;
        }
        jail.share(&spec.disk, jail_file::DISK, Share::Own, owner)?;
        jail.share(&spec.seed, jail_file::SEED, Share::Read, owner)?;
        jail.share(&spec.vmm_config, jail_file::CONFIG, Share::Read, owner)?;
        if let Some(files) = &spec.resume {
            jail.share(&files.state, jail_file::STATE, Share::Read, owner)?;
            jail.share(&files.memory, jail_file::MEMORY, Share::Read, owner)?;
        }
        for library in &libraries {
            // Found by name through any symlink; in the jail it lies under that name.
            jail.share(library, library.strip_prefix("/").unwrap_or(library), Share::AsItIs, owner)?;
        }
        // The path inside the jail is longer than a socket's path may be; through a symlink any length is reached.
        symlink(jail.path(jail_file::SOCKET), &spec.api_sock).context("link", spec.api_sock.display())?;

        let args = jailer_argv(&JailerArgs {
            id: &spec.id,
            exec_file: &installed.firecracker,
            uid: spec.uid,
            gid: spec.gid,
            chroot_base: &spec.jail_dir,
            fsize,
            new_pid_ns: spec.start == Start::Forking,
            resumes: spec.resume.is_some(),
        });
        Ok(Launch { cmd: Cmd::new(installed.jailer).args(args).cwd("/").about(&spec.id), keep: Vec::new() })
    }

    /// There is nothing that would switch the machine off: a guest that powers off halts, and its VMM stays. What ends it is a
    /// reset.
    fn ending_verb(&self) -> &'static str {
        if cfg!(target_arch = "x86_64") { "reboot" } else { "poweroff" }
    }

    fn press_power_button(&self, api_sock: &Path) -> Result<()> {
        Self::api(api_sock).act(Action::SendCtrlAltDel)
    }

    fn pause(&self, api_sock: &Path) -> Result<()> {
        Self::api(api_sock).set_state(VmState::Paused)
    }

    fn resume(&self, api_sock: &Path) -> Result<()> {
        Self::api(api_sock).set_state(VmState::Resumed)
    }

    fn set_rates(&self, api_sock: &Path, rates: &Rates) -> Result<()> {
        Self::api(api_sock).set_rates(rates)
    }

    fn snapshot_version(&self, _id: &InstanceId, running: Option<&Path>) -> Result<String> {
        // What runs may be older than what was installed meanwhile.
        match running {
            Some(api_sock) => Ok(Self::api(api_sock).describe()?.vmm_version),
            None => self.exact_version(),
        }
    }

    fn save(&self, spec: &VmSpec, to: &SnapshotFiles) -> Result<()> {
        hibernate::save(spec, to)
    }

    fn longest_save(&self, mem_mib: u32) -> Duration {
        hibernate::longest_save(mem_mib)
    }

    fn has_memory(&self, api_sock: &Path) -> bool {
        hibernate::has_memory(api_sock)
    }

    fn drop_memory(&self, api_sock: &Path) -> Result<()> {
        hibernate::drop_memory(api_sock)
    }

    fn has_ended(&self, api_sock: &Path) -> bool {
        hibernate::has_ended(api_sock)
    }

    fn load(&self, api_sock: &Path, deadline: Duration) -> Result<()> {
        hibernate::load(api_sock, deadline)
    }

    fn info(&self, api_sock: &Path) -> Result<VmmInfo> {
        let described = Self::api(api_sock).describe()?;
        Ok(VmmInfo { state: described.state.to_ascii_lowercase(), version: described.vmm_version })
    }
}

/// Looks at every file of the VM and gives the size that no file of Firecracker may pass: that of the disk, or of the
/// memory when that is larger, since a snapshot writes it to a file.
fn check(spec: &VmSpec, version: Version) -> Result<u64> {
    if !spec.kvm {
        return Err(Error::new("start", "firecracker")
            .kind(Kind::HostNotReady)
            .because("it needs a KVM that runs stock kernels")
            .hint("use --vmm qemu, which can emulate"));
    }
    let (mut kernel, metadata) = open_file(&spec.kernel, false)?;
    check_readable(&spec.kernel, &metadata, spec.uid, spec.gid)?;
    let mut magic = [0; 4];
    kernel.read_exact(&mut magic).context("read", spec.kernel.display())?;
    if cfg!(target_arch = "x86_64") && magic != *b"\x7fELF" && version < BZIMAGE_SINCE {
        return Err(Error::new("boot", spec.kernel.display().to_string())
            .kind(Kind::HostNotReady)
            .because(format!("Firecracker {version} takes an unpacked (ELF) kernel only, and this is none"))
            .hint(format!("unpack it to a vmlinux, or install Firecracker {BZIMAGE_SINCE} or later")));
    }
    if let Some(initrd) = &spec.initrd {
        let (_, metadata) = open_file(initrd, false)?;
        check_readable(initrd, &metadata, spec.uid, spec.gid)?;
    }
    if let Some(base) = &spec.base {
        let (_, metadata) = open_file(base, false)?;
        check_readable(base, &metadata, spec.uid, spec.gid)?;
    }
    open_file(&spec.seed, false)?;
    let (_, disk) = open_file(&spec.disk, true)?;
    Ok(disk.size().max(u64::from(spec.mem_mib) << 20))
}

fn write_config(spec: &VmSpec) -> Result<()> {
    let text = machine_config(&MachineArgs {
        cmdline: &spec.cmdline,
        initrd: spec.initrd.is_some(),
        base: spec.base.is_some(),
        vcpu: spec.vcpu,
        mem_mib: spec.mem_mib,
        tap: &spec.tap,
        mac: spec.mac,
        rates: spec.rates,
    })?;
    crate::fs::write(&spec.vmm_config, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod hibernate_tests;
#[cfg(test)]
mod tests;
