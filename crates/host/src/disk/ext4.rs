//! ext filesystems in files: what the superblock says, growth, and repair. Reads the file, runs `resize2fs` and `e2fsck`.

use std::{fs::File, io::ErrorKind, os::unix::fs::FileExt, path::Path};

use fireclaw_core::error::{Context, Error, Kind, Result};

use crate::exec::{Cmd, Exec};

/// What the superblock tells, as laid out in the kernel's Documentation/filesystems/ext4/super.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Whether the journal holds what is not in place yet: it was not unmounted cleanly.
    pub needs_recovery: bool,
}

impl Superblock {
    /// The filesystem's size.
    pub const fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }

    fn parse(raw: &[u8; 1024]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let incompatible = word(0x60);
        let high = if incompatible & 0x80 == 0 { 0 } else { word(0x150) };
        let block_size = 1024_u64.checked_shl(word(0x18)).filter(|size| *size <= 64 << 10)?;
        (raw[0x38..0x3a] == [0x53, 0xef]).then_some(Self {
            blocks: u64::from(high) << 32 | u64::from(word(4)),
            block_size,
            needs_recovery: incompatible & 4 != 0,
        })
    }
}

/// Reads the superblock of a file. [`Kind::Refused`] when it is no ext filesystem.
pub fn inspect(path: &Path) -> Result<Superblock> {
    let file = File::open(path).context("open", path.display())?;
    let mut raw = [0; 1024];
    let superblock = match file.read_exact_at(&mut raw, 1024) {
        Ok(()) => Superblock::parse(&raw),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(Error::new("read", path.display().to_string()).source(error)),
    };
    superblock.ok_or_else(|| {
        let mut start = [0; 512];
        let _ = file.read_at(&mut start, 0);
        Error::new("use", format!("{} as a root filesystem", path.display()))
            .kind(Kind::Refused)
            .because(what_it_is(&start))
            .hint("a root filesystem is one ext4 filesystem in a file, as `mke2fs -t ext4 -d FOLDER FILE SIZE` makes it")
    })
}

fn what_it_is(start: &[u8; 512]) -> &'static str {
    if start.starts_with(b"QFI\xfb") {
        "it is a qcow2 disk"
    } else if start.starts_with(b"hsqs") {
        "it is a squashfs"
    } else if start[510..] == [0x55, 0xaa] {
        "it is a disk with partitions"
    } else {
        "it is not an ext4 filesystem"
    }
}

/// The features of a filesystem that we make empty: those that every kernel and every e2fsprogs of a guest knows, whatever
/// the host's own defaults are.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// From this size on copies of the group descriptors would take more room than all else: then there are two, and not two
/// dozen.
const FEW_COPIES: u64 = 2 << 40;

/// The journal in MiB. It takes room as it is used, and a larger one gains nothing on a virtual disk.
const JOURNAL_MIB: u32 = 64;

/// Makes an empty filesystem of `bytes`, which is its file's length. What can be left to the first use is left to it, so that
/// neither the time nor the room that it takes grows much with its size.
pub fn make(exec: &dyn Exec, path: &Path, bytes: u64, label: &str) -> Result<()> {
    let mut features = FEATURES.to_owned();
    let mut options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0".to_owned();
    if bytes > FEW_COPIES {
        features.push_str(",sparse_super2");
        options.push_str(",num_backup_sb=2");
    }
    let cmd = Cmd::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label])
        .args(["-J", &format!("size={JOURNAL_MIB}"), "-O", &features, "-E", &options])
        .arg(path)
        .about(path.display());
    exec.check(cmd).map(drop)
}

/// Grows an unmounted filesystem to fill its file. One that fills it already is left alone.
pub fn grow(exec: &dyn Exec, path: &Path) -> Result<()> {
    let superblock = inspect(path)?;
    let length = std::fs::metadata(path).context("look at", path.display())?.len();
    if superblock.bytes() + superblock.block_size > length {
        return Ok(());
    }
    let resize = || Cmd::new("resize2fs").arg(path).about(path.display());
    let output = exec.run(resize())?;
    if output.status.success() {
        return Ok(());
    }
    // It refuses a filesystem that was used since it was last checked, and says so.
    if output.last_words().contains("e2fsck -f") {
        repair(exec, path)?;
    }
    exec.check(resize()).map(drop)
}

/// Checks an unmounted filesystem, replays its journal, and mends what is safe to mend without asking.
pub fn repair(exec: &dyn Exec, path: &Path) -> Result<()> {
    let output = exec.run(Cmd::new("e2fsck").args(["-f", "-p"]).arg(path).about(path.display()))?;
    // 1 is "errors corrected", 2 the same of a mounted root; everything above is damage that is left.
    if (0..=2).contains(&output.code()) {
        return Ok(());
    }
    Err(Error::new("repair", format!("the filesystem in {}", path.display()))
        .because(format!("e2fsck ended with {}: {}", output.code(), output.text()))
        .hint(format!("look at it with `e2fsck -f {}`, or take another base", path.display())))
}
