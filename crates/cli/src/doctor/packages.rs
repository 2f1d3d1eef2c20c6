//! Programs of the host and the packages that bring them. Starts the package manager, only to install.

use std::time::Duration;

use fireclaw_core::{
    error::{Error, Kind, Result},
    spec::VmmKind,
};
use fireclaw_host::{
    apt,
    exec::{Cmd, Stream},
};

use super::{Finding, Fix};
use crate::{app::App, engine::Observer};

/// QEMU's program for this machine, and its Debian package.
pub const QEMU: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
const QEMU_PACKAGE: &str = if cfg!(target_arch = "aarch64") { "qemu-system-arm" } else { "qemu-system-x86" };

/// What a command needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// SSH to guests.
    Ssh,
    /// Making and growing ext4.
    Ext4,
    /// The firewall.
    Firewall,
    /// The VMM that emulates.
    Qemu,
    /// The VMM that needs KVM.
    Firecracker,
    /// Building images.
    ImageBuild,
}

impl Need {
    /// What running instances takes, on a VMM.
    pub fn to_run(vmm: VmmKind) -> Vec<Self> {
        let mut needs = vec![Self::Ssh, Self::Ext4, Self::Firewall];
        needs.push(match vmm {
            VmmKind::Qemu => Self::Qemu,
            VmmKind::Firecracker => Self::Firecracker,
        });
        needs
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh client",
            Self::Ext4 => "ext4 tools",
            Self::Firewall => "nftables",
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::ImageBuild => "image tools",
        }
    }

    /// Every need.
    pub const ALL: [Self; 6] =
        [Self::Ssh, Self::Ext4, Self::Firewall, Self::Qemu, Self::Firecracker, Self::ImageBuild];

    /// Programs, each with the Debian package that brings it. Firecracker comes from its own releases.
    pub fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ssh => &[("ssh", "openssh-client")],
            Self::Ext4 => &[
                ("mke2fs", "e2fsprogs"),
                ("resize2fs", "e2fsprogs"),
                ("e2fsck", "e2fsprogs"),
                ("debugfs", "e2fsprogs"),
            ],
            Self::Firewall => &[("nft", "nftables")],
            Self::Qemu => &[(QEMU, QEMU_PACKAGE)],
            Self::Firecracker => &[],
            Self::ImageBuild => fireclaw_host::image::HOST_PROGRAMS,
        }
    }
}

/// Looks for the programs of a need.
pub fn check(app: &App, need: Need) -> Finding {
    let missing: Vec<&(&str, &str)> =
        need.programs().iter().filter(|(program, _)| app.host.exec.which(program).is_none()).collect();
    if missing.is_empty() {
        let found: Vec<&str> = need.programs().iter().map(|(program, _)| *program).collect();
        return Finding::good(need.name(), format!("found {}", found.join(", ")));
    }
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<&'static str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Finding::bad(need.name(), format!("missing {}", names.join(", ")), Fix::Packages(packages))
}

/// Installs packages by apt-get.
pub fn install(app: &App, packages: &[&str], watch: &mut dyn Observer) -> Result<()> {
    let exec = &app.host.exec;
    if exec.which("apt-get").is_none() {
        return Err(Error::new("install", packages.join(" "))
            .kind(Kind::HostNotReady)
            .because("this host has no apt-get")
            .hint("install what `fireclaw doctor` names with your package manager"));
    }
    app.need_root()?;
    let command = |words: &[&str]| {
        // The machine's own configuration of proxies and mirrors may come by the environment.
        Cmd::new("apt-get")
            .inherit_env()
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
            .args(words)
            .deadline(Duration::from_mins(30))
    };
    let update = || command(&["update"]).about("package lists");
    let mut show = |_: Stream, line: &str| watch.detail(line);
    if let Some(why) = apt::update(exec.as_ref(), &app.interrupt, &update, &mut show)? {
        watch.warn(&why);
    }
    let mut show = |_: Stream, line: &str| watch.detail(line);
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(packages);
    exec.check_stream(command(&words).about(packages.join(" ")), &mut show).map(drop)
}
