//! The disks of instances. A root disk is made from a base filesystem by reflink where the filesystem has it, else by a
//! sparse copy, then grown; or the base is shared, and the instance keeps it and gets an empty disk for what it writes.
//! Touches the base (reads, links), the target and a file beside it, and runs e2fsprogs.
//!
//! A target appears under its name only when it is complete and durable. What is under way lies in `.NAME.part` beside
//! it; the next run replaces that, and it goes with its folder.

mod copy;
pub mod ext4;
mod part;
mod pin;
mod renew;
pub mod space;
mod written;

#[cfg(any(test, feature = "fakes"))]
pub mod fake;
#[cfg(test)]
mod layered_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::renewal::Renewal,
    spec::DiskSize,
};
use nix::errno::Errno;

use self::part::Part;
pub use self::written::{BaseCopy, WrittenCopy};
use crate::{exec::Exec, fs, interrupt::Interrupt};

/// The disk that an instance runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootDisk {
    /// A copy of the base, all its own.
    Copy {
        /// An ext4 filesystem without a partition table. Only read.
        base: PathBuf,
        /// Where the disk goes; its folder is there.
        target: PathBuf,
        /// How large it becomes.
        size: DiskSize,
    },
    /// A base that is only read, and an empty filesystem for what is written over it.
    Layered {
        /// An image's root filesystem.
        base: PathBuf,
        /// Where the instance finds it from now on, whatever becomes of the image.
        link: PathBuf,
        /// Where it is kept beside the images when `link` lies on another filesystem.
        pin: PathBuf,
        /// Where the state disk goes; its folder is there.
        target: PathBuf,
        /// How large the state disk is.
        size: DiskSize,
    },
}

impl RootDisk {
    /// The disk that is written.
    pub fn target(&self) -> &Path {
        match self {
            Self::Copy { target, .. } | Self::Layered { target, .. } => target,
        }
    }
}

/// How a disk came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOrigin {
    /// Shares its blocks with the base.
    Reflink,
    /// A copy without the base's holes.
    SparseCopy {
        /// What was copied.
        bytes: u64,
    },
    /// Empty, over a base that is kept by this means.
    Layered(Kept),
    /// It was there, complete, and was left as it is.
    Present,
}

/// How an instance keeps a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// By a hard link of its own.
    Linked,
    /// By a hard link beside the images and a symbolic link to that.
    Beside,
    /// By a copy, on a filesystem that has no hard links.
    Copied,
}

/// Makes disks and says what they cost.
pub trait Disks: Send + Sync {
    /// Makes a root disk, mode 0600, or leaves one that is there. A size below that of the base's filesystem, and a base
    /// that is no filesystem, are [`Kind::Refused`]; too little room is [`Kind::HostNotReady`] before anything is
    /// written. After an error there is no target.
    fn create_root(&self, disk: &RootDisk) -> Result<DiskOrigin>;

    /// Copies the disk of an instance that does not run, mode 0600, or leaves a copy that is there; keeps its base once more.
    /// Too little room is [`Kind::HostNotReady`] before anything is written. After an error there is no target.
    fn copy_written(&self, copy: &WrittenCopy) -> Result<DiskOrigin>;

    /// Makes a copied disk another guest's and gives the channels that it lost. `uid` is whom the programs run as that read it.
    /// [`Kind::Refused`] is a guest that may not be copied so. After an error there is no disk.
    fn renew(&self, disk: &Path, renewal: &Renewal, uid: u32) -> Result<BTreeSet<String>>;

    /// Removes a root disk and what an unfinished creation left. One that is not there is fine.
    fn remove_root(&self, disk: &RootDisk) -> Result<()>;

    /// What a file takes on its filesystem, holes not counted, shared blocks counted.
    fn allocated_bytes(&self, path: &Path) -> Result<u64>;

    /// What is left for us on the filesystem of a path that exists.
    fn free_bytes(&self, path: &Path) -> Result<u64>;
}

/// Room beyond the copied bytes: the grown filesystem's own tables, and the host's need to breathe.
pub const MARGIN: u64 = 64 << 20;

/// Disks on this machine.
#[derive(Clone)]
pub struct SystemDisks {
    exec: Arc<dyn Exec>,
    interrupt: Interrupt,
    free: fn(&Path) -> Result<u64>,
}

impl SystemDisks {
    /// `exec` runs e2fsprogs; a copy under way ends when the interrupt is asked.
    pub fn new(exec: Arc<dyn Exec>, interrupt: Interrupt) -> Self {
        Self { exec, interrupt, free: space::free_bytes }
    }

    fn copy(&self, base: &Path, target: &Path, size: &DiskSize) -> Result<DiskOrigin> {
        check_size(base, size)?;
        if target.try_exists().context("look at", target.display())? {
            return Ok(DiskOrigin::Present);
        }
        let source = File::open(base).context("open", base.display())?;
        let part = Part::create(target)?;
        let origin = self.fill(&source, base, &part)?;
        part.file().set_len(size.bytes()).map_err(|error| no_room(part.path(), error))?;
        ext4::grow(self.exec.as_ref(), part.path())?;
        part.publish(target)?;
        Ok(origin)
    }

    fn layered(
        &self,
        base: &Path,
        link: &Path,
        pin: &Path,
        target: &Path,
        size: &DiskSize,
    ) -> Result<DiskOrigin> {
        check_state_size(size)?;
        if target.try_exists().context("look at", target.display())? {
            return Ok(DiskOrigin::Present);
        }
        self.check_room(target, MARGIN)?;
        let kept = pin::keep(base, link, pin)?;
        let part = Part::create(target)?;
        part.file().set_len(size.bytes()).map_err(|error| no_room(part.path(), error))?;
        ext4::make(self.exec.as_ref(), part.path(), size.bytes(), "state")?;
        part.publish(target)?;
        Ok(DiskOrigin::Layered(kept))
    }

