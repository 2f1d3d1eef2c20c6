//! Paths. The only place where the path of a file of fireclaw is derived, from injected roots; docs/LAYOUT.md explains
//! each and a test compares the two. Touches nothing.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    id::{ImageName, InstanceId, UnitName},
    spec::DiskKind,
};

/// Where everything hangs. The defaults are the contract's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `STATE_ROOT`: what is known of each instance.
    pub state_root: PathBuf,
    /// `FC_ROOT`: what each VM runs from.
    pub fc_root: PathBuf,
    /// `BASE_IMAGES_DIR`: base images.
    pub images_root: PathBuf,
    /// Sockets of running invocations; empty after a reboot.
    pub run_root: PathBuf,
    /// Where systemd reads unit files.
    pub units_root: PathBuf,
    /// Where Firecracker and its jailer are installed.
    pub programs_root: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            state_root: "/var/lib/fireclaw".into(),
            fc_root: "/srv/firecracker/vm-demo".into(),
            images_root: "/srv/firecracker/base/images".into(),
            run_root: "/run/fireclaw".into(),
            units_root: "/etc/systemd/system".into(),
            programs_root: "/usr/local/bin".into(),
        }
    }
}

/// The sidecar's socket, in whichever folder.
pub const SIDECAR_SOCKET: &str = "sidecar.socket";
/// The file of the sidecar's counters, in whichever folder.
pub const USAGE: &str = "usage";

/// The files by which a proxy asks for something, in whichever folder; `host::requests` has what they say.
pub mod request {
    /// A client waits.
    pub const WAKE: &str = "wake";
    /// No client has come for long.
    pub const SLEEP: &str = "sleep";
    /// That is being seen to.
    pub const SLEEPING: &str = "sleeping";
    /// It sleeps.
    pub const ASLEEP: &str = "asleep";
    /// Why it was not woken.
    pub const FAILED: &str = "failed";
}

/// The longest path that fits into `sockaddr_un` with its terminating zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// Refuses a socket path that the kernel would not take.
pub fn check_socket_path(what: &str, path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    if length <= SOCKET_PATH_MAX {
        return Ok(());
    }
    Err(Error::refused(
        what,
        path.display(),
        format!("has {length} bytes and a socket path holds {SOCKET_PATH_MAX}"),
    )
    .hint("choose a shorter FC_ROOT, STATE_ROOT or --api-sock"))
}

