//! What is written into the tree after its packages: machine files, units that are on or off, the seed's reader. Pure:
//! a list of entries; [`super::tree`] writes them.
//!
//! Each thing that is switched off was seen to cost boot time on an emulated machine and to do nothing in a VM that has
//! one disk, one network card and a serial console.

use fireclaw_core::guest::USER_ID;
use serde_json::json;

use super::BuildRequest;

/// Owner of a file in the tree: root or the default user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// 0:0
    Root,
    /// The default user of the guest.
    User,
}

impl Owner {
    /// Its numbers.
    pub const fn ids(self) -> (u32, u32) {
        match self {
            Self::Root => (0, 0),
            Self::User => (USER_ID, USER_ID),
        }
    }
}

/// The prefix that npm installs OpenClaw to.
pub const PREFIX: &str = "/opt/openclaw";
/// Node's folder in the guest, npm's in it.
pub const NODE_DIR: &str = "/opt/openclaw/node";
/// OpenClaw's entry.
pub const ENTRY: &str = "/opt/openclaw/lib/node_modules/openclaw/openclaw.mjs";
/// Where Node keeps OpenClaw's compiled code.
pub const COMPILE_CACHE: &str = "/var/cache/openclaw/compile";
/// The marker that tells guest provisioning what the image carries.
const MARKER: &str = "/etc/fireclaw/image.json";

/// One thing to put into the tree. Paths are absolute as the guest sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file with its whole content, root's.
    File {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: String,
    },
    /// A folder; its parents are made root's, 0755.
    Dir {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Whose.
        owner: Owner,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: String,
        /// What it points at.
        target: String,
    },
    /// Something that must not be there.
    Absent {
        /// Where.
        path: String,
    },
    /// A file without the lines that hold a word.
    Without {
        /// Where; a file that is not there is fine.
        path: String,
        /// The word.
        word: String,
    },
}

fn file(path: &str, mode: u32, content: &str) -> Entry {
    Entry::File { path: path.to_owned(), mode, content: content.to_owned() }
}

fn link(path: impl Into<String>, target: impl Into<String>) -> Entry {
    Entry::Link { path: path.into(), target: target.into() }
}

/// Units that are never started. Those that a suite does not have are masked all the same: it does no harm.
const MASKED: [&str; 38] = [
    // cloud-init's own stages: fireclaw-seed.service calls what is needed of them.
    "cloud-config.service",
    "cloud-final.service",
    "cloud-init-hotplugd.socket",
    "cloud-init-local.service",
    "cloud-init-main.service",
    "cloud-init-network.service",
    "cloud-init.service",
    // Hardware and boot loaders that a microVM has not.
    "dev-hugepages.mount",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-hibernate-clear.service",
    "systemd-modules-load.service",
    "systemd-pcrextend.socket",
    "systemd-pcrlock.socket",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    // Nobody sits at the console; it is for reading.
    "getty.target",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    // Work of a first boot, done when the image is built.
    "ldconfig.service",
    "sshd-keygen.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-update-done.service",
    // The initial ramdisk mounts the root filesystem as it stays.
    "systemd-remount-fs.service",
    // Waits for a network that is static, and holds everything back that waits for `network-online.target`.
    "systemd-networkd-wait-online.service",
    // Remembers DHCP leases; there are none.
    "systemd-networkd-persistent-storage.service",
    "remote-fs.target",
];

/// Units that packages switch on and that wait for somebody to want them.
const NOT_ENABLED: [&str; 9] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "containerd.service",
    "docker.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-timesyncd.service",
    "getty@tty1.service",
];

/// Generators that look for what is not there, each a process at every boot.
const NO_GENERATORS: [&str; 14] = [
    "cloud-init-generator",
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
];

