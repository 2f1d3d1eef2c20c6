//! Steps on an instance's disks: kernel, initrd, root disk or base and state disk, seed. Touches `FC_ROOT/ID/images`,
//! and through the disks the folder where bases are kept.

use std::path::Path;

use fireclaw_core::{
    error::{Context, Error, Result},
    render::cloud_init::{CloudInit, GuestNetwork},
    spec::DiskKind,
};
use fireclaw_host::{
    disk::{self, RootDisk},
    fs,
    keys::{self, SystemEntropy},
    seed,
};

use super::{Steps, guest};

impl Steps<'_> {
    pub(super) fn create_disk(&self) -> Result<()> {
        let paths = self.paths()?;
        let record = self.known()?;
        let base =
            self.base.as_ref().ok_or_else(|| Error::new("create", "a disk").because("no base was named"))?;
        let folder = base.rootfs.parent().map(disk::identity);
        pin(&base.kernel, &paths.kernel)?;
        if let Some(initrd) = &base.initrd {
            pin(initrd, &paths.initrd)?;
        }
        let (rootfs, size) = (base.rootfs.clone(), record.disk_size.clone());
        let disk = match record.disks {
            DiskKind::Copy => RootDisk::Copy { base: rootfs, target: paths.disk, size },
            DiskKind::Shared => RootDisk::Layered {
                base: rootfs,
                link: paths.base,
                pin: paths.base_pin,
                target: paths.state_disk,
                size,
            },
        };
        self.app.host.disks.create_root(&disk)?;
        // A kernel of one build finds no modules in the root filesystem of another.
        if folder == base.rootfs.parent().map(disk::identity) {
            return Ok(());
        }
        Err(Error::new("create", "a disk")
            .because(format!("the image `{}` was replaced meanwhile", record.image))
            .hint("run the command again"))
    }

    pub(super) fn write_seed(&self) -> Result<()> {
        let paths = self.paths()?;
        let record = self.known()?;
        let user_key = keys::ensure_user_key(&record.ssh_key_path, &SystemEntropy)?;
        // Our own key in the guest makes the first contact a verified one.
        let host_key = match &self.host_key {
            Some(key) => key.clone(),
            None => keys::generate_host_key(&SystemEntropy, record.id.as_str())?,
        };
        let line = keys::known_hosts_line(&record.vm_ip.to_string(), guest::SSH_PORT, &host_key.public);
        fs::write(&paths.known_hosts, line.as_bytes(), 0o600)?;
        let files = CloudInit {
            instance: record.id.clone(),
            authorized_keys: vec![user_key.public],
            host_key: Some(host_key),
            network: GuestNetwork {
                mac: record.vm_mac,
                ip: record.vm_ip,
                prefix: record.network.subnet.prefix_len(),
                gateway: record.network.gateway_ip(),
                dns: record.dns.clone(),
            },
        }
        .render();
        seed::write(&paths.seed, &files)
    }
}

/// Keeps a file of an image for an instance: by hard link where that works, for an image that is rebuilt or removed
/// then leaves the instance's file alone; else by copy.
pub(super) fn pin(from: &Path, to: &Path) -> Result<()> {
    fs::remove_file(to)?;
    // A link of a symbolic link would follow the next image.
    let real = from.canonicalize().context("find", from.display())?;
    if std::fs::hard_link(&real, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(&real, to).map(drop).context("copy", format!("{} to {}", from.display(), to.display()))
}
