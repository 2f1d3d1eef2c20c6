//! The virtual machine monitors behind one trait: what `fireclaw run` execs and what `fireclaw halt` talks to.

use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::Result,
    id::{InstanceId, MacAddr, TapName},
    spec::VmmKind,
};

use crate::exec::Cmd;

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
    /// The root disk, writable, flushes honoured.
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
    /// Where the VMM logs.
    pub vmm_log: PathBuf,
    /// Whether stock kernels run on this machine's KVM; false means emulation.
    pub kvm: bool,
}

/// A VMM that is ready to be exec'd: everything it may not open itself is open already.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments; its standard output is the guest's console.
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

    /// Presses the guest's power button (Firecracker: Ctrl-Alt-Del). Returns at once.
    fn press_power_button(&self, api_sock: &Path) -> Result<()>;

    /// Stops the virtual CPUs.
    fn pause(&self, api_sock: &Path) -> Result<()>;

    /// Lets them run again.
    fn resume(&self, api_sock: &Path) -> Result<()>;

    /// Asks the VMM how it is. Fails within two seconds when it hangs.
    fn info(&self, api_sock: &Path) -> Result<VmmInfo>;
}
