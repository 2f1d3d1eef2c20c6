//! A copy that keeps holes: only the extents that a file has are copied, by the kernel (`copy_file_range`) where it can.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use fireclaw_core::error::Error;
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

use crate::interrupt::Interrupt;

/// How much is copied between two looks at the interrupt: some tens of milliseconds on a slow disk.
const CHUNK: u64 = 16 << 20;

/// Why a copy ended early.
pub(super) enum Stop {
    Io(io::Error),
    Asked(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Copies `source` into the empty file `target` and gives the number of bytes that were copied.
pub(super) fn sparse(source: &File, target: &File, interrupt: &Interrupt) -> Result<u64, Stop> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut copied = 0;
    let mut position = 0;
    while let Some((start, end)) = next_extent(source, position, length)? {
        position = start;
        while position < end {
            interrupt.check().map_err(Stop::Asked)?;
            let wanted = CHUNK.min(end - position);
            let (mut from, mut to) = (source, target);
            from.seek(SeekFrom::Start(position))?;
            to.seek(SeekFrom::Start(position))?;
            if io::copy(&mut from.take(wanted), &mut to)? != wanted {
                return Err(Stop::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the source shrank")));
            }
            position += wanted;
            copied += wanted;
        }
    }
    Ok(copied)
}

/// The next run of data at or after `position`.
fn next_extent(file: &File, position: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |offset: u64, whence| -> Result<u64, Errno> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, offset, whence).map(i64::cast_unsigned)
    };
    let start = match seek(position, Whence::SeekData) {
        Ok(start) if start < length => start,
        // Nothing but a hole up to the end.
        Ok(_) | Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((start, seek(start, Whence::SeekHole)?.min(length))))
}
