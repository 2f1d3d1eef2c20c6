//! The disks of the lab: the host's own, made of packages, and one for images and instances. Starts mmdebstrap, mke2fs and
//! qemu-img; writes below `target/lab`.
//!
//! A disk is kept under the hash of everything that goes into it and made again only when that changes. A run boots from
//! overlays, so what is kept is never written.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec},
    image::{
        customise::{Entry, Owner},
        initrd,
        tree::Tree,
    },
};
use sha2::{Digest, Sha256};

use crate::say;

/// Raised when the same inputs are to make another disk.
const RECIPE: u32 = 1;

const SUITE: &str = "bookworm";

/// What a server has that fireclaw runs on, and what scenarios put beside it.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "cloud-image-utils",
    "curl",
    "dbus",
    "docker.io",
    "e2fsprogs",
    "firewalld",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "linux-image-amd64",
    "mmdebstrap",
    "nftables",
    "openssh-client",
    "openssh-server",
    "openssl",
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "socat",
    "sqlite3",
    "systemd-sysv",
    "udev",
    "ufw",
];

/// Units that packages switch on and that a scenario switches on when it wants them. The timers would only take time.
const OFF: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "containerd.service",
    "docker.service",
    "docker.socket",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "firewalld.service",
    "fstrim.timer",
    "nftables.service",
    "systemd-timesyncd.service",
    "ufw.service",
];

/// The host's address and gateway in QEMU's user network.
const NETWORK: &str =
    "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n";

/// The host's disk and what boots it.
#[derive(Debug, Clone)]
pub struct HostDisk {
    /// Compressed, as the distribution packs it.
    pub kernel: PathBuf,
    /// A small ramdisk.
    pub initrd: PathBuf,
    /// A whole ext4.
    pub root: PathBuf,
}

/// Gives the host's disk, made when there is none with these inputs. `key` is the public key that may log in as root.
pub fn host(below: &Path, key: &str) -> Result<HostDisk> {
    let entries = entries(key);
    let inputs = format!("{RECIPE}\n{SUITE}\n{PACKAGES:?}\n{OFF:?}\n{entries:?}");
    let dir = kept(below, "host", &inputs, |dir| {
        let tree = dir.join("tree");
        bootstrap(&tree, SUITE, PACKAGES)?;
        let mut cmd = Cmd::new("chroot").arg(&tree).args(["systemctl", "--quiet", "disable"]);
        cmd = cmd.args(OFF);
        // A unit that the suite does not have is off as well.
        SystemExec::default().run(cmd)?;
        Tree::new(&tree).apply(&entries)?;
        boot_files(&tree, dir)?;
        pack(&tree, &dir.join("root.ext4"), "8G")?;
        fireclaw_host::fs::remove_tree(&tree)
    })?;
    Ok(HostDisk { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd.img"), root: dir.join("root.ext4") })
}

/// Makes a thing in a folder of its own unless it is there with the same inputs.
pub fn kept(
    below: &Path,
    name: &str,
    inputs: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let hash = format!("{:x}", Sha256::digest(inputs));
    let dir = below.join(format!("{name}-{}", &hash[..12]));
    if dir.exists() {
        return Ok(dir);
    }
    // What older inputs made is of no use any more.
    for old in fireclaw_host::fs::names(below)?.iter().filter(|old| old.starts_with(&format!("{name}-"))) {
        fireclaw_host::fs::remove_tree(&below.join(old))?;
    }
    let begun = Instant::now();
    let making = below.join(format!("making-{name}"));
    fireclaw_host::fs::remove_tree(&making)?;
    fs::create_dir_all(&making).context("create folder", making.display())?;
    make(&making)?;
    fs::rename(&making, &dir).context("keep", dir.display())?;
    say::line(&format!("made {name} in {} s", begun.elapsed().as_secs()));
    Ok(dir)
}

/// A root filesystem of packages.
pub fn bootstrap(tree: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    let cmd = mmdebstrap(packages)
        // The ramdisk is ours.
        .env("INITRD", "No")
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg(suite)
        .arg(tree)
        .deadline(Duration::from_mins(20))
        .about(format!("mmdebstrap of {suite}"));
    SystemExec::default().check(cmd).map(drop)
}

/// mmdebstrap without the suite and the target. It mounts in the tree: in a namespace of its own.
pub fn mmdebstrap(packages: &[&str]) -> Cmd {
    Cmd::new("unshare")
        .inherit_env()
        .args(["--fork", "--pid", "--kill-child", "--mount", "--mount-proc", "mmdebstrap"])
        .args(["--quiet", "--mode=root", "--variant=apt", "--format=directory", "--components=main"])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--include={}", packages.join(",")))
}

/// The kernel out of a tree and a ramdisk with its modules.
pub fn boot_files(tree: &Path, into: &Path) -> Result<String> {
    let names = fireclaw_host::fs::names(&tree.join("boot"))?;
    let release = names
        .iter()
        .find_map(|name| name.strip_prefix("vmlinuz-"))
        .ok_or_else(|| Error::new("find", "a kernel in the root filesystem"))?;
    let kernel = tree.join(format!("boot/vmlinuz-{release}"));
    fs::copy(&kernel, into.join("vmlinuz")).context("copy", kernel.display())?;
    let ramdisk = initrd::build(tree, release)?;
    fs::write(into.join("initrd.img"), ramdisk).context("write", "the ramdisk")?;
    Ok(release.to_owned())
}

/// A filesystem with the content of a folder.
pub fn pack(tree: &Path, image: &Path, size: &str) -> Result<()> {
    let cmd = Cmd::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^metadata_csum_seed,^orphan_file"])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", "-d"])
        .arg(tree)
        .arg(image)
        .arg(size)
        .about(image.display());
    SystemExec::default().check(cmd).map(drop)
}