/// The paths of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePaths {
    /// `STATE_ROOT/.vm-ID`, 0700.
    pub state_dir: PathBuf,
    /// The record, 0600.
    pub env: PathBuf,
    /// The gateway token, 0600.
    pub token: PathBuf,
    /// What the guest was last provisioned with, 0600.
    pub provision_vars: PathBuf,
    /// The guest's pinned SSH host key.
    pub known_hosts: PathBuf,
    /// Keys of model providers, where they stay on the host, 0600.
    pub keys: PathBuf,
    /// What the sidecar counts of their use, 0600.
    pub usage: PathBuf,
    /// The same where systemd runs the sidecar as a user of its own: a folder that systemd hands to that user.
    pub usage_of_unit: PathBuf,
    /// The journal of an operation that is under way or was cut short.
    pub journal: PathBuf,
    /// Held by the one fireclaw that works on the instance.
    pub lock: PathBuf,
    /// `FC_ROOT/ID`, 0700.
    pub dir: PathBuf,
    /// Disks and kernel.
    pub images_dir: PathBuf,
    /// The root disk, where the instance has a copy of its base.
    pub disk: PathBuf,
    /// The read-only base, where it is shared.
    pub base: PathBuf,
    /// The same file, kept beside the images where a hard link does not reach the instance's folder.
    pub base_pin: PathBuf,
    /// All that the instance writes, where its base is shared.
    pub state_disk: PathBuf,
    /// The kernel that it boots.
    pub kernel: PathBuf,
    /// The initrd, when the image has one.
    pub initrd: PathBuf,
    /// The `NoCloud` seed, a vfat image labelled CIDATA, 0600.
    pub seed: PathBuf,
    /// Configuration of the VMM.
    pub config_dir: PathBuf,
    /// Machine configuration in Firecracker's own format.
    pub vmm_config: PathBuf,
    /// Logs of the VMM and console.
    pub logs_dir: PathBuf,
    /// The guest's serial console, bounded.
    pub console_log: PathBuf,
    /// What the VMM itself says, bounded.
    pub vmm_log: PathBuf,
    /// What the proxy says, bounded.
    pub proxy_log: PathBuf,
    /// Starts the VM, for people who look there.
    pub start_script: PathBuf,
    /// Stops the VM, for people who look there.
    pub stop_script: PathBuf,
    /// The VMM's API socket, unless `--api-sock` names another.
    pub api_sock: PathBuf,
    /// Where the sidecar takes orders, 0600.
    pub sidecar_sock: PathBuf,
    /// The same where systemd runs the sidecar as a user of its own.
    pub sidecar_sock_of_unit: PathBuf,
    /// The jail of a Firecracker that runs.
    pub jail_dir: PathBuf,
    /// The memory of a hibernated VM, 0700.
    pub snapshot_dir: PathBuf,
    /// What that memory is tied to, written last: without it the rest is nothing.
    pub snapshot_manifest: PathBuf,
    /// Devices and registers.
    pub snapshot_state: PathBuf,
    /// The guest's memory, with every secret in it.
    pub snapshot_memory: PathBuf,
    /// Why the last snapshot was not resumed, for the next `start` to tell.
    pub snapshot_dropped: PathBuf,
    /// What the proxy asks for where there is no systemd; its user's.
    pub requests_dir: PathBuf,
    /// The same under systemd.
    pub requests_dir_of_unit: PathBuf,
    /// State of the embedded supervisor.
    pub supervisor_dir: PathBuf,
    /// The embedded supervisor's control socket.
    pub supervisor_sock: PathBuf,
    /// The unit file of the VM.
    pub vm_unit: PathBuf,
    /// The unit file of the proxy.
    pub proxy_unit: PathBuf,
    /// The unit file that watches for what the proxy asks.
    pub wake_path_unit: PathBuf,
    /// The unit file of what is done then.
    pub wake_unit: PathBuf,
    /// OpenSSH's multiplexing socket; the client appends 17 characters to it while it connects.
    pub ssh_control: PathBuf,
    /// There while `halt` waits for the VM's end: what ends then is not started again.
    pub halting: PathBuf,
}

/// The files of one base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePaths {
    /// The image's folder.
    pub dir: PathBuf,
    /// The kernel as an ELF file.
    pub vmlinux: PathBuf,
    /// The kernel as the distribution packs it.
    pub vmlinuz: PathBuf,
    /// The initial ramdisk.
    pub initrd: PathBuf,
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// What went in.
    pub manifest: PathBuf,
}

impl InstancePaths {
    /// The disk that an instance writes to.
    pub const fn written_disk(&self, disks: DiskKind) -> &PathBuf {
        match disks {
            DiskKind::Copy => &self.disk,
            DiskKind::Shared => &self.state_disk,
        }
    }
}

impl Layout {
    /// The paths of an instance. Refuses roots under which a socket path would not fit.
    pub fn instance(&self, id: &InstanceId) -> Result<InstancePaths> {
        let paths = self.instance_unchecked(id);
        check_socket_path("API socket path", &paths.api_sock)?;
        check_socket_path("supervisor socket path", &paths.supervisor_sock)?;
        check_socket_path("sidecar socket path", &paths.sidecar_sock)?;
        // OpenSSH connects on a name of 17 characters more, and each invocation adds its process id.
        let connecting = PathBuf::from(format!("{}.{:07}.{:016}", paths.ssh_control.display(), 0, 0));
        check_socket_path("SSH control path", &connecting)?;
        Ok(paths)
    }

