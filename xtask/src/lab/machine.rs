//! The machine of the lab: a QEMU that emulates an AMD processor with virtualisation, so that `kvm_amd` and /dev/kvm are real
//! inside. Starts and ends that QEMU.
//!
//! Its network is QEMU's own with `restrict=on`: SSH comes in on a port of this machine's loopback, nothing gets out. What
//! scenarios call the outside is a network namespace inside the lab.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Child,
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, handover},
    qemu::tsc,
};

use super::disk::{self, HostDisk};

/// Memory of the host in MiB.
const MEMORY: u32 = 6144;

/// A machine and its disks of this run.
pub struct Machine {
    host: HostDisk,
    dir: PathBuf,
    child: Option<Child>,
    /// The port on 127.0.0.1 that is the host's port 22.
    pub ssh_port: u16,
}

impl Machine {
    /// Fresh disks in the folder of this run; nothing is started.
    pub fn new(dir: &Path, host: HostDisk, images: &Path) -> Result<Self> {
        fs::create_dir_all(dir).context("create folder", dir.display())?;
        disk::overlay(&host.root, &dir.join("root.qcow2"))?;
        disk::overlay(images, &dir.join("images.qcow2"))?;
        fireclaw_host::fs::remove_file(&dir.join("console.log"))?;
        // A port that was free a moment ago; QEMU says when it is not.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find", "a free port")?;
        let ssh_port = free.local_addr().context("find", "a free port")?.port();
        Ok(Self { host, dir: dir.to_owned(), child: None, ssh_port })
    }

    /// Power on.
    pub fn power_on(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("qemu.log"))
            .context("open", "QEMU's log")?;
        self.child = Some(handover::spawn(&self.command(), Some(&log))?);
        Ok(())
    }

    fn command(&self) -> Cmd {
        let console = self.console();
        let disk = |name: &str| {
            format!("file={},if=virtio,format=qcow2,cache=writeback", self.dir.join(name).display())
        };
        // On a busy machine the kernel cannot measure the emulated counter, so it is told: see the tsc module.
        let clock = tsc::khz().map(|khz| format!(" tsc_early_khz={khz} tsc=reliable")).unwrap_or_default();
        // Whatever ends this program ends the machine.
        Cmd::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-name"])
            .args(["fireclaw-lab", "-nodefaults", "-display", "none", "-M", "q35"])
            .args(["-cpu", "EPYC-Rome,+svm,+npt", "-accel", "tcg,thread=multi", "-smp", "2"])
            .args(["-m", &MEMORY.to_string(), "-serial", "chardev:console", "-chardev"])
            .arg(format!("file,id=console,path={},append=on", console.display()))
            .arg("-kernel")
            .arg(&self.host.kernel)
            .arg("-initrd")
            .arg(&self.host.initrd)
            .arg("-append")
            .arg(format!(
                "root=/dev/vda rw quiet console=ttyS0 mitigations=off net.ifnames=0 panic=1 \
                 systemd.show_status=no{clock}"
            ))
            .args(["-drive", &disk("root.qcow2"), "-drive", &disk("images.qcow2")])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-net-pci,netdev=net0,romfile="])
            .arg("-netdev")
            .arg(format!(
                "user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{}-10.0.2.15:22",
                self.ssh_port
            ))
    }

    /// What the host wrote to its serial port, over all boots.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The power is cut: the machine ends in the middle of whatever it does.
    pub fn cut_power(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().context("end", "the lab's machine")?;
        child.wait().context("wait for", "the lab's machine").map(drop)
    }

    /// Whether it runs.
    pub fn is_on(&mut self) -> Result<bool> {
        match &mut self.child {
            None => Ok(false),
            Some(child) => Ok(child.try_wait().context("look after", "the lab's machine")?.is_none()),
        }
    }

    /// Fails when QEMU has ended, with what it said.
    pub fn must_be_on(&mut self) -> Result<()> {
        if self.is_on()? {
            return Ok(());
        }
        let said = fireclaw_host::fs::tail(&self.dir.join("qemu.log"), 2000)?.unwrap_or_default();
        Err(Error::new("keep", "the lab's machine running").because(said))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing of the run is wanted any more.
        let _ = self.cut_power();
    }
}
