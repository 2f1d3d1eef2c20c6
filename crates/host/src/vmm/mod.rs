//! The virtual machine monitors behind one trait: what `fireclaw run` execs and what `fireclaw halt` talks to.
//!
//! The real ones are [`crate::qemu::Qemu`] and [`crate::firecracker::Firecracker`]. [`of`] gives the one for an
//! instance, [`clean`] removes what a run of either left.

pub mod console;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
pub mod kvm;
pub mod socket;

use std::{
    fs::{File, Metadata},
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    id::{InstanceId, MacAddr, TapName},
    spec::{Rates, VmmKind},
};

use crate::{
    exec::{Cmd, Exec},
    firecracker::Firecracker,
    qemu::Qemu,
};

/// Everything that a VMM must know of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Whose VM it is.
    pub id: InstanceId,
    /// Kernel (ELF or bzImage).
    pub kernel: PathBuf,
    /// Initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line without what the VMM adds itself (console, reboot method).
    pub cmdline: String,
    /// The base that many VMs read, if the disk is only what is written over one: then the guest's first disk.
    pub base: Option<PathBuf>,
    /// The disk that the guest writes, flushes honoured.
    pub disk: PathBuf,
    /// The seed disk, read-only.
    pub seed: PathBuf,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// The tap, which exists already.
    pub tap: TapName,
    /// The card's address.
    pub mac: MacAddr,
    /// The guest's address, for logs.
    pub ip: Ipv4Addr,
    /// Where the VMM's API (Firecracker's HTTP, QEMU's QMP) listens.
    pub api_sock: PathBuf,
    /// The unprivileged user and group that the VMM runs as.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Machine configuration file of the VMM.
    pub vmm_config: PathBuf,
    /// Where a VMM that keeps a log apart from the console would write it. None does: only the console is bounded.
    pub vmm_log: PathBuf,
    /// The folder that Firecracker's jail is made in; on the filesystem of the disks, so that they can be linked. The
    /// folder and its parents belong to root.
    pub jail_dir: PathBuf,
    /// Whether stock kernels run on this machine's KVM; false means emulation.
    pub kvm: bool,
    /// How fast it may use network and disk.
    pub rates: Rates,
    /// What becomes of the process that starts it.
    pub start: Start,
    /// The snapshot that it is to go on from, instead of booting.
    pub resume: Option<SnapshotFiles>,
}

/// The two files of a snapshot, outside of any jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFiles {
    /// Devices and registers.
    pub state: PathBuf,
    /// The guest's memory.
    pub memory: PathBuf,
}

/// What becomes of the process that starts a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is the VMM.
    Becoming,
    /// It leaves the VMM in a PID namespace of its own, and ends.
    Forking,
}

/// A VMM that is ready to be exec'd: everything it may not open itself is open already.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments. Its standard output is the guest's console, and Firecracker's log; QEMU complains on
    /// standard error.
    pub cmd: Cmd,
    /// Descriptors that it inherits under their present numbers.
    pub keep: Vec<OwnedFd>,
}

/// What a running VMM says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmInfo {
    /// "running", "paused", …
    pub state: String,
    /// The VMM's version.
    pub version: String,
}

/// A virtual machine monitor.
pub trait Vmm: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> VmmKind;

    /// Opens what the VMM needs and renders its command line. Changes nothing that `clean` does not remove.
    fn prepare(&self, spec: &VmSpec) -> Result<Launch>;

    /// The verb of the guest's systemctl after which the VMM ends.
    fn ending_verb(&self) -> &'static str {
        "poweroff"
    }

    /// Presses the guest's power button (Firecracker: Ctrl-Alt-Del). Returns at once.
    fn press_power_button(&self, api_sock: &Path) -> Result<()>;

    /// Stops the virtual CPUs.
    fn pause(&self, api_sock: &Path) -> Result<()>;

    /// Lets them run again.
    fn resume(&self, api_sock: &Path) -> Result<()>;

    /// Changes how fast a running VM may use what the VMM itself limits: the root disk, with Firecracker the network too.
    fn set_rates(&self, api_sock: &Path, rates: &Rates) -> Result<()>;

    /// The version of the VMM that runs, or of the one that would be started, as far as snapshots are tied to it. Fails where
    /// the VMM takes none.
    fn snapshot_version(&self, id: &InstanceId, _running: Option<&Path>) -> Result<String> {
        Err(no_snapshots(self.kind(), id))
    }

    /// Writes the whole of a paused VM to files of its own. They are root's alone, and whole only when this returns; after
    /// a failure none of them is left.
    fn save(&self, spec: &VmSpec, _to: &SnapshotFiles) -> Result<()> {
        Err(no_snapshots(self.kind(), &spec.id))
    }

    /// The longest that such a writing of so much memory may take; the VMM answers nobody meanwhile.
    fn longest_save(&self, _mem_mib: u32) -> Duration {
        Duration::ZERO
    }

    /// Whether a snapshot lies where only the VMM reaches it: one that it was started for by [`VmSpec::resume`] and has not
    /// loaded, or one that it writes or wrote, while whoever asked for it has not taken it, and may be gone.
    fn has_memory(&self, _api_sock: &Path) -> bool {
        false
    }

    /// Removes what is left there of a snapshot that nobody is going to take.
    fn drop_memory(&self, _api_sock: &Path) -> Result<()> {
        Ok(())
    }

    /// Whether the VMM that was started there has ended, as far as it can be told.
    fn has_ended(&self, _api_sock: &Path) -> bool {
        false
    }

    /// Loads that snapshot and lets the VM run, within a deadline. The files are gone afterwards, whatever came of it: nothing
    /// is resumed twice.
    fn load(&self, api_sock: &Path, _deadline: Duration) -> Result<()> {
        Err(Error::new("load", format!("a snapshot at {}", api_sock.display()))
            .because(format!("{} takes none", self.kind())))
    }

    /// Asks the VMM how it is. Fails within two seconds when it hangs.
    fn info(&self, api_sock: &Path) -> Result<VmmInfo>;
}

