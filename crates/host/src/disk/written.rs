//! Copies the disk that a stopped instance wrote, and keeps its base for another one. Touches the copy, and the two places where
//! a base is kept; the source is only read.

use std::{fs::File, path::PathBuf};

use fireclaw_core::error::{Context, Result};

use super::{DiskOrigin, MARGIN, SystemDisks, part::Part, pin};

/// A copy to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCopy {
    /// A root disk or a state disk that nothing runs from.
    pub source: PathBuf,
    /// Where the copy goes; its folder is there.
    pub target: PathBuf,
    /// Where it is a state disk.
    pub base: Option<BaseCopy>,
}

/// A base to keep once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseCopy {
    /// The source's own link to it.
    pub base: PathBuf,
    /// The new one.
    pub link: PathBuf,
    /// The new one beside the images, where `link` lies on another filesystem.
    pub pin: PathBuf,
}

pub(super) fn copy(disks: &SystemDisks, copy: &WrittenCopy) -> Result<DiskOrigin> {
    let WrittenCopy { source: path, target, base } = copy;
    if target.try_exists().context("look at", target.display())? {
        return Ok(DiskOrigin::Present);
    }
    let source = File::open(path).context("open", path.display())?;
    disks.check_room(target, MARGIN)?;
    if let Some(BaseCopy { base, link, pin }) = base {
        pin::keep(base, link, pin)?;
    }
    let part = Part::create(target)?;
    let origin = disks.fill(&source, path, &part)?;
    part.publish(target)?;
    Ok(origin)
}