    pub(crate) fn instance_unchecked(&self, id: &InstanceId) -> InstancePaths {
        let state_dir = self.state_root.join(format!(".vm-{id}"));
        let dir = self.fc_root.join(id.as_str());
        let images_dir = dir.join("images");
        let config_dir = dir.join("config");
        let logs_dir = dir.join("logs");
        let supervisor_dir = dir.join("supervisor");
        let snapshot_dir = dir.join("snapshot");
        InstancePaths {
            env: state_dir.join(".env"),
            token: state_dir.join(".token"),
            provision_vars: state_dir.join("provision.vars"),
            known_hosts: state_dir.join("known_hosts"),
            keys: state_dir.join("keys"),
            usage: state_dir.join("usage"),
            usage_of_unit: Self::unit_state(id).join(USAGE),
            state_dir,
            journal: self.journals().join(format!("{id}.jsonl")),
            lock: self.locks().join(format!("{id}.lock")),
            disk: images_dir.join("rootfs.ext4"),
            base: images_dir.join("base.ext4"),
            base_pin: self.base_pins().join(format!("{id}.ext4")),
            state_disk: images_dir.join("state.ext4"),
            kernel: images_dir.join("vmlinux"),
            initrd: images_dir.join("initrd.img"),
            seed: images_dir.join("seed.img"),
            images_dir,
            vmm_config: config_dir.join("vm-config.json"),
            config_dir,
            console_log: logs_dir.join("console.log"),
            vmm_log: logs_dir.join("firecracker.log"),
            proxy_log: logs_dir.join("proxy.log"),
            logs_dir,
            start_script: dir.join("start-vm.sh"),
            stop_script: dir.join("stop-vm.sh"),
            api_sock: dir.join("firecracker.socket"),
            sidecar_sock: dir.join(SIDECAR_SOCKET),
            sidecar_sock_of_unit: Self::unit_run(id).join(SIDECAR_SOCKET),
            jail_dir: dir.join("jail"),
            snapshot_manifest: snapshot_dir.join("manifest.json"),
            snapshot_state: snapshot_dir.join("state"),
            snapshot_memory: snapshot_dir.join("memory"),
            snapshot_dir,
            snapshot_dropped: dir.join("snapshot.dropped"),
            requests_dir: dir.join("requests"),
            requests_dir_of_unit: Self::unit_run(id),
            supervisor_sock: supervisor_dir.join("control.sock"),
            supervisor_dir,
            dir,
            vm_unit: self.unit(&id.vm_unit()),
            proxy_unit: self.unit(&id.proxy_unit()),
            wake_path_unit: self.unit(&id.wake_path_unit()),
            wake_unit: self.unit(&id.wake_unit()),
            ssh_control: self.run_root.join("ssh").join(id.as_str()),
            halting: self.run_root.join("halting").join(id.as_str()),
        }
    }

    /// What `RuntimeDirectory=` of an instance's proxy is, below `/run`. Beside `run_root`, which nobody but root may enter.
    pub fn unit_run(id: &InstanceId) -> PathBuf {
        Path::new("/run/fireclaw-sidecar").join(id.as_str())
    }

    /// What `StateDirectory=` of an instance's proxy is, below `/var/lib`.
    pub fn unit_state(id: &InstanceId) -> PathBuf {
        Path::new("/var/lib/fireclaw-sidecar").join(id.as_str())
    }

    /// Where that folder truly is: systemd leaves a link in its place, as its user changes with every start.
    pub fn unit_state_target(id: &InstanceId) -> PathBuf {
        Path::new("/var/lib/private/fireclaw-sidecar").join(id.as_str())
    }

    /// The file of a unit.
    pub fn unit(&self, unit: &UnitName) -> PathBuf {
        self.units_root.join(unit.as_str())
    }

    /// The folder of journals. It lies outside the instances' folders: a journal begins before its instance exists and
    /// ends after it is gone.
    pub fn journals(&self) -> PathBuf {
        self.state_root.join(".journal")
    }

    /// The folder of lock files.
    pub fn locks(&self) -> PathBuf {
        self.state_root.join(".lock")
    }

    /// Held while addresses are given out, so that two setups never take the same ones.
    pub fn allocation_lock(&self) -> PathBuf {
        self.locks().join("allocation")
    }

    /// Held while bridge and firewall are changed: the ruleset is rendered from all instances at once.
    pub fn network_lock(&self) -> PathBuf {
        self.locks().join("network")
    }

    /// Which ruleset was put into force last, and what the kernel's rules were then.
    pub fn firewall_mark(&self) -> PathBuf {
        self.locks().join("firewall")
    }

    /// The record of whatever is called so, be the name a valid id or not.
    pub fn record_named(&self, name: &str) -> PathBuf {
        self.state_root.join(format!(".vm-{name}")).join(".env")
    }

    /// The instance that a folder name under `STATE_ROOT` belongs to: the text after `.vm-`, be it a valid id or not.
    pub fn instance_of_state_dir(name: &str) -> Option<&str> {
        name.strip_prefix(".vm-")
    }

