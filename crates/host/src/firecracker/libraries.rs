//! The libraries of a Firecracker that is linked dynamically, as some distributions build it: inside the jail it would not
//! find them. Reads the program's file and starts its loader, which lists what it would load.
//!
//! The released programs are static and need nothing of this.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::error::{Context, Error, Result};

use crate::exec::{Cmd, Exec};

/// The loader and all libraries, by the paths at which the program looks for them; none for a static program.
pub fn of(exec: &dyn Exec, program: &Path) -> Result<Vec<PathBuf>> {
    let Some(loader) = loader(program)? else { return Ok(Vec::new()) };
    let cmd = Cmd::new(&loader).arg("--list").arg(program).deadline(Duration::from_secs(10));
    let listed = exec.check(cmd.about(format!("the libraries of {}", program.display())))?.text();
    let mut paths = listed_paths(&listed)?;
    paths.push(loader);
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// What the loader prints: `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld.so (0x…)`, `linux-vdso.so.1 (0x…)`.
fn listed_paths(listed: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in listed.lines() {
        let found = line.split_once("=>").map_or(line, |(_, found)| found).trim();
        if found.starts_with("not found") {
            return Err(Error::new("start", "firecracker")
                .because(format!("a library is missing: {}", line.trim()))
                .hint("install a released Firecracker, which needs no libraries"));
        }
        let path = found.split(" (0x").next().unwrap_or(found);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// The loader that a 64-bit little-endian ELF file asks for (its `PT_INTERP`); `None` for a static one and for what is no
/// such file.
fn loader(program: &Path) -> Result<Option<PathBuf>> {
    // Whoever starts a program that is not there says so.
    if !program.exists() {
        return Ok(None);
    }
    let file = File::open(program).context("open", program.display())?;
    let mut head = [0; 64];
    if file.read_exact_at(&mut head, 0).is_err() || head[..6] != *b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let (offset, size, count) = (number(&head, 32, 8), number(&head, 54, 2), number(&head, 56, 2));
    for index in 0..count {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, offset + index * size).context("read", program.display())?;
        if number(&entry, 0, 4) == PT_INTERP {
            // A path; anything longer is none.
            let mut text = vec![0; usize::try_from(number(&entry, 32, 8)).unwrap_or(usize::MAX).min(4096)];
            file.read_exact_at(&mut text, number(&entry, 8, 8)).context("read", program.display())?;
            let text = text.strip_suffix(b"\0").unwrap_or(&text);
            return Ok(Some(PathBuf::from(OsStr::from_bytes(text))));
        }
    }
    Ok(None)
}

/// The type of the program header that names a loader.
const PT_INTERP: u64 = 3;

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::SystemExec;

    #[test]
    fn a_dynamic_program_is_found_with_all_that_it_loads() {
        let found = of(&SystemExec::default(), Path::new("/bin/ls")).unwrap();
        assert!(found.len() > 1 && found.iter().all(|path| path.is_file()), "{found:?}");
        assert!(found.iter().any(|path| path.ends_with("libc.so.6")), "{found:?}");
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(found.iter().any(|path| name(path).starts_with("ld-linux")), "{found:?}");
    }

    #[test]
    fn what_is_no_dynamic_program_needs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firecracker");
        for content in [&b""[..], b"#!/bin/sh\n", b"\x7fELF"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(of(&SystemExec::default(), &path).unwrap(), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = listed_paths("\tlibnone.so.1 => not found\n").unwrap_err();
        assert!(error.one_line().contains("libnone.so.1") && error.get_hint().is_some());
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /l i b/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(listed_paths(listed).unwrap(), [Path::new("/l i b/libc.so.6"), Path::new("/lib64/ld.so")]);
    }
}
