//! The initial ramdisk: a static busybox, the few modules that find the disks, and a script that mounts the root or lays it
//! together of a base and a state disk. Reads the tree of the root filesystem.
//!
//! The distribution's own generator brings udev and everything that it may need; ours is a tenth of that and is up in a
//! tenth of the time, which on an emulated machine is seconds. The archive is the kernel's "newc" cpio
//! (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed: it is unpacked faster that way.

use std::{collections::BTreeMap, path::Path};

use fireclaw_core::error::{Context, Error, Result};

use super::{
    kernel,
    recipe::{INITRD_MODULES, NEEDED_MODULES},
};

/// The script that runs as the ramdisk's init.
pub const INIT: &str = include_str!("files/init.sh");

/// Builds the ramdisk for the kernel `release` (such as `6.12.0-cloud-amd64`) from the tree of its root filesystem.
pub fn build(tree: &Path, release: &str) -> Result<Vec<u8>> {
    let busybox = ["usr/bin/busybox", "bin/busybox"]
        .iter()
        .map(|place| tree.join(place))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::new("find", "busybox in the root filesystem"))?;
    let folder = tree.join("usr/lib/modules").join(release);
    let modules = Modules::read(&folder)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.add(folder, 0o040_755, (0, 0), b"");
    }
    // What the kernel opens as the script's input and output before there is a devtmpfs.
    archive.add("dev/console", 0o020_600, (5, 1), b"");
    archive.add("dev/null", 0o020_666, (1, 3), b"");
    archive.add("init", 0o100_755, (0, 0), INIT.as_bytes());
    let program = std::fs::read(&busybox).context("read", busybox.display())?;
    archive.add("bin/busybox", 0o100_755, (0, 0), &program);
    let mut order = String::new();
    for module in modules.in_order(INITRD_MODULES)? {
        let path = modules.folder.join(&module);
        let packed = std::fs::read(&path).context("read", path.display())?;
        let name = file_name(&module);
        let plain = if packed.starts_with(b"\x7fELF") { packed } else { kernel::decompress(&packed)? };
        archive.add(&format!("modules/{name}.ko"), 0o100_644, (0, 0), &plain);
        order.push_str(name);
        order.push_str(".ko\n");
    }
    archive.add("modules/order", 0o100_644, (0, 0), order.as_bytes());
    Ok(archive.finish())
}

/// `kernel/fs/fat/vfat.ko.xz` is `vfat`, with dashes as they are in the name of the file.
fn file_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split(".ko").next().unwrap_or(name)
}

/// The name by which a module is asked for: dashes and underscores are the same to the kernel.
fn canonical(path: &str) -> String {
    file_name(path).replace('-', "_")
}

/// The modules of one kernel, as depmod describes them.
struct Modules<'a> {
    folder: &'a Path,
    /// Path of each module, and the paths that it needs, nearest first.
    needs: BTreeMap<String, Vec<String>>,
    /// Names of what is part of the kernel itself.
    built_in: Vec<String>,
}

impl<'a> Modules<'a> {
    fn read(folder: &'a Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).context("read", path.display())
        };
        let needs = text("modules.dep")?
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
            .collect();
        let built_in = text("modules.builtin")?.lines().map(canonical).collect();
        Ok(Self { folder, needs, built_in })
    }

    /// The paths of the modules of these names and of all that they need, each after what it needs.
    fn in_order(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in names {
            if self.built_in.iter().any(|built_in| built_in == name) {
                continue;
            }
            match self.needs.keys().find(|path| canonical(path) == *name) {
                Some(path) => self.add(path, &mut order),
                None if NEEDED_MODULES.contains(name) => {
                    return Err(Error::new("find", format!("kernel module {name}"))
                        .because("an image without it does not boot")
                        .hint("the kernel of this suite is not made for VMs; try another --suite"));
                }
                None => {}
            }
        }
        Ok(order)
    }

    fn add(&self, path: &str, order: &mut Vec<String>) {
        if order.iter().any(|present| present == path) {
            return;
        }
        // depmod lists all that a module needs, with the deepest last.
        for needed in self.needs.get(path).into_iter().flatten().rev() {
            self.add(needed, order);
        }
        if !order.iter().any(|present| present == path) {
            order.push(path.to_owned());
        }
    }
}