    /// The files of a base image.
    pub fn image(&self, name: &ImageName) -> ImagePaths {
        Self::image_in(self.images_root.join(name.as_str()))
    }

    /// The default image's files as the contract names them: at the top of `BASE_IMAGES_DIR`.
    pub fn top_image(&self) -> ImagePaths {
        Self::image_in(self.images_root.clone())
    }

    /// The folder in which an image is built before it is published.
    pub fn image_work(&self, name: &ImageName) -> PathBuf {
        self.images_root.join(format!(".build-{name}"))
    }

    /// The image that such a folder is for, by its name below the images' folder.
    pub fn image_of_work(&self, name: &str) -> Option<ImageName> {
        name.strip_prefix(".build-")?.parse().ok()
    }

    /// The folder of bases that instances of another filesystem run from.
    pub fn base_pins(&self) -> PathBuf {
        self.images_root.join(".pins")
    }

    /// Image files in some folder.
    pub fn image_in(dir: PathBuf) -> ImagePaths {
        ImagePaths {
            vmlinux: dir.join("vmlinux"),
            vmlinuz: dir.join("vmlinuz"),
            initrd: dir.join("initrd.img"),
            rootfs: dir.join("rootfs.ext4"),
            manifest: dir.join("manifest.json"),
            dir,
        }
    }

    /// Every path of an instance with the name that docs/LAYOUT.md uses for it.
    pub fn described(&self, id: &InstanceId) -> Vec<(&'static str, PathBuf)> {
        let p = self.instance_unchecked(id);
        vec![
            ("state_dir", p.state_dir),
            ("env", p.env),
            ("token", p.token),
            ("provision_vars", p.provision_vars),
            ("known_hosts", p.known_hosts),
            ("keys", p.keys),
            ("usage", p.usage),
            ("usage_of_unit", p.usage_of_unit),
            ("journal", p.journal),
            ("lock", p.lock),
            ("dir", p.dir),
            ("images_dir", p.images_dir),
            ("disk", p.disk),
            ("base", p.base),
            ("base_pin", p.base_pin),
            ("state_disk", p.state_disk),
            ("kernel", p.kernel),
            ("initrd", p.initrd),
            ("seed", p.seed),
            ("config_dir", p.config_dir),
            ("vmm_config", p.vmm_config),
            ("logs_dir", p.logs_dir),
            ("console_log", p.console_log),
            ("vmm_log", p.vmm_log),
            ("proxy_log", p.proxy_log),
            ("start_script", p.start_script),
            ("stop_script", p.stop_script),
            ("api_sock", p.api_sock),
            ("sidecar_sock", p.sidecar_sock),
            ("sidecar_sock_of_unit", p.sidecar_sock_of_unit),
            ("jail_dir", p.jail_dir),
            ("snapshot_dir", p.snapshot_dir),
            ("snapshot_manifest", p.snapshot_manifest),
            ("snapshot_state", p.snapshot_state),
            ("snapshot_memory", p.snapshot_memory),
            ("snapshot_dropped", p.snapshot_dropped),
            ("requests_dir", p.requests_dir),
            ("requests_dir_of_unit", p.requests_dir_of_unit),
            ("supervisor_dir", p.supervisor_dir),
            ("supervisor_sock", p.supervisor_sock),
            ("vm_unit", p.vm_unit),
            ("proxy_unit", p.proxy_unit),
            ("wake_path_unit", p.wake_path_unit),
            ("wake_unit", p.wake_unit),
            ("ssh_control", p.ssh_control),
            ("halting", p.halting),
            ("allocation_lock", self.allocation_lock()),
            ("network_lock", self.network_lock()),
            ("firewall_mark", self.firewall_mark()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_id_fits_under_the_default_roots() {
        let id: InstanceId = "a".repeat(40).parse().unwrap();
        Layout::default().instance(&id).unwrap();
    }

    #[test]
    fn a_root_that_is_too_long_is_refused() {
        let layout = Layout { fc_root: format!("/{}", "x".repeat(80)).into(), ..Layout::default() };
        let error = layout.instance(&"my-bot".parse().unwrap()).unwrap_err();
        assert!(error.one_line().contains("socket path"), "{}", error.one_line());
    }
}