/// udev rules for hardware that a microVM has not.
const NO_RULES: [&str; 31] = [
    "50-firmware.rules",
    "60-autosuspend.rules",
    "60-cdrom_id.rules",
    "60-dmi-id.rules",
    "60-drm.rules",
    "60-evdev.rules",
    "60-fido-id.rules",
    "60-infiniband.rules",
    "60-input-id.rules",
    "60-persistent-alsa.rules",
    "60-persistent-input.rules",
    "60-persistent-storage-mtd.rules",
    "60-persistent-storage-tape.rules",
    "60-persistent-v4l.rules",
    "60-sensor.rules",
    "64-btrfs.rules",
    "66-azure-ephemeral.rules",
    "70-camera.rules",
    "70-joystick.rules",
    "70-memory.rules",
    "70-mouse.rules",
    "70-touchpad.rules",
    "70-uaccess.rules",
    "71-seat.rules",
    "73-seat-late.rules",
    "75-probe_mtd.rules",
    "78-sound-card.rules",
    "80-debian-compat.rules",
    "81-net-dhcp.rules",
    "90-iocost.rules",
    "96-e2scrub.rules",
];

/// What packages left that would be the same in every guest, or that only the bootstrap needed.
const REMOVED: [&str; 12] = [
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/systemd/system/ssh.service.wants/sshd-keygen.service",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/log/apt",
    "/var/log/bootstrap.log",
    "/var/log/dpkg.log",
];

/// Everything that is written into the tree, in order.
pub fn entries(request: &BuildRequest) -> Vec<Entry> {
    let mut entries = machine_files();
    entries.extend(units());
    entries.extend(REMOVED.iter().map(|path| Entry::Absent { path: (*path).to_owned() }));
    entries.push(file(MARKER, 0o644, &marker(request)));
    entries.push(file("/usr/local/bin/openclaw", 0o755, include_str!("files/openclaw.sh")));
    entries.push(Entry::Dir { path: "/var/cache/openclaw".into(), mode: 0o755, owner: Owner::User });
    entries.push(Entry::Dir { path: COMPILE_CACHE.into(), mode: 0o755, owner: Owner::User });
    for (tool, target) in [
        ("node", "bin/node"),
        ("npm", "lib/node_modules/npm/bin/npm-cli.js"),
        ("npx", "lib/node_modules/npm/bin/npx-cli.js"),
    ] {
        entries.push(link(format!("/usr/local/bin/{tool}"), format!("{NODE_DIR}/{target}")));
    }
    entries
}

