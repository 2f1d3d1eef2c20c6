//! Whether a file is what it is given as. Reads it.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use fireclaw_core::error::{Error, Result};

use super::kernel::KernelKind;
use crate::disk::ext4;

/// Tells the kind of a kernel, and refuses a file that is none: neither ELF nor the boot protocol of x86 nor an arm64 image, plain
/// or packed.
pub fn check_kernel(path: &Path) -> Result<KernelKind> {
    let refused = |why: String| {
        Error::refused("kernel", path.display(), why)
            .hint("a kernel is a vmlinux (ELF) or a bzImage, such as /boot/vmlinuz-…")
    };
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    let mut head = Vec::new();
    file.take(0x400).read_to_end(&mut head).map_err(|error| refused(error.to_string()))?;
    KernelKind::of(&head).ok_or_else(|| refused("is neither ELF nor a bzImage".to_owned()))
}

/// Refuses a file that is no ext4 filesystem without a partition table.
pub fn check_ext4(path: &Path) -> Result<()> {
    let refused = |why: String| {
        Error::refused("root filesystem", path.display(), why)
            .hint("an ext4 filesystem without a partition table is needed; `file` tells what this is")
    };
    let mut file = File::open(path).map_err(|error| refused(error.to_string()))?;
    let mut magic = [0; 2];
    // The superblock begins at 1024; its magic number is at 0x38 of it.
    file.seek(SeekFrom::Start(1024 + 0x38))
        .and_then(|_| file.read_exact(&mut magic))
        .map_err(|_| refused("is too short to be ext4".to_owned()))?;
    if magic != [0x53, 0xef] {
        return Err(refused("is not ext4".to_owned()));
    }
    let (filesystem, there) = (ext4::inspect(path)?.bytes(), file.metadata().map_or(0, |facts| facts.len()));
    if filesystem > there {
        return Err(refused(format!(
            "is cut short: its filesystem has {filesystem} bytes, and the file {there}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fireclaw_core::error::Kind;

    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let mut bz = vec![0; 0x400];
        bz[0x202..0x206].copy_from_slice(b"HdrS");
        let mut elf = vec![0; 0x400];
        elf[..4].copy_from_slice(b"\x7fELF");
        check_kernel(&file("bz", &bz)).unwrap();
        check_kernel(&file("elf", &elf)).unwrap();
        for bad in [file("text", &[b'x'; 0x400]), file("short", b"x"), dir.path().join("missing")] {
            let error = check_kernel(&bad).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
            assert!(error.to_string().contains("kernel"), "{error}");
        }
    }

    #[test]
    fn what_is_no_ext4_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zeros");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        for bad in [path, dir.path().join("missing")] {
            let error = check_ext4(&bad).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
            assert!(error.to_string().contains("root filesystem"), "{error}");
        }
    }
}