/// The refusal of a VMM that cannot hibernate. Only Firecracker promises that what one process saved another takes up with the
/// same devices; QEMU's states are bound to the exact build of its machine.
fn no_snapshots(kind: VmmKind, id: &InstanceId) -> Error {
    Error::new("hibernate", format!("instance `{id}`"))
        .kind(Kind::Refused)
        .because(format!("it runs on {kind}, and fireclaw keeps the memory of a VM on Firecracker only; nothing was changed"))
        .hint(format!("`fireclaw stop {id}` gives its memory back as well; the next start boots"))
}

/// The VMM of an instance.
pub fn of(kind: VmmKind, exec: Arc<dyn Exec>) -> Result<Box<dyn Vmm>> {
    Ok(match kind {
        VmmKind::Firecracker => Box::new(Firecracker::new(exec)),
        VmmKind::Qemu => Box::new(Qemu::new(exec)?),
    })
}

/// Removes what the run of a VMM that has ended left: its socket and, with all that is mounted in it, its jail. Needs
/// no readable record, so that a damaged instance can be removed too. What is not there is fine.
pub fn clean(api_sock: &Path, jail_dir: &Path) -> Result<()> {
    let jail = crate::firecracker::jail::clean(jail_dir);
    crate::fs::remove_file(api_sock).and(jail)
}

/// Finds a program of a VMM.
pub(crate) fn find_program(exec: &dyn Exec, program: &str) -> Result<PathBuf> {
    exec.which(program).ok_or_else(|| {
        Error::new("find", format!("program {program}"))
            .kind(Kind::HostNotReady)
            .because("it is not installed")
            .hint("run `fireclaw doctor --fix`")
    })
}

/// Opens a regular file of the VM.
pub(crate) fn open_file(path: &Path, write: bool) -> Result<(File, Metadata)> {
    let file = File::options().read(true).write(write).open(path).context("open", path.display())?;
    let metadata = file.metadata().context("look at", path.display())?;
    if !metadata.is_file() {
        return Err(Error::new("open", path.display().to_string()).because("it is not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(Error::new("open", path.display().to_string()).because("it is empty"));
    }
    Ok((file, metadata))
}

/// Fails when the VMM's user could not read the file by its mode. Kernels, initrds and bases are shared between instances, so
/// they are not given to that user but must be readable by all.
pub(crate) fn check_readable(path: &Path, metadata: &Metadata, uid: u32, gid: u32) -> Result<()> {
    let mode = metadata.mode();
    let readable = mode & 0o004 != 0
        || (metadata.gid() == gid && mode & 0o040 != 0)
        || (metadata.uid() == uid && mode & 0o400 != 0);
    if readable {
        return Ok(());
    }
    Err(Error::new("start", "the VMM")
        .because(format!(
            "its user {uid} may not read {}, whose mode is {:04o}",
            path.display(),
            mode & 0o7777
        ))
        .hint(format!("chmod a+r {}", path.display())))
}

#[cfg(test)]
impl VmSpec {
    /// Any VM, with paths that do not exist.
    pub(crate) fn example() -> Self {
        let ip = Ipv4Addr::new(172, 16, 0, 2);
        let dir = Path::new("/nonexistent/my-bot_2");
        Self {
            id: "my-bot_2".parse().expect("a good id"),
            kernel: dir.join("images/vmlinux"),
            initrd: Some(dir.join("images/initrd.img")),
            cmdline: "root=/dev/vda rw".to_owned(),
            base: None,
            disk: dir.join("images/rootfs.ext4"),
            seed: dir.join("images/seed.img"),
            vcpu: 2,
            mem_mib: 2048,
            tap: "tmybot2".parse().expect("a good name"),
            mac: MacAddr::for_ip(ip),
            ip,
            api_sock: dir.join("firecracker.socket"),
            uid: 64_000,
            gid: 64_000,
            vmm_config: dir.join("config/vm.json"),
            vmm_log: dir.join("logs/firecracker.log"),
            jail_dir: dir.join("jail"),
            kvm: false,
            rates: Rates::default(),
            start: Start::Becoming,
            resume: None,
        }
    }
}
