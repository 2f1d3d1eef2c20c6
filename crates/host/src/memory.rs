//! Memory of processes that live long and do little. Unmaps pages of this process's own program.

use std::ffi::c_void;

use nix::sys::mman::{MmapAdvise, madvise};

/// Takes the pages of the program that only its start needed (the command line's parser, mostly) out of this process. The
/// kernel keeps them for whoever runs the program next, and brings back the few that the work ahead touches.
///
/// A host with dozens of supervisors and proxies would otherwise count the program's size for each. Where the kernel does
/// not tell what is mapped, nothing is done.
pub fn release_start_pages() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    let own = release_start_pages as fn() as usize;
    for (start, end) in unchanged(&mappings(&maps), own) {
        let Some(first) = std::ptr::NonNull::new(std::ptr::without_provenance_mut::<c_void>(start)) else {
            continue;
        };
        // SAFETY: the range is a mapping of the program itself, which stays for the life of the process; it cannot be
        // written and no page of it differs from the file, so what is touched again is read again and is the same.
        let _ = unsafe { madvise(first, end - start, MmapAdvise::MADV_DONTNEED) };
    }
}

/// A mapping as /proc/PID/smaps tells of it.
struct Mapping<'a> {
    start: usize,
    end: usize,
    protection: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// Whether a page of it differs from the file.
    changed: bool,
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut found: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), found.last_mut()) {
            (["Anonymous:", kib, ..], Some(last)) => last.changed = *kib != "0",
            ([range, protection, _, device, inode, ..], _) => {
                let range = range
                    .split_once('-')
                    .map(|(start, end)| [start, end].map(|it| usize::from_str_radix(it, 16)));
                if let Some([Ok(start), Ok(end)]) = range {
                    found.push(Mapping { start, end, protection, file: (device, inode), changed: true });
                }
            }
            _ => {}
        }
    }
    found
}

/// Start and end of what is mapped from the same file as the code at `own`, cannot be written, and holds unchanged pages
/// only: code and constants, and not what the loader has relocated.
fn unchanged(mappings: &[Mapping<'_>], own: usize) -> Vec<(usize, usize)> {
    let program = mappings.iter().find(|it| (it.start..it.end).contains(&own)).map(|it| it.file);
    let unchanged = |it: &&Mapping<'_>| {
        Some(it.file) == program && !it.changed && matches!(it.protection, "r--p" | "r-xp")
    };
    mappings.iter().filter(unchanged).map(|it| (it.start, it.end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unchanged_and_stays_so_is_taken() {
        let smaps = "\
00400000-00500000 r--p 00000000 08:01 77 /usr/bin/x
Rss:                 900 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
00500000-00900000 r-xp 00100000 08:01 77 /usr/bin/x (deleted)
Anonymous:             0 kB
00900000-00940000 r--p 00500000 08:01 77 /usr/bin/x
Anonymous:           256 kB
00940000-00950000 rw-p 00540000 08:01 77 /usr/bin/x
Anonymous:             0 kB
00a00000-00b00000 r-xp 00000000 08:01 78 /usr/lib/y
Anonymous:             0 kB
01000000-01021000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
7fff0000-7fff1000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";
        let found = |own| unchanged(&mappings(smaps), own);
        assert_eq!(found(0x50_0010), [(0x40_0000, 0x50_0000), (0x50_0000, 0x90_0000)]);
        assert_eq!(found(0x10), []);
    }

    #[test]
    fn a_process_that_released_its_pages_goes_on_with_fewer() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        release_start_pages();
        let after = resident();
        assert!(after < before, "{after} KiB after, {before} KiB before");
        assert_eq!(format!("{:?}", std::collections::BTreeMap::from([(1, "one")])), "{1: \"one\"}");
    }
}
