//! `guest trim`: makes this guest's memory cheap to keep. Drops what it holds of files that are on the disk as well, and leaves zeros
//! where they were: a snapshot has no room for zeros, and one that is small is read sooner when somebody waits for it. Writes to the
//! kernel's switch for it, and to memory of its own.

use std::hint::black_box;

use fireclaw_core::{
    error::{Error, Result},
    guest::{paths::GuestPaths, protocol::TrimReport},
};
use fireclaw_host::disk::space::meminfo_kib;

use super::files::Files;

/// The unit in which memory is taken and cleared, in KiB: with whole pages of the large kind in it.
const PIECE: u64 = 16 << 10;
/// What is left alone of what came free: others in the guest need memory meanwhile. In KiB.
const SPARE: u64 = 32 << 10;

/// Frees and clears. What was written and is not on the disk yet stays.
pub(super) fn trim(files: &Files) -> Result<TrimReport> {
    // Should memory run out after all, this is what has to go.
    let _ = files.write_in_place(&GuestPaths::own_oom_score(), "1000");
    let freed_kib = freed_by(files, || files.write_in_place(&GuestPaths::drop_caches(), "1"))?;
    Ok(TrimReport { freed_kib, cleared_kib: clear(freed_kib.saturating_sub(SPARE)) })
}

/// How much more memory is free than before.
fn freed_by(files: &Files, act: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = free_kib(files)?;
    act()?;
    Ok(free_kib(files)?.saturating_sub(before))
}

fn free_kib(files: &Files) -> Result<u64> {
    let path = GuestPaths::meminfo();
    let text = files.read_system(&path)?;
    text.and_then(|text| meminfo_kib(&text, "MemFree"))
        .ok_or_else(|| Error::new("read", path.display().to_string()).because("it has no line MemFree"))
}

/// Takes about so much memory, writes zeros to it and gives it back; says how much it was. The kernel hands out first what was freed
/// last.
fn clear(kib: u64) -> u64 {
    let piece = usize::try_from(PIECE << 10).unwrap_or(usize::MAX);
    let mut held: Vec<Vec<u8>> = Vec::new();
    for _ in 0..kib / PIECE {
        let mut memory = Vec::new();
        if memory.try_reserve_exact(piece).is_err() {
            break;
        }
        // Reserved memory is none yet; what is written to is.
        memory.resize(piece, 0);
        held.push(black_box(memory));
    }
    held.len() as u64 * PIECE
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        files: Files,
    }

    /// A guest that has so much free memory.
    fn place(free: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc/sys/vm")).unwrap();
        fs::write(dir.path().join("proc/meminfo"), format!("MemTotal: 2048000 kB\n{free}\n")).unwrap();
        let files = Files::new(GuestPaths::under(dir.path()));
        Place { dir, files }
    }

    fn on_disk(place: &Place, path: &Path) -> std::path::PathBuf {
        GuestPaths::under(place.dir.path()).on_disk(path)
    }

    #[test]
    fn what_comes_free_is_cleared_but_for_a_rest() {
        let place = place("MemFree:   100000 kB");
        let switch = on_disk(&place, &GuestPaths::drop_caches());
        fs::write(&switch, "").unwrap();
        let freed = freed_by(&place.files, || {
            fs::write(on_disk(&place, &GuestPaths::meminfo()), "MemFree: 181920 kB\n").unwrap();
            Ok(())
        });
        assert_eq!(freed.unwrap(), 81_920);
        assert_eq!(clear(81_920 - SPARE), 48 << 10);
        // The kernel of this guest does nothing.
        assert_eq!(trim(&place.files).unwrap(), TrimReport { freed_kib: 0, cleared_kib: 0 });
        assert_eq!(fs::read_to_string(switch).unwrap(), "1");
    }

    #[test]
    fn a_little_is_left_alone() {
        for free in [0, SPARE, SPARE + PIECE - 1] {
            assert_eq!(clear(free.saturating_sub(SPARE)), 0, "{free}");
        }
    }

    #[test]
    fn a_kernel_that_says_nothing_is_an_error() {
        let place = place("MemAvailable: 5 kB");
        assert!(trim(&place.files).unwrap_err().one_line().contains("MemFree"));
    }
}
