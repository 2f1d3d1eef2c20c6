//! A root filesystem as a distribution's cloud image has it, made of packages alone: cloud-init, netplan, the distribution's
//! own ramdisk, nothing of fireclaw's image code. Beside it the packages that provisioning installs, as a repository. Starts
//! mmdebstrap, mke2fs and dpkg-deb.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec},
    image,
};
use sha2::{Digest, Sha256};

use super::disk;

/// Raised when the same inputs are to make another one.
const RECIPE: u32 = 2;

/// Another one than our own images are made of.
const SUITE: &str = "bookworm";

const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "linux-image-cloud-amd64",
    "netplan.io",
    "openssh-server",
    "procps",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];

/// What provisioning asks a package manager for, and beside it what the Bash fireclaw's does.
const WANTED: &str = "docker.io ca-certificates apparmor jq curl";

/// Where the lab's outside serves the repository.
pub const REPOSITORY: &str = "http://203.0.113.10/debian";

/// The folder with `vmlinuz` (and `vmlinux`, unpacked), `initrd.img`, `rootfs.ext4` and the repository `debian`, made when there is none of these inputs.
pub fn folder(below: &Path) -> Result<PathBuf> {
    let inputs = format!("{RECIPE}\n{SUITE}\n{PACKAGES:?}\n{WANTED}\n{REPOSITORY}");
    disk::kept(below, "stock", &inputs, |dir| {
        let tree = dir.join("tree");
        bootstrap(&tree, &dir.join("debian"))?;
        index(&dir.join("debian"))?;
        for (name, to) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
            let from = newest(&tree.join("boot"), name)?;
            fs::copy(&from, dir.join(to)).context("copy", from.display())?;
        }
        image::unpack_kernel(&dir.join("vmlinuz"), &dir.join("vmlinux"))?;
        let sources = tree.join("etc/apt/sources.list");
        // Signed repositories are apt's subject; this one exists in the lab alone.
        fs::write(&sources, format!("deb [trusted=yes] {REPOSITORY} ./\n"))
            .context("write", sources.display())?;
        disk::pack(&tree, &dir.join("rootfs.ext4"), "2G")?;
        fireclaw_host::fs::remove_tree(&tree)
    })
}

/// The root filesystem, and into `debs` what installing [`WANTED`] into it would fetch.
fn bootstrap(tree: &Path, debs: &Path) -> Result<()> {
    fs::create_dir_all(debs).context("create folder", debs.display())?;
    let cmd = disk::mmdebstrap(PACKAGES)
        // The apt outside, with the ways to mirrors that this machine has.
        .arg(format!(
            "--customize-hook=APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get --yes --no-install-recommends \
             --download-only install {WANTED}"
        ))
        .arg(format!("--customize-hook=copy-out /var/cache/apt/archives {}", debs.display()))
        .arg(SUITE)
        .arg(tree)
        .deadline(Duration::from_mins(20))
        .about("mmdebstrap of a stock root filesystem");
    SystemExec::default().check(cmd).map(drop)
}

fn newest(dir: &Path, begins: &str) -> Result<PathBuf> {
    let names = fireclaw_host::fs::names(dir)?;
    let name = names.iter().rfind(|name| name.starts_with(begins));
    name.map(|name| dir.join(name)).ok_or_else(|| Error::new("find", format!("{begins}* in the stock tree")))
}

/// A flat repository out of whatever packages lie below the folder: `Packages`, as apt reads it.
fn index(dir: &Path) -> Result<()> {
    let copied = dir.join("archives");
    let mut text = String::new();
    for name in fireclaw_host::fs::names(&copied)? {
        if Path::new(&name).extension().is_none_or(|ending| ending != "deb") {
            continue;
        }
        let deb = dir.join(&name);
        fs::rename(copied.join(&name), &deb).context("move", deb.display())?;
        let bytes = fs::read(&deb).context("read", deb.display())?;
        let fields = SystemExec::default().check(Cmd::new("dpkg-deb").arg("--field").arg(&deb))?.text();
        let _ = writeln!(
            text,
            "{}\nFilename: ./{name}\nSize: {}\nSHA256: {:x}\n",
            fields.trim_end(),
            bytes.len(),
            Sha256::digest(&bytes)
        );
    }
    fireclaw_host::fs::remove_tree(&copied)?;
    if text.is_empty() {
        return Err(Error::new("fetch", WANTED).because("no package was left behind"));
    }
    fs::write(dir.join("Packages"), text).context("write", "Packages")
}
