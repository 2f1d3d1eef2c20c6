//! The `NoCloud` seed as a guest reads it: finds the small vfat disk labelled CIDATA and takes the files off it, without mounting it.
//! Reads block devices under a root that tests choose.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use fatfs::{FileSystem, FsOptions};

/// A larger disk is no seed, and is not read.
const SIZE_MAX: u64 = 8 << 20;
/// A longer file is none that a guest is told by.
const FILE_MAX: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The sector that says how the others are laid out.
const BOOT: usize = 512;
/// Where the label of a volume is, of FAT12 and FAT16 and of FAT32, and how long.
const LABELS: [usize; 2] = [43, 71];

/// A seed disk.
pub struct SeedDisk {
    /// As the guest knows it.
    pub device: PathBuf,
    /// All that is on it.
    pub bytes: Vec<u8>,
}

/// The first seed disk of this machine, by the names of the devices.
pub fn find(root: &Path) -> Option<SeedDisk> {
    let classes = root.join("sys/class/block");
    let mut names: Vec<_> = fs::read_dir(&classes).ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names.into_iter().find_map(|name| {
        let sectors: u64 = fs::read_to_string(classes.join(&name).join("size")).ok()?.trim().parse().ok()?;
        if sectors * SECTOR > SIZE_MAX {
            return None;
        }
        let bytes = fs::read(root.join("dev").join(&name)).ok()?;
        is_seed(&bytes).then(|| SeedDisk { device: Path::new("/dev").join(name), bytes })
    })
}

fn is_seed(bytes: &[u8]) -> bool {
    LABELS.iter().any(|at| {
        bytes.get(*at..at + super::LABEL.len()).is_some_and(|label| label.eq_ignore_ascii_case(&super::LABEL))
    })
}

impl SeedDisk {
    /// The files in its topmost folder, by name. A disk that is laid out otherwise than fireclaw does it is an error: the kernel
    /// reads what this library was not made for.
    pub fn files(&self) -> io::Result<BTreeMap<String, String>> {
        let ours = super::formatted()?.into_inner();
        if self.bytes.len() != ours.len() || self.bytes.get(..BOOT) != ours.get(..BOOT) {
            return Err(io::Error::other("its disk was made by another program"));
        }
        let volume = FileSystem::new(Cursor::new(self.bytes.clone()), FsOptions::new())?;
        let mut files = BTreeMap::new();
        for entry in volume.root_dir().iter() {
            let entry = entry?;
            let name = entry.file_name();
            let mut text = String::new();
            if entry.is_file() {
                entry.to_file().take(FILE_MAX).read_to_string(&mut text)?;
            }
            files.insert(name, text);
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use fireclaw_core::{render::cloud_init::SeedFiles, secret::Secret};
    use proptest::prelude::*;

    use super::*;
    use crate::exec::{Cmd, Exec, SystemExec};

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        root
    }

    fn attach(root: &Path, name: &str, bytes: &[u8]) {
        let class = root.join("sys/class/block").join(name);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("size"), format!("{}\n", bytes.len() as u64 / SECTOR)).unwrap();
        fs::write(root.join("dev").join(name), bytes).unwrap();
    }

    fn ours() -> SeedFiles {
        SeedFiles {
            user_data: Secret::new(format!("#cloud-config\n{{\"x\": \"🦀 {}\"}}\n", "y".repeat(9000))),
            meta_data: "{}\n".into(),
            network_config: "{\"version\": 2}\n".into(),
        }
    }

    #[test]
    fn what_was_written_is_found_among_other_disks_and_read() {
        let root = root();
        attach(root.path(), "vda", &vec![0; 9 << 20]);
        attach(root.path(), "vdb", &[0; 1024]);
        let image = root.path().join("seed.img");
        super::super::write(&image, &ours()).unwrap();
        attach(root.path(), "vdc", &fs::read(&image).unwrap());
        let disk = find(root.path()).unwrap();
        assert_eq!(disk.device, Path::new("/dev/vdc"));
        let wanted: BTreeMap<String, String> =
            ours().named().into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        assert_eq!(disk.files().unwrap(), wanted);
    }

    #[test]
    fn a_disk_of_another_program_is_found_and_not_read() {
        let root = root();
        let mkfs = ["-C", "-n", "cidata", "other.img", "2048"];
        SystemExec::default().check(Cmd::new("mkfs.fat").cwd(root.path()).args(mkfs)).unwrap();
        attach(root.path(), "sda", &fs::read(root.path().join("other.img")).unwrap());
        let why = find(root.path()).unwrap().files().unwrap_err().to_string();
        assert_eq!(why, "its disk was made by another program");
    }

    #[test]
    fn without_one_nothing_is_found() {
        let root = root();
        assert!(find(root.path()).is_none());
        attach(root.path(), "vda", &[0; 4096]);
        attach(root.path(), "vdb", &[0; 8]);
        assert!(find(root.path()).is_none());
    }

    #[test]
    fn a_broken_disk_is_an_error() {
        let mut bytes = vec![0; 4096];
        bytes[43..54].copy_from_slice(&super::super::LABEL);
        assert!(is_seed(&bytes));
        assert!(SeedDisk { device: "/dev/vda".into(), bytes }.files().is_err());
    }

    proptest! {
        /// A boot that ends in the middle of reading would be a guest without a network: whatever is on the disk, there is an answer.
        #[test]
        fn no_disk_breaks_the_reader(spoilt in prop::collection::vec((prop_oneof![1 => 0_usize..BOOT, 4 => BOOT..4096, 4 => BOOT..(64 << 10)], any::<u8>()), 1..8)) {
            let dir = root();
            let image = dir.path().join("seed.img");
            super::super::write(&image, &ours()).unwrap();
            let mut bytes = fs::read(&image).unwrap();
            for (at, byte) in spoilt {
                bytes[at] = byte;
            }
            if let Ok(files) = (SeedDisk { device: "/dev/vda".into(), bytes }).files() {
                prop_assert!(files.values().all(|text| text.len() as u64 <= FILE_MAX));
            }
        }
    }
}