/// A cpio archive that grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        // Numbers are eight hexadecimal digits. A file of more than 4 GiB does not come here.
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Cmd, Exec, SystemExec};

    const DEP: &str = "kernel/drivers/virtio/virtio_mmio.ko.xz:\n\
        kernel/drivers/block/virtio_blk.ko.xz:\n\
        kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz\n\
        kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n\
        kernel/net/core/failover.ko.xz:\n\
        kernel/fs/fat/vfat.ko.xz: kernel/fs/fat/fat.ko.xz\n\
        kernel/fs/fat/fat.ko.xz:\n\
        kernel/drivers/char/hw_random/virtio-rng.ko.xz:\n\
        kernel/fs/overlayfs/overlay.ko.xz:\n";

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("usr/lib/modules/6.1-x");
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        std::fs::write(dir.path().join("usr/bin/busybox"), "busybox").unwrap();
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::write(modules.join("modules.dep"), DEP).unwrap();
        std::fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        for line in DEP.lines() {
            let path = modules.join(line.split(':').next().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let packed = zstd::encode_all(&b"\x7fELF a module"[..], 1).unwrap();
            std::fs::write(path, packed).unwrap();
        }
        dir
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let dir = tree();
        let folder = dir.path().join("usr/lib/modules/6.1-x");
        let order = Modules::read(&folder).unwrap().in_order(INITRD_MODULES).unwrap();
        let names: Vec<_> = order.iter().map(|path| file_name(path)).collect();
        assert_eq!(
            names,
            [
                "virtio_mmio",
                "virtio_blk",
                "failover",
                "net_failover",
                "virtio_net",
                "virtio-rng",
                "overlay",
                "fat",
                "vfat"
            ]
        );
    }

    /// A shell reads it to its end without running it, and it asks for the disks by the words of the command line.
    #[test]
    fn the_script_is_well_formed_and_knows_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, INIT).unwrap();
        SystemExec::default().check(Cmd::new("sh").arg("-n").arg(&path)).unwrap();
        for word in crate::image::recipe::CMDLINE.split(' ').filter_map(|word| word.split_once('=')) {
            assert!(INIT.contains(&format!("    {}=/dev/*)", word.0)), "{word:?} is not looked for");
        }
    }

    #[test]
    fn a_kernel_without_the_disk_driver_is_refused_by_name() {
        let dir = tree();
        let folder = dir.path().join("usr/lib/modules/6.1-x");
        let dep: String =
            DEP.lines().filter(|line| !line.contains("virtio_blk")).map(|l| format!("{l}\n")).collect();
        std::fs::write(folder.join("modules.dep"), dep).unwrap();
        let error = build(dir.path(), "6.1-x").unwrap_err();
        assert!(error.one_line().contains("virtio_blk"), "{}", error.one_line());
    }

    #[test]
    fn the_archive_is_whole_and_cpio_reads_it() {
        let dir = tree();
        let archive = build(dir.path(), "6.1-x").unwrap();
        assert_eq!(archive, build(dir.path(), "6.1-x").unwrap());
        check_by_hand(&archive);
        let exec = SystemExec::default();
        if exec.which("cpio").is_none() {
            return;
        }
        let listed =
            exec.check(Cmd::new("cpio").args(["--list", "--quiet"]).stdin_bytes(archive)).unwrap().text();
        let names: Vec<_> = listed.lines().collect();
        assert!(names.contains(&"modules/virtio_blk.ko") && names.contains(&"init"), "{listed}");
        assert_eq!(names.len(), 6 + 2 + 2 + 9 + 1);
    }

    /// The archive's own chain of lengths leads to its trailer.
    fn check_by_hand(archive: &[u8]) {
        let number = |at: usize| {
            usize::from_str_radix(std::str::from_utf8(&archive[at..at + 8]).unwrap(), 16).unwrap()
        };
        let (mut at, mut names) = (0, Vec::new());
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701");
            let (length, name) = (number(at + 6 + 6 * 8), number(at + 6 + 11 * 8));
            names.push(String::from_utf8_lossy(&archive[at + 110..at + 109 + name]).into_owned());
            at = (at + 110 + name).next_multiple_of(4) + length;
            at = at.next_multiple_of(4);
        }
        assert_eq!(names.last().unwrap(), "TRAILER!!!");
        assert_eq!(names.len(), 6 + 2 + 2 + 9 + 1 + 1);
    }
}
