//! What is written into the tree after its packages: machine files, units that are on or off, the seed's reader. Pure:
//! a list of entries; [`super::tree`] writes them.

mod units;

use fireclaw_core::guest::{USER_ID, paths::GuestPaths};
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
/// The image's own fireclaw, which reads its seed, whatever becomes of the other.
pub const AGENT: &str = "/usr/local/lib/fireclaw/agent";
/// The one that a newer host replaces.
pub const PROGRAM: &str = "/usr/local/bin/fireclaw";
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

/// What packages left that would be the same in every guest, or that only the bootstrap needed.
const REMOVED: [&str; 13] = [
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    // A link to /etc/modules, which is empty: without it nothing is started to load nothing.
    "/etc/modules-load.d/modules.conf",
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
    entries.extend(units::units());
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
        Entry::Dir { path: GuestPaths::VAR.into(), mode: 0o755, owner: Owner::Root },
        file("/etc/systemd/journald.conf.d/10-fireclaw.conf", 0o644, include_str!("files/journald.conf")),
        // On a host that starts many VMs at once each of them is slow, and a unit that is ended for it makes its VM slower still.
        file(
            "/etc/systemd/system.conf.d/10-fireclaw.conf",
            0o644,
            "[Manager]\nDefaultTimeoutStartSec=10min\n",
        ),
        file("/etc/ssh/sshd_config.d/10-fireclaw.conf", 0o644, include_str!("files/sshd.conf")),
        file("/etc/sudoers.d/90-fireclaw", 0o440, "ubuntu ALL=(ALL) NOPASSWD:ALL\n"),
        file("/etc/cloud/cloud.cfg.d/90-fireclaw.cfg", 0o644, include_str!("files/cloud.cfg")),
        // A user manager would be started with every login, and nothing here runs under one.
        Entry::Without { path: "/etc/pam.d/common-session".into(), word: "pam_systemd.so".into() },
        // Programs that say which system this is, at every login of ours, and a look for mail.
        Entry::Without { path: "/etc/pam.d/sshd".into(), word: "pam_motd.so".into() },
        Entry::Without { path: "/etc/pam.d/sshd".into(), word: "pam_mail.so".into() },
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
        BuildRequest::new("default".parse().unwrap(), "/usr/bin/fireclaw".into())
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
        let masked = |entry: &Entry| matches!(entry, Entry::Link { path, target } if path.contains("docker") && target == "/dev/null");
        assert!(!entries.iter().any(masked));
    }
}