fn machine_files() -> Vec<Entry> {
    vec![
        // Empty, and not absent: an absent one makes systemd redo every preset at the first boot.
        file("/etc/machine-id", 0o444, ""),
        file("/etc/hostname", 0o644, "localhost\n"),
        file("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
        file("/etc/fstab", 0o644, ""),
        link("/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
        Entry::Dir { path: "/var/log/journal".into(), mode: 0o2755, owner: Owner::Root },
        Entry::Dir { path: "/var/lib/fireclaw".into(), mode: 0o755, owner: Owner::Root },
        file("/etc/systemd/journald.conf.d/10-fireclaw.conf", 0o644, include_str!("files/journald.conf")),
        file("/etc/ssh/sshd_config.d/10-fireclaw.conf", 0o644, include_str!("files/sshd.conf")),
        file("/etc/sudoers.d/90-fireclaw", 0o440, "ubuntu ALL=(ALL) NOPASSWD:ALL\n"),
        file("/etc/cloud/cloud.cfg.d/90-fireclaw.cfg", 0o644, include_str!("files/cloud.cfg")),
        file("/usr/local/lib/fireclaw/seed", 0o755, include_str!("files/seed.py")),
        // A user manager would be started with every login, and nothing here runs under one.
        Entry::Without { path: "/etc/pam.d/common-session".into(), word: "pam_systemd.so".into() },
        // The kernel lies outside of the disk: a newer package of it would change nothing but fill the disk.
        file(
            "/etc/apt/preferences.d/fireclaw-kernel",
            0o644,
            "Package: linux-image-*\nPin: release *\nPin-Priority: -1\n",
        ),
        file(
            "/etc/apt/apt.conf.d/90fireclaw",
            0o644,
            "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n",
        ),
    ]
}

fn units() -> Vec<Entry> {
    const SYSTEM: &str = "/etc/systemd/system";
    let mut entries = vec![
        file(&format!("{SYSTEM}/fireclaw-seed.service"), 0o644, include_str!("files/seed.service")),
        file(
            &format!("{SYSTEM}/fireclaw-cloud-init.service"),
            0o644,
            include_str!("files/cloud-init.service"),
        ),
        file(&format!("{SYSTEM}/fireclaw-clock.timer"), 0o644, include_str!("files/clock.timer")),
        link(format!("{SYSTEM}/sysinit.target.wants/fireclaw-seed.service"), "../fireclaw-seed.service"),
        link(
            format!("{SYSTEM}/multi-user.target.wants/fireclaw-cloud-init.service"),
            "../fireclaw-cloud-init.service",
        ),
        link(format!("{SYSTEM}/timers.target.wants/fireclaw-clock.timer"), "../fireclaw-clock.timer"),
        link(
            format!("{SYSTEM}/multi-user.target.wants/systemd-networkd.service"),
            "/lib/systemd/system/systemd-networkd.service",
        ),
        link(format!("{SYSTEM}/default.target"), "/lib/systemd/system/multi-user.target"),
        // Only the power button needs it, and nobody presses that while the VM boots.
        file(
            &format!("{SYSTEM}/systemd-logind.service.d/10-fireclaw.conf"),
            0o644,
            "[Unit]\nAfter=ssh.service\n",
        ),
    ];
    for unit in NOT_ENABLED {
        for target in ["multi-user", "timers", "sysinit", "getty"] {
            entries.push(Entry::Absent { path: format!("{SYSTEM}/{target}.target.wants/{unit}") });
        }
    }
    let null = "/dev/null";
    entries.extend(MASKED.iter().map(|unit| link(format!("{SYSTEM}/{unit}"), null)));
    entries.extend(
        NO_GENERATORS.iter().map(|name| link(format!("/etc/systemd/system-generators/{name}"), null)),
    );
    entries.extend(NO_RULES.iter().map(|name| link(format!("/etc/udev/rules.d/{name}"), null)));
    entries
}

/// The marker: what guest provisioning finds and need not install.
fn marker(request: &BuildRequest) -> String {
    let marker = json!({
        "format": 1,
        "openclaw": request.openclaw_version,
        "node": request.node_version,
        "docker": request.docker,
        "browser": request.browser,
    });
    format!("{marker:#}\n")
}

/// The configuration that the gateway runs with for the few seconds in which its compile cache is made.
pub fn warm_config() -> String {
    let config = json!({
        "gateway": {
            "mode": "local",
            "port": 18789,
            "bind": "lan",
            "auth": { "mode": "token", "token": "not-a-secret-of-anybody" },
            "tailscale": { "mode": "off" },
            "controlUi": { "allowedOrigins": ["http://127.0.0.1:18789"] },
        },
        "browser": { "executablePath": "/usr/bin/chromium", "headless": true, "noSandbox": true },
        "skills": { "allowBundled": ["github", "tmux", "coding-agent", "session-logs", "skill-creator"] },
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn request() -> BuildRequest {
        BuildRequest::new("default".parse().unwrap())
    }

    #[test]
    fn no_path_is_written_twice_and_none_leads_up() {
        let mut seen = BTreeSet::new();
        for entry in entries(&request()) {
            let (path, written) = match entry {
                Entry::File { path, .. } | Entry::Dir { path, .. } | Entry::Link { path, .. } => (path, true),
                Entry::Absent { path } | Entry::Without { path, .. } => (path, false),
            };
            assert!(path.starts_with('/') && !path.contains("/../"), "{path}");
            assert!(!written || seen.insert(path.clone()), "{path} is written twice");
        }
    }

    #[test]
    fn the_marker_says_what_is_in_the_image() {
        let mut request = request();
        request.docker = false;
        insta::assert_snapshot!(marker(&request));
    }

    #[test]
    fn docker_waits_for_its_socket() {
        let entries = entries(&request());
        let absent = |unit: &str| {
            let path = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
            entries.contains(&Entry::Absent { path })
        };
        assert!(absent("docker.service") && absent("containerd.service"));
        assert!(!MASKED.iter().any(|unit| unit.contains("docker")));
    }
}
