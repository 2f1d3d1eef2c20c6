//! Every path in the guest that fireclaw reads or writes, under a root that tests replace. Touches nothing.

use std::path::{Path, PathBuf};

use crate::id::InstanceId;

/// The guest's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPaths {
    root: PathBuf,
}

impl Default for GuestPaths {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

/// The files of one instance in its guest. Paths are as programs in the guest know them; [`GuestPaths::on_disk`] says where
/// to open them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// The gateway's unit.
    pub unit: PathBuf,
    /// The link by which it starts with the guest.
    pub wanted: PathBuf,
    /// The folder of what the user changed of it.
    pub drop_ins: PathBuf,
    /// Our folder in /etc, 0700.
    pub etc: PathBuf,
    /// The gateway's secrets, 0600, root's.
    pub environment: PathBuf,
    /// Our folder in /var/lib, 0700.
    pub var: PathBuf,
    /// What was asked for last time, path by path: the base of the three-way merge. 0600.
    pub base: PathBuf,
    /// There while a change has been begun and the gateway has not been started with it.
    pub pending: PathBuf,
}

/// The files of OpenClaw in its user's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFiles {
    /// `~/.openclaw`, 0700.
    pub dir: PathBuf,
    /// The configuration, 0600.
    pub config: PathBuf,
    /// A configuration that OpenClaw has yet to accept.
    pub candidate: PathBuf,
    /// Variables that OpenClaw's command line reads when the user runs it by hand.
    pub dotenv: PathBuf,
}

/// What the Bash fireclaw keeps apart in a home, a folder a mount of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderState {
    /// What is `~/.openclaw` to OpenClaw: configuration, sessions, pairings.
    pub config: PathBuf,
    /// The environment of its container, with keys and token.
    pub environment: PathBuf,
    /// What the agent works on.
    pub workspace: PathBuf,
    /// The browser, and what else was installed for the agent.
    pub tools: PathBuf,
    /// The folder of the last two.
    pub folder: PathBuf,
}

impl OlderState {
    /// The folders that stay where they are, with the place where a container has them.
    pub fn volumes(&self) -> [(&Path, &'static str); 2] {
        [(&self.workspace, "/home/node/.openclaw/workspace"), (&self.tools, "/home/node/clawd/tools")]
    }
}

/// The files that say which machine a guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// 32 hexadecimal digits and a newline.
    pub machine_id: PathBuf,
    /// The same for D-Bus, most often a link to the other.
    pub dbus_machine_id: PathBuf,
    /// The name.
    pub hostname: PathBuf,
    /// What the kernel's randomness begins with.
    pub random_seed: PathBuf,
    /// sshd's private key, of the kind that fireclaw gives a guest.
    pub host_key: PathBuf,
    /// Its public half.
    pub host_key_public: PathBuf,
    /// Keys and certificates of sshd that a guest may have besides.
    pub other_host_keys: Vec<PathBuf>,
    /// Who may log in.
    pub authorized_keys: PathBuf,
}

/// The files by which a guest of an image of fireclaw becomes the one that its seed describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedPaths {
    /// The checksum of the seed that was applied last, 0600.
    pub stamp: PathBuf,
    /// There while the units of cloud-init are to run.
    pub flag: PathBuf,
    /// The network card, for systemd-networkd.
    pub network: PathBuf,
    /// Names that the guest knows by itself.
    pub hosts: PathBuf,
    /// The kernel's own name of the machine.
    pub kernel_hostname: PathBuf,
}

/// Where an image may carry Node, best first.
const NODES: [&str; 3] = ["/opt/openclaw/node/bin/node", "/usr/local/bin/node", "/usr/bin/node"];

/// Where an image may carry OpenClaw's package, best first.
const PACKAGES: [&str; 3] = [
    "/opt/openclaw/lib/node_modules/openclaw",
    "/usr/local/lib/node_modules/openclaw",
    "/usr/lib/node_modules/openclaw",
];

/// A script that Node loads before OpenClaw, readable for everybody.
pub const PRELOAD: &str = "/usr/local/lib/fireclaw/preload.mjs";

/// The folder of an image that fireclaw built.
const OWN: &str = "/opt/openclaw";

/// Where a browser that OpenClaw can drive may be, best first. Wrappers of snap packages are not among them.
const BROWSERS: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/google-chrome-stable",
    "/usr/bin/google-chrome",
    "/opt/google/chrome/chrome",
];

