//! Memory of a process of ours that stays: what it needed once, to start or for a crowd, is given back. Changes this process.
//!
//! The kernel maps a program's pages as they are touched, sixteen at a time, and leaves them mapped. Parsing the command line, reading
//! settings and binding ports leaves some megabytes behind of which a proxy that waits needs a few hundred kilobytes.

use std::{ffi::c_void, fs, num::NonZeroUsize, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};

/// Gives back what is not needed any more: what starting needed, and what a crowd of clients did that has gone. An allocator keeps the
/// most that it ever had.
pub fn give_back() {
    // SAFETY: takes no pointer, and what is in use is left where it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
    unmap_the_program();
}

/// Unmaps the program's code and constants; what is needed still comes back from the page cache, a minor fault each. Nothing depends
/// on it, so what cannot be done is left.
fn unmap_the_program() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    for (address, length) in clean(&maps, &program.to_string_lossy()) {
        let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(address.get()))
        else {
            continue;
        };
        // SAFETY: a private mapping of a file that nobody ever wrote to: what is read next is read from the same file again.
        // `clean` names only such.
        let _ = unsafe { madvise(address, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Start and length of the program's mappings without a private copy of any page: its code, and the constants before it, which lie at
/// the file's beginning. What the loader relocates is read-only afterwards too and lies further back.
fn clean(maps: &str, program: &str) -> Vec<(NonZeroUsize, usize)> {
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (range, mode, offset) = (fields.next()?, fields.next()?, fields.next()?);
            let path = line.split_once('/')?.1;
            let offset = u64::from_str_radix(offset, 16).ok()?;
            if path != program.strip_prefix('/')? || !(mode == "r-xp" || (mode == "r--p" && offset == 0)) {
                return None;
            }
            let (from, to) = range.split_once('-')?;
            let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16));
            let (from, to) = (from.ok()?, to.ok()?);
            Some((NonZeroUsize::new(from)?, to.checked_sub(from)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000278000 r--p 00000000 fe:00 42   /usr/bin/a b
7f0000278000-7f0000bd8000 r-xp 00277000 fe:00 42   /usr/bin/a b
7f0000bd8000-7f0000c15000 r--p 00bd6000 fe:00 42   /usr/bin/a b
7f0000c15000-7f0000c19000 rw-p 00c12000 fe:00 42   /usr/bin/a b
7f0000c19000-7f0000c1f000 rw-p 00000000 00:00 0    [heap]
7f1000000000-7f1000100000 r-xp 00000000 fe:00 43   /usr/lib/libc.so.6
7fff00000000-7fff00002000 r-xp 00000000 00:00 0    [vdso]
";

    #[test]
    fn only_what_was_never_written_is_named() {
        let named: Vec<_> =
            clean(MAPS, "/usr/bin/a b").into_iter().map(|(from, length)| (from.get(), length)).collect();
        assert_eq!(named, [(0x7f00_0000_0000, 0x27_8000), (0x7f00_0027_8000, 0x96_0000)]);
    }

    fn resident(what: &str) -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_a_crowd_left_is_given_back() {
        // Each by itself too small for a mapping of its own, and the last one stays, above all that was freed.
        let mut crowd: Vec<Vec<u8>> = (0..8_000).map(|_| vec![1; 4_000]).collect();
        let last = crowd.pop();
        drop(crowd);
        let before = resident("RssAnon");
        give_back();
        let after = resident("RssAnon");
        assert!(after + 20_000 < before, "{before} kB, then {after} kB; {}", last.is_some());
    }

    #[test]
    fn the_program_runs_on_with_less() {
        // Walks through much of the program, so that there is something to give back.
        assert!(
            clean(MAPS, "/x").is_empty() && std::backtrace::Backtrace::force_capture().to_string().len() > 10
        );
        let before = resident("RssFile");
        unmap_the_program();
        let after = resident("RssFile");
        assert!(after < before, "{before} kB, then {after} kB");
    }
}