    fn fill(&self, source: &File, base: &Path, part: &Part) -> Result<DiskOrigin> {
        self.check_room(part.path(), MARGIN)?;
        match reflink_copy::reflink_file(source, part.file()) {
            Ok(()) => return Ok(DiskOrigin::Reflink),
            // The filesystem took the request and failed at it: a copy would fail later and less clearly.
            Err(error) if is_full(&error) => return Err(no_room(part.path(), error)),
            // No reflinks here, or none between these two filesystems.
            Err(_) => {}
        }
        let needed = space::allocated_bytes(base)?;
        self.check_room(part.path(), needed + MARGIN)?;
        let bytes = copy::sparse(source, part.file(), &self.interrupt).map_err(|stop| match stop {
            copy::Stop::Io(error) => no_room(part.path(), error),
            copy::Stop::Asked(error) => error,
        })?;
        Ok(DiskOrigin::SparseCopy { bytes })
    }

    fn check_room(&self, path: &Path, needed: u64) -> Result<()> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let free = (self.free)(folder)?;
        if free >= needed {
            return Ok(());
        }
        Err(Error::new("make", format!("a disk in {}", folder.display()))
            .kind(Kind::HostNotReady)
            .because(format!("it needs {needed} bytes and {free} bytes are free there"))
            .hint(format!(
                "free {} on that filesystem, or move FC_ROOT to a larger one",
                humanly(needed - free)
            )))
    }
}

impl Disks for SystemDisks {
    fn create_root(&self, disk: &RootDisk) -> Result<DiskOrigin> {
        match disk {
            RootDisk::Copy { base, target, size } => self.copy(base, target, size),
            RootDisk::Layered { base, link, pin, target, size } => {
                self.layered(base, link, pin, target, size)
            }
        }
    }

    fn copy_written(&self, copy: &WrittenCopy) -> Result<DiskOrigin> {
        written::copy(self, copy)
    }

    fn renew(&self, disk: &Path, renewal: &Renewal, uid: u32) -> Result<BTreeSet<String>> {
        renew::renew(self.exec.as_ref(), disk, renewal, uid)
    }

    fn remove_root(&self, disk: &RootDisk) -> Result<()> {
        if let RootDisk::Layered { link, pin, .. } = disk {
            fs::remove_file(link)?;
            fs::remove_file(pin)?;
        }
        let target = disk.target();
        fs::remove_file(&part::path_for(target))?;
        fs::remove_file(target)
    }

    fn allocated_bytes(&self, path: &Path) -> Result<u64> {
        space::allocated_bytes(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        (self.free)(path)
    }
}

/// Copies a file without its holes: by reflink where the filesystem has it. The target is replaced.
pub fn copy_sparse(source: &Path, target: &Path, interrupt: &Interrupt) -> Result<()> {
    fs::remove_file(target)?;
    if reflink_copy::reflink(source, target).is_ok() {
        return Ok(());
    }
    let from = File::open(source).context("read", source.display())?;
    let to = File::create_new(target).context("create", target.display())?;
    match copy::sparse(&from, &to, interrupt) {
        Ok(_) => Ok(()),
        Err(copy::Stop::Io(error)) => Err(Error::new("copy", source.display().to_string()).source(error)),
        Err(copy::Stop::Asked(error)) => Err(error),
    }
}

/// Refuses a size that the base's filesystem does not fit in. Reads the base only; for checks before anything is done.
pub fn check_size(base: &Path, size: &DiskSize) -> Result<()> {
    let filesystem = ext4::inspect(base)?.bytes();
    if size.bytes() >= filesystem {
        return Ok(());
    }
    Err(Error::refused(
        "--disk-size",
        size,
        format!("is less than the {filesystem} bytes of {}", base.display()),
    )
    .hint(format!("choose at least {}M", filesystem.div_ceil(1 << 20))))
}

fn is_full(error: &std::io::Error) -> bool {
    [Errno::ENOSPC, Errno::EDQUOT].iter().any(|full| error.raw_os_error() == Some(*full as i32))
}

/// The least that a guest can work with: its journal and its logs, and room to install something.
const STATE_MIN: u64 = 512 << 20;

/// Refuses a size that a state disk is of no use with.
pub fn check_state_size(size: &DiskSize) -> Result<()> {
    if size.bytes() >= STATE_MIN {
        return Ok(());
    }
    Err(Error::refused("--disk-size", size.to_string(), "is too little for what an instance writes")
        .hint(format!("choose at least {}M", STATE_MIN >> 20)))
}

/// Which file or folder a path leads to, whatever its name; `None` where it leads nowhere.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).map(|facts| (facts.dev(), facts.ino())).ok()
}

/// Whether two paths lead to the same file. A path that leads nowhere is no file.
pub fn same_file(one: &Path, other: &Path) -> bool {
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

fn no_room(path: &Path, error: std::io::Error) -> Error {
    let full = is_full(&error);
    let made = Error::new("write", path.display().to_string()).source(error);
    if full { made.hint("free some room on that filesystem, or move FC_ROOT to a larger one") } else { made }
}

/// Bytes rounded up to whole MiB or GiB.
fn humanly(bytes: u64) -> String {
    if bytes >= 10 << 30 {
        format!("{} GiB", bytes.div_ceil(1 << 30))
    } else {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}