impl GuestPaths {
    /// A guest's file system that hangs under `root`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where to open a path of the guest.
    pub fn on_disk(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The folder in a guest in which fireclaw keeps what it knows of it.
    pub const VAR: &str = "/var/lib/fireclaw";

    /// The files of an instance.
    pub fn instance(id: &InstanceId) -> GuestFiles {
        let (etc, var) = (PathBuf::from("/etc/fireclaw"), PathBuf::from(Self::VAR));
        let units = Path::new("/etc/systemd/system");
        let unit = id.guest_unit();
        GuestFiles {
            unit: units.join(unit.as_str()),
            wanted: units.join("multi-user.target.wants").join(unit.as_str()),
            drop_ins: units.join(format!("{unit}.d")),
            environment: etc.join(format!("openclaw-{id}.env")),
            base: var.join(format!("openclaw-{id}.json")),
            pending: var.join(format!("openclaw-{id}.pending")),
            etc,
            var,
        }
    }

    /// OpenClaw's files in a home.
    pub fn state(home: &Path) -> StateFiles {
        let dir = home.join(".openclaw");
        StateFiles {
            config: dir.join("openclaw.json"),
            candidate: dir.join(".openclaw.json.candidate"),
            dotenv: dir.join(".env"),
            dir,
        }
    }

    /// Where the Bash fireclaw keeps what a gateway works with, in its user's home.
    pub fn older_state(id: &InstanceId, home: &Path) -> OlderState {
        let (hidden, folder) = (home.join(format!(".openclaw-{id}")), home.join(format!("openclaw-{id}")));
        OlderState {
            config: hidden.join("config"),
            environment: hidden.join("openclaw.env"),
            workspace: folder.join("workspace"),
            tools: folder.join("tools"),
            folder,
        }
    }

    /// What says which machine a guest is; `home` is its user's.
    pub fn identity(home: &Path) -> IdentityFiles {
        let ssh = Path::new("/etc/ssh");
        let other = ["rsa", "dsa", "ecdsa"].into_iter().flat_map(|kind| {
            ["key", "key.pub", "key-cert.pub"].map(|end| ssh.join(format!("ssh_host_{kind}_{end}")))
        });
        IdentityFiles {
            machine_id: "/etc/machine-id".into(),
            dbus_machine_id: "/var/lib/dbus/machine-id".into(),
            hostname: "/etc/hostname".into(),
            random_seed: "/var/lib/systemd/random-seed".into(),
            host_key: ssh.join("ssh_host_ed25519_key"),
            host_key_public: ssh.join("ssh_host_ed25519_key.pub"),
            other_host_keys: other.chain([ssh.join("ssh_host_ed25519_key-cert.pub")]).collect(),
            authorized_keys: home.join(".ssh/authorized_keys"),
        }
    }

    /// What a seed changes beside what says which machine this is.
    pub fn seed() -> SeedPaths {
        SeedPaths {
            stamp: Path::new(Self::VAR).join("seed.sha256"),
            flag: "/run/fireclaw/cloud-init".into(),
            network: "/etc/systemd/network/10-fireclaw.network".into(),
            hosts: "/etc/hosts".into(),
            kernel_hostname: "/proc/sys/kernel/hostname".into(),
        }
    }

    /// The user database.
    pub fn passwd() -> PathBuf {
        "/etc/passwd".into()
    }

    /// Which distribution this is, the administrator's file first.
    pub fn os_release() -> [PathBuf; 2] {
        ["/etc/os-release".into(), "/usr/lib/os-release".into()]
    }

    /// What the kernel says of the memory.
    pub fn meminfo() -> PathBuf {
        "/proc/meminfo".into()
    }

    /// A `1` written here drops what memory holds of files that are on the disk as well.
    pub fn drop_caches() -> PathBuf {
        "/proc/sys/vm/drop_caches".into()
    }

    /// How readily the kernel ends this process for its memory.
    pub fn own_oom_score() -> PathBuf {
        "/proc/self/oom_score_adj".into()
    }

    /// The running kernel's version.
    pub fn kernel_release() -> PathBuf {
        "/proc/sys/kernel/osrelease".into()
    }

    /// What the kernel says about namespaces of ordinary users, which a browser's sandbox is made of, and the text that forbids
    /// them. A file that is not there forbids nothing.
    pub fn user_namespaces() -> [(PathBuf, &'static str); 3] {
        [
            ("/proc/sys/kernel/unprivileged_userns_clone".into(), "0"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns".into(), "1"),
            ("/proc/sys/user/max_user_namespaces".into(), "0"),
        ]
    }

    /// What systemd runs last before the machine goes down.
    pub fn shutdown_hook() -> PathBuf {
        "/usr/lib/systemd/system-shutdown/fireclaw".into()
    }

    /// Docker's configuration.
    pub fn docker_daemon() -> PathBuf {
        "/etc/docker/daemon.json".into()
    }

    /// `Y` where the kernel confines programs by `AppArmor`.
    pub fn apparmor() -> PathBuf {
        PathBuf::from("/sys/module/apparmor/parameters/enabled")
    }

    /// Where Node may be.
    pub fn nodes() -> impl Iterator<Item = PathBuf> {
        NODES.iter().map(PathBuf::from)
    }

    /// Where OpenClaw's package may be.
    pub fn packages() -> impl Iterator<Item = PathBuf> {
        PACKAGES.iter().map(PathBuf::from)
    }

    /// Whether a package lies where fireclaw's own images have it.
    pub fn is_own(package: &Path) -> bool {
        package.starts_with(OWN)
    }

    /// What Chromium is told by its administrator.
    pub fn browser_policy() -> PathBuf {
        "/etc/chromium/policies/managed/fireclaw.json".into()
    }

    /// Where a browser may be.
    pub fn browsers() -> impl Iterator<Item = PathBuf> {
        BROWSERS.iter().map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_put_before_every_path() {
        let paths = GuestPaths::under("/tmp/x");
        assert_eq!(paths.on_disk(Path::new("/etc/passwd")), Path::new("/tmp/x/etc/passwd"));
        assert_eq!(GuestPaths::default().on_disk(Path::new("/etc/passwd")), Path::new("/etc/passwd"));
    }

    #[test]
    fn the_unit_is_the_contracts() {
        let files = GuestPaths::instance(&"my-bot".parse().unwrap());
        assert_eq!(files.unit, Path::new("/etc/systemd/system/openclaw-my-bot.service"));
        assert_eq!(
            GuestPaths::state(Path::new("/home/ubuntu")).config,
            Path::new("/home/ubuntu/.openclaw/openclaw.json")
        );
    }
}
