//! The disks of an instance: a base that all share and nobody writes, and a disk of its own for everything that it writes.

use std::{fs, os::unix::fs::MetadataExt as _};

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::world::{ID, World, ensure, same};
use crate::say;

/// Who the guest is, as its own disk knows it.
const IDENTITY: &str = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub";

/// A package is made, installed, and one of the base's is removed.
const PACKAGES: &str = "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/of-test && touch /tmp/p/usr/share/of-test/file && \
                        printf 'Package: of-test\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\n\
                        Description: of a test\n' >/tmp/p/DEBIAN/control && dpkg-deb --build /tmp/p /tmp/p.deb && \
                        sudo dpkg --install /tmp/p.deb && sudo dpkg --remove less";

/// A container of one program, without a registry.
const CONTAINER: &str = "tar -C /usr/bin -c busybox | sudo docker import - of-test && \
                         sudo docker run --rm --network none of-test /busybox echo from the container";

/// From the host and from inside, while it runs.
pub fn shared_base(world: &mut World) -> Result<()> {
    let status = world.status(ID)?;
    same("disks", &status["disk"]["kind"], &Value::from("shared"))?;
    same("current", &status["disk"]["base"]["current"], &Value::from(true))?;
    let facts = |path: &std::path::Path| fs::metadata(path).context("look at", path.display());
    let base = facts(&world.fc(ID, "images/base.ext4"))?;
    let image = facts(&world.root.join("images/default/rootfs.ext4"))?;
    same("the base's inode", &base.ino(), &image.ino())?;
    same("the base's owner and mode", &(base.uid(), base.mode() & 0o777), &(0, 0o644))?;
    say::detail(&format!(
        "    the state disk takes {} KiB",
        status["disk"]["allocated_bytes"].as_u64().unwrap_or(0) >> 10
    ));
    let mounts = world.guest("cut -d' ' -f2,3 /proc/mounts")?;
    for line in ["/ overlay", "/home ext4", "/var/lib/docker ext4", "/var/lib/containerd ext4"] {
        ensure(mounts.lines().any(|seen| seen == line), || format!("{line} is not among {mounts}"))?;
    }
    ensure(
        world
            .guest("sudo dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>&1 || echo refused")?
            .contains("refused"),
        || "the guest wrote to its base".into(),
    )?;
    // A package's folder is renamed, as package managers do; what programs see of it is one filesystem.
    world.guest("cd /usr/share && sudo mv -T git-core git-new && test -d git-new/templates && sudo mv -T git-new git-core")?;
    world.guest("test \"$(stat -c %d /etc/hostname)\" = \"$(stat -c %d /etc/debian_version)\"")?;
    // Docker on its own real filesystem.
    let driver = world.guest("sudo docker info --format '{{.Driver}} {{.DriverStatus}}'")?;
    ensure(driver.contains("overlay2") && driver.contains("extfs"), || driver.clone())?;
    let said = world.guest(CONTAINER)?;
    ensure(said.contains("from the container"), || said.clone())?;
    world.guest(PACKAGES)?;
    world
        .guest(&format!("{IDENTITY} | sudo tee /opt/kept | tee /home/ubuntu/kept >/dev/null; sync"))
        .map(drop)
}

/// After a power cut, a power-off and a start: what was written is there, and the guest is who it was.
pub fn state_is_kept(world: &mut World) -> Result<()> {
    world.ok(&["start", ID])?;
    let identity = world.guest(IDENTITY)?;
    ensure(identity.lines().count() == 2, || identity.clone())?;
    for file in ["/opt/kept", "/home/ubuntu/kept"] {
        same(file, &world.guest(&format!("cat {file}"))?, &identity)?;
    }
    world.guest("test -e /usr/share/of-test/file && ! test -e /usr/bin/less && dpkg --status of-test")?;
    let errors = world.guest("sudo dmesg | grep -ciE 'ext4.*error|overlayfs.*(fail|warn)' || true")?;
    same("errors of filesystems", &errors.trim(), &"0")?;
    same("disks", &world.status(ID)?["disk"]["kind"], &Value::from("shared"))
}
