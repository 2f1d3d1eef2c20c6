//! What the host has and what a file takes. Reads the filesystem's figures and /proc/meminfo.

use std::{os::unix::fs::MetadataExt, path::Path};

use fireclaw_core::error::{Context, Error, Result};
use nix::sys::statvfs::statvfs;

/// What a file takes on its filesystem.
pub fn allocated_bytes(path: &Path) -> Result<u64> {
    // st_blocks counts in units of 512 bytes, whatever the filesystem's block is.
    Ok(std::fs::metadata(path).context("look at", path.display())?.blocks() * 512)
}

/// What a folder takes with all that is in it; a file of two names counts twice.
pub fn allocated_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).context("list", folder.display())? {
            let entry = entry.context("list", folder.display())?;
            let facts = entry.metadata().context("look at", entry.path().display())?;
            bytes += facts.blocks() * 512;
            if facts.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// What an unprivileged writer could still write on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let stat = statvfs(path).context("look at the filesystem of", path.display())?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// The host's memory in MiB, from `meminfo` under `proc_root` (`/proc`).
pub fn host_memory_mib(proc_root: &Path) -> Result<u64> {
    let path = proc_root.join("meminfo");
    let text = std::fs::read_to_string(&path).context("read", path.display())?;
    match meminfo_kib(&text, "MemTotal") {
        Some(kib) => Ok(kib / 1024),
        None => Err(Error::new("read", path.display().to_string()).because("it has no line MemTotal")),
    }
}

/// A figure of `/proc/meminfo`, in KiB.
pub fn meminfo_kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_from_the_given_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meminfo"), "MemTotal:       24602444 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(host_memory_mib(dir.path()).unwrap(), 24025);
        std::fs::write(dir.path().join("meminfo"), "MemFree: 1 kB\n").unwrap();
        assert!(host_memory_mib(dir.path()).unwrap_err().one_line().contains("no line MemTotal"));
        assert!(host_memory_mib(Path::new("/proc")).unwrap() > 0);
    }

    #[test]
    fn a_hole_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(allocated_bytes(&path).unwrap(), 0);
        assert!(free_bytes(dir.path()).unwrap() > 0);
    }
}