/// A disk that takes the writes of one run. It outlives a power cut of the machine, which is the end of QEMU: what the
/// machine had not flushed is in its memory, and gone.
pub fn overlay(base: &Path, overlay: &Path) -> Result<()> {
    fireclaw_host::fs::remove_file(overlay)?;
    let base = fs::canonicalize(base).context("find", base.display())?;
    let cmd =
        Cmd::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(overlay);
    SystemExec::default().check(cmd.about(overlay.display())).map(drop)
}

fn file(path: &str, mode: u32, content: &str) -> Entry {
    Entry::File { path: path.to_owned(), mode, content: content.to_owned() }
}

fn link(path: &str, target: &str) -> Entry {
    Entry::Link { path: path.to_owned(), target: target.to_owned() }
}

/// What is written into the host's tree after its packages.
fn entries(key: &str) -> Vec<Entry> {
    vec![
        file("/etc/hostname", 0o644, "lab\n"),
        file("/etc/hosts", 0o644, "127.0.0.1 localhost lab\n"),
        file("/etc/fstab", 0o644, "/dev/vdb /srv/firecracker ext4 noatime 0 2\n"),
        file("/etc/machine-id", 0o444, ""),
        file("/etc/resolv.conf", 0o644, "nameserver 203.0.113.10\n"),
        file("/etc/systemd/network/10-lab.network", 0o644, NETWORK),
        link(
            "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "/lib/systemd/system/systemd-networkd.service",
        ),
        link("/etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target"),
        // It waits for links that scenarios make and never configure.
        link("/etc/systemd/system/systemd-networkd-wait-online.service", "/dev/null"),
        link("/etc/systemd/system/getty@tty1.service", "/dev/null"),
        // The journal of a run that was cut off is what is wanted most.
        Entry::Dir { path: "/var/log/journal".into(), mode: 0o2755, owner: Owner::Root },
        Entry::Dir { path: "/srv/firecracker".into(), mode: 0o755, owner: Owner::Root },
        Entry::Dir { path: "/root/.ssh".into(), mode: 0o700, owner: Owner::Root },
        file("/root/.ssh/authorized_keys", 0o600, key),
        file("/etc/ssh/sshd_config.d/10-lab.conf", 0o644, "UseDNS no\nMaxSessions 64\n"),
        Entry::Without { path: "/etc/pam.d/common-session".into(), word: "pam_systemd.so".into() },
    ]
}
