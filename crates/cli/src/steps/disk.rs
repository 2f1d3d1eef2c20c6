//! Steps on an instance's disks: kernel, initrd, root disk or base and state disk, seed. Touches `FC_ROOT/ID/images`,
//! and through the disks the folder where bases are kept.

use std::path::Path;

use fireclaw_core::{
    error::{Context, Error, Result},
    layout::Layout,
    render::cloud_init::{CloudInit, GuestNetwork},
    spec::{DiskKind, VmmKind},
};
use fireclaw_host::{
    disk::{self, RootDisk},
    fs, image,
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
        pin_kernel(&base.kernel, &paths.kernel, record.vmm)?;
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

/// Keeps a kernel for an instance. Firecracker takes a packed one from 1.17 on, which is no version that everybody has: it gets what is
/// in it, as from an image.
fn pin_kernel(from: &Path, to: &Path, vmm: VmmKind) -> Result<()> {
    if vmm == VmmKind::Firecracker && image::check_kernel(from)?.is_packed() {
        return image::unpack_kernel(from, to);
    }
    pin(from, to)
}

/// Keeps a file of an image for an instance: by hard link where that works, for an image that is rebuilt or removed
/// then leaves the instance's file alone; else by copy. A file that is somebody's own is always copied, as it may be written in
/// place, and may be one that a VM's user cannot read.
pub(super) fn pin(from: &Path, to: &Path) -> Result<()> {
    fs::remove_file(to)?;
    // A link of a symbolic link would follow the next image.
    let real = from.canonicalize().context("find", from.display())?;
    let published = real.parent().is_some_and(|dir| Layout::image_in(dir.to_owned()).manifest.exists());
    if published && std::fs::hard_link(&real, to).is_ok() {
        return Ok(());
    }
    let content = std::fs::read(&real).context("read", from.display())?;
    fs::write(to, &content, 0o644)
}

#[cfg(test)]
mod tests {
    use fireclaw_host::image::fake_kernel::bz_image;

    use super::*;

    /// LZ4's legacy frame of one block that is stored as it is: a token with the length, then the bytes.
    fn lz4(plain: &[u8; 12]) -> Vec<u8> {
        let block = [&[0xc0][..], plain].concat();
        [&b"\x02\x21\x4c\x18"[..], &13_u32.to_le_bytes(), &block].concat()
    }

    #[test]
    fn firecracker_gets_what_is_in_a_packed_kernel_and_qemu_the_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("vmlinuz"), dir.path().join("vmlinux"));
        let (plain, packed) = (b"\x7fELF 12 byte", bz_image(&lz4(b"\x7fELF 12 byte")));
        std::fs::write(&from, &packed).unwrap();
        for (vmm, wanted) in [(VmmKind::Qemu, &packed[..]), (VmmKind::Firecracker, plain)] {
            pin_kernel(&from, &to, vmm).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), wanted, "{vmm:?}");
        }
        std::fs::write(&from, plain).unwrap();
        pin_kernel(&from, &to, VmmKind::Firecracker).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), plain);
        std::fs::write(&from, bz_image(b"of no known kind")).unwrap();
        let error = pin_kernel(&from, &to, VmmKind::Firecracker).unwrap_err();
        assert!(error.get_hint().unwrap().contains("vmlinux"), "{error}");
    }
}
