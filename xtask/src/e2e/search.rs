//! Looks for bytes where a guest could have them: its disk, and the memory of its VM. Reads files.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use fireclaw_core::error::{Context, Result};
use memchr::memmem::Finder;

const PIECE: usize = 8 << 20;

/// Where in a file the bytes are first; `None` when nowhere.
pub fn in_file(path: &Path, bytes: &[u8]) -> Result<Option<u64>> {
    let file = File::open(path).context("open", path.display())?;
    let end = file.metadata().context("look at", path.display())?.len();
    within(&file, 0..end, &Finder::new(bytes)).context("read", path.display())
}

/// The mapping of a process in whose memory the bytes are; `None` when they are nowhere.
pub fn in_memory(pid: i32, bytes: &[u8]) -> Result<Option<String>> {
    let maps = format!("/proc/{pid}/maps");
    let text = fs::read_to_string(&maps).context("read", &maps)?;
    let path = format!("/proc/{pid}/mem");
    let memory = File::open(&path).context("open", &path)?;
    let finder = Finder::new(bytes);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        let Some((from, to)) = range.split_once('-') else { continue };
        let bounds = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16));
        // What the kernel maps for itself cannot be read.
        if let (true, (Ok(from), Ok(to))) = (mode.starts_with('r') && !line.ends_with("[vvar]"), bounds)
            && within(&memory, from..to, &finder).is_ok_and(|found| found.is_some())
        {
            return Ok(Some(line.to_owned()));
        }
    }
    Ok(None)
}

fn within(file: &File, range: std::ops::Range<u64>, finder: &Finder<'_>) -> std::io::Result<Option<u64>> {
    let overlap = finder.needle().len();
    let mut piece = vec![0; PIECE + overlap];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
        let read = file.read_at(&mut piece[..want], at)?;
        if read == 0 {
            break;
        }
        if let Some(found) = finder.find(&piece[..read]) {
            return Ok(Some(at + found as u64));
        }
        if read <= overlap || at + read as u64 >= range.end {
            break;
        }
        // What lies across two pieces is seen by the second.
        at += (read - overlap) as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_across_two_pieces_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut content = vec![0; 2 * PIECE + 100];
        content[PIECE + 3..PIECE + 9].copy_from_slice(b"needle");
        fs::write(&path, &content).unwrap();
        assert_eq!(in_file(&path, b"needle").unwrap(), Some(PIECE as u64 + 3));
        assert_eq!(in_file(&path, b"noodle").unwrap(), None);
        let end = content.len();
        content[end - 6..].copy_from_slice(b"ending");
        fs::write(&path, &content).unwrap();
        assert_eq!(in_file(&path, b"ending").unwrap(), Some(end as u64 - 6));
    }

    #[test]
    fn bytes_in_a_process_are_found() {
        let pid = std::process::id().cast_signed();
        let secret: String = "yelraeb ton si siht".chars().rev().collect();
        assert!(in_memory(pid, secret.as_bytes()).unwrap().is_some());
    }
}
