//! The files that make a root filesystem ours: pure lists of path, mode and content, and of links. `apply` writes them below
//! the tree that it is given.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use fireclaw_core::{
    error::{Context, Result},
    guest::{USER, USER_ID},
};
use serde_json::json;

use super::BuildRequest;

/// Node's folder in the guest.
pub const NODE_DIR: &str = "/opt/openclaw/node";
/// The prefix that npm installs OpenClaw to.
pub const PREFIX: &str = "/opt/openclaw";
/// OpenClaw's entry.
pub const ENTRY: &str = "/opt/openclaw/lib/node_modules/openclaw/openclaw.mjs";
/// Where Node keeps compiled code.
pub const COMPILE_CACHE: &str = "/var/cache/openclaw/compile";

/// A file of the image.
struct Wanted {
    path: &'static str,
    mode: u32,
    content: String,
}

fn file(path: &'static str, mode: u32, content: impl Into<String>) -> Wanted {
    Wanted { path, mode, content: content.into() }
}

/// Everything but what each instance is told by its seed.
fn files(request: &BuildRequest) -> Vec<Wanted> {
    let marker = json!({
        "format": 1,
        "openclaw": request.openclaw_version,
        "node": request.node_version,
        "docker": request.docker,
        "browser": request.browser,
    });
    vec![
        file("/etc/fireclaw/image.json", 0o644, format!("{marker}\n")),
        file("/etc/hostname", 0o644, "localhost\n"),
        file("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
        // The kernel has mounted the root; it is checked by the journal's replay, and grown before the first boot.
        file("/etc/fstab", 0o644, "/dev/vda / ext4 rw,noatime,discard,errors=remount-ro 0 0\n"),
        file("/etc/machine-id", 0o444, ""),
        file("/etc/sudoers.d/90-fireclaw", 0o440, format!("{USER} ALL=(ALL) NOPASSWD:ALL\n")),
        file("/etc/cloud/cloud.cfg.d/90_fireclaw.cfg", 0o644, cloud_cfg()),
        file("/etc/initramfs-tools/modules", 0o644, super::recipe::INITRD_MODULES.join("\n") + "\n"),
        // The small initrd: what is listed, compressed with what the kernel unpacks fastest.
        file("/etc/initramfs-tools/conf.d/fireclaw", 0o644, "MODULES=list\nCOMPRESS=zstd\nRESUME=none\n"),
        file(
            "/etc/ssh/sshd_config.d/10-fireclaw.conf",
            0o644,
            "PasswordAuthentication no\nPermitRootLogin no\nUseDNS no\n",
        ),
        // A guest's journal is bounded, so that no program fills its disk with logs.
        file(
            "/etc/systemd/journald.conf.d/10-fireclaw.conf",
            0o644,
            "[Journal]\nSystemMaxUse=200M\nRateLimitIntervalSec=30s\nRateLimitBurst=10000\n",
        ),
        file(
            "/usr/local/bin/openclaw",
            0o755,
            format!(
                "#!/bin/sh\nexport NODE_COMPILE_CACHE=${{NODE_COMPILE_CACHE-{COMPILE_CACHE}}}\nexec {NODE_DIR}/bin/node {ENTRY} \"$@\"\n"
            ),
        ),
        file("/etc/profile.d/openclaw.sh", 0o644, format!("PATH=\"$PATH:{NODE_DIR}/bin\"\n")),
    ]
}

/// Only the data source that we use and the modules that a seed of ours speaks to.
fn cloud_cfg() -> String {
    let cfg = json!({
        "datasource_list": ["NoCloud"],
        "datasource": { "NoCloud": { "fs_label": "CIDATA" } },
        "system_info": {
            "default_user": { "name": USER, "lock_passwd": true, "shell": "/bin/bash", "sudo": ["ALL=(ALL) NOPASSWD:ALL"] },
            "network": { "renderers": ["networkd"], "activators": ["networkd"] },
        },
        "cloud_init_modules": ["set_hostname", "update_hostname", "update_etc_hosts", "users_groups", "ssh"],
        "cloud_config_modules": [],
        "cloud_final_modules": [],
        "growpart": { "mode": "off" },
        "resize_rootfs": false,
    });
    format!("#cloud-config\n{cfg:#}\n")
}

/// Units that cost time at each boot and bring nothing in a guest.
const MASKED: &[&str] = &[
    "systemd-networkd-wait-online.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-pstore.service",
    "cloud-init-hotplugd.socket",
    "getty@tty1.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-update-done.service",
    "ldconfig.service",
    "systemd-pcrmachine.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "systemd-hibernate-clear.service",
    "modprobe@drm.service",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sshd-keygen.service",
];

/// Units that are started by hand, by a socket, or by us.
const NOT_AT_BOOT: &[&str] =
    &["multi-user.target.wants/docker.service", "multi-user.target.wants/containerd.service"];

/// Links of an image: units at boot.
fn links(request: &BuildRequest) -> Vec<(String, &'static str)> {
    let mut links: Vec<(String, &'static str)> =
        MASKED.iter().map(|unit| (format!("/etc/systemd/system/{unit}"), "/dev/null")).collect();
    let wants = |target: &str, unit: &'static str| {
        (format!("/etc/systemd/system/{target}.wants/{}", unit.rsplit('/').next().unwrap_or(unit)), unit)
    };
    links.push(wants("multi-user.target", "/usr/lib/systemd/system/systemd-networkd.service"));
    links.push(wants("sysinit.target", "/usr/lib/systemd/system/systemd-resolved.service"));
    if request.docker {
        // dockerd starts at the first use: it costs neither the boot nor memory where nobody uses it.
        links.push(wants("sockets.target", "/usr/lib/systemd/system/docker.socket"));
    }
    // The resolvers of the seed reach programs through systemd-resolved's stub.
    links.push(("/etc/resolv.conf".to_owned(), "../run/systemd/resolve/stub-resolv.conf"));
    links
}

/// Writes everything below `tree`.
pub fn apply(tree: &Path, request: &BuildRequest) -> Result<()> {
    let at = |path: &str| tree.join(path.trim_start_matches('/'));
    for unit in NOT_AT_BOOT {
        crate::fs::remove_file(&at("/etc/systemd/system").join(unit))?;
    }
    // Keys and ids that all instances would share.
    for name in crate::fs::names(&at("/etc/ssh"))?.iter().filter(|name| name.starts_with("ssh_host_")) {
        crate::fs::remove_file(&at("/etc/ssh").join(name))?;
    }
    crate::fs::remove_file(&at("/var/lib/dbus/machine-id"))?;
    for wanted in files(request) {
        let path = at(wanted.path);
        make_parents(&path)?;
        crate::fs::remove_file(&path)?;
        fs::write(&path, wanted.content).context("write", path.display())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted.mode))
            .context("set the mode of", path.display())?;
    }
    for (link, target) in links(request) {
        let path = at(&link);
        make_parents(&path)?;
        crate::fs::remove_file(&path)?;
        symlink(target, &path).context("link", path.display())?;
    }
    let cache = at(COMPILE_CACHE);
    fs::create_dir_all(&cache).context("create folder", cache.display())?;
    for dir in [cache.parent().unwrap_or(&cache), &cache] {
        std::os::unix::fs::chown(dir, Some(USER_ID), Some(USER_ID)).context("give away", dir.display())?;
    }
    // systemd compares these with /usr and redoes work at the first boot when they are missing.
    for stamp in ["/etc/.updated", "/var/.updated"] {
        fs::write(at(stamp), "").context("write", stamp)?;
    }
    Ok(())
}

fn make_parents(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).context("create folder", parent.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_made_ours_twice_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        fs::create_dir_all(tree.join("etc/ssh")).unwrap();
        fs::write(tree.join("etc/ssh/ssh_host_rsa_key"), "x").unwrap();
        let request = BuildRequest::new("default".parse().unwrap());
        for _ in 0..2 {
            apply(tree, &request).unwrap();
        }
        assert!(!tree.join("etc/ssh/ssh_host_rsa_key").exists());
        assert_eq!(
            fs::read_link(tree.join("etc/systemd/system/apt-daily.timer")).unwrap(),
            Path::new("/dev/null")
        );
        let mode = fs::metadata(tree.join("etc/sudoers.d/90-fireclaw")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o440);
        let marker = fs::read_to_string(tree.join("etc/fireclaw/image.json")).unwrap();
        assert!(marker.contains("\"openclaw\":\"2026.9.6\""), "{marker}");
    }

    #[test]
    fn cloud_init_is_told_one_data_source() {
        insta::assert_snapshot!(cloud_cfg());
    }
}
