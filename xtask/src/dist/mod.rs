//! `cargo xtask dist`: what is published. One static program, a Debian package and an npm package of it, and their
//! checksums; `--check` installs each and uses it. Writes target/dist; starts cargo, dpkg-deb, npm.

mod check;
mod config;
mod content;
mod deb;
mod npm;

use std::{fs, path::PathBuf};

use clap::Args;
#[cfg(test)]
pub use content::man_pages;
use fireclaw_core::{
    error::{Context, Error, Result},
    spec::Arch,
};
use sha2::{Digest, Sha256};

use crate::{say, shell};

/// What to make.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Install every package somewhere else and use it from there
    #[arg(long)]
    pub check: bool,
    /// The program to pack [default: target/…/release/fireclaw, built first]
    #[arg(long, value_name = "FILE")]
    pub fireclaw: Option<PathBuf>,
    /// Where the packages go [default: target/dist]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Everything that the packages are made of. The same values give the same bytes.
pub struct Input {
    /// The program.
    pub program: Vec<u8>,
    /// Version of the workspace.
    pub version: &'static str,
    /// The machine that the program is for.
    pub arch: Arch,
    /// The time that every file carries, in seconds of the epoch.
    pub time: i64,
}

/// What was made.
pub struct Made {
    /// The Debian package.
    pub deb: PathBuf,
    /// The npm package.
    pub npm: PathBuf,
}

/// Makes everything. `Ok(false)` when a check failed.
pub fn run(options: &Options) -> Result<bool> {
    let program = match &options.fireclaw {
        Some(path) => path.clone(),
        None => build()?,
    };
    let input = Input {
        program: fs::read(&program).context("read", program.display())?,
        version: env!("CARGO_PKG_VERSION"),
        arch: Arch::named(std::env::consts::ARCH)?,
        time: source_date()?,
    };
    must_be_static(&input.program, &program)?;
    let out = options.out.clone().unwrap_or_else(|| shell::target().join("dist"));
    fireclaw_host::fs::remove_tree(&out)?;
    fs::create_dir_all(&out).context("create folder", out.display())?;
    let made = make(&input, &out)?;
    let bare = out.join(format!("fireclaw-{}-linux-{}", input.version, input.arch.as_str()));
    fireclaw_host::fs::write(&bare, &input.program, 0o755)?;
    let mut sums = String::new();
    for path in [&bare, &made.deb, &made.npm] {
        let content = fs::read(path).context("read", path.display())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sums.push_str(&format!("{}  {name}\n", sha256(&content)));
        say::line(&format!("{:>8} KiB  {}", content.len() >> 10, path.display()));
    }
    fireclaw_host::fs::write(&out.join("SHA256SUMS"), sums.as_bytes(), 0o644)?;
    Ok(!options.check || check::run(&input, &made))
}

/// Both packages, into a folder.
fn make(input: &Input, out: &std::path::Path) -> Result<Made> {
    Ok(Made { deb: deb::make(input, out)?, npm: npm::make(input, out)? })
}

fn build() -> Result<PathBuf> {
    if !shell::attach("cargo", &["build", "--release", "--locked", "--quiet", "--package", "fireclaw"])? {
        return Err(Error::new("build", "fireclaw").because("cargo build failed"));
    }
    Ok(shell::release())
}

/// `SOURCE_DATE_EPOCH`, else the time of the commit that is packed.
fn source_date() -> Result<i64> {
    let text = if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        text
    } else {
        let root = shell::root().display().to_string();
        shell::must("git", &["-C", &root, "log", "-1", "--format=%ct"])?
    };
    text.trim()
        .parse()
        .map_err(|_| Error::refused("SOURCE_DATE_EPOCH", text.escape_debug(), "is not a number of seconds"))
}

/// A program that asks for a dynamic loader would not start on every distribution, nor in every guest.
fn must_be_static(program: &[u8], path: &std::path::Path) -> Result<()> {
    let wrong = |why: &str| Error::new("pack", path.display().to_string()).because(why);
    let facts = elf(program).ok_or_else(|| wrong("it is not a 64-bit program of Linux"))?;
    if facts.interpreter {
        return Err(wrong("it is linked dynamically"));
    }
    if facts.symbols {
        return Err(wrong("it is not stripped"));
    }
    Ok(())
}

/// What the headers of a program say.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    interpreter: bool,
    symbols: bool,
}

/// Reads the tables of segments and sections of a 64-bit little-endian file. (From elf(5).)
fn elf(file: &[u8]) -> Option<Elf> {
    const INTERPRETER: u64 = 3;
    const SYMBOL_TABLE: u64 = 2;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = file.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    // Whether a table has an entry of a kind: where it begins, where that and the size and number of entries are said.
    let has = |start: usize, size: usize, count: usize, field: usize, kind: u64| -> Option<bool> {
        let (start, size, count) = (number(start, 8)?, number(size, 2)?, number(count, 2)?);
        for index in 0..count {
            let entry = usize::try_from(start.checked_add(index * size)?).ok()?;
            if number(entry.checked_add(field)?, 4)? == kind {
                return Some(true);
            }
        }
        Some(false)
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    Some(Elf {
        interpreter: has(0x20, 0x36, 0x38, 0, INTERPRETER)?,
        symbols: has(0x28, 0x3a, 0x3c, 4, SYMBOL_TABLE)?,
    })
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn input() -> Input {
        Input {
            program: b"\x7fELF as far as packing goes".to_vec(),
            version: "1.2.3",
            arch: Arch::X86_64,
            time: 1_767_225_600,
        }
    }

    /// The same input gives the same bytes, whatever the umask and the clock are.
    #[test]
    fn packages_are_reproducible() {
        let make_in = |umask| {
            let dir = tempfile::tempdir().unwrap();
            let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
            let made = make(&input(), dir.path());
            nix::sys::stat::umask(before);
            let made = made.unwrap();
            [made.deb, made.npm].map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
        };
        assert!(make_in(0o022) == make_in(0o077), "two packages of one input differ");
    }

    /// Judged on programs that are there: this test's own, which is static and has symbols, and the shell.
    #[test]
    fn what_is_not_static_and_stripped_is_not_packed() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(elf(&own), Some(Elf { interpreter: false, symbols: true }));
        assert_eq!(elf(&fs::read("/bin/sh").unwrap()), Some(Elf { interpreter: true, symbols: false }));
        for none in [&b"#!/bin/sh"[..], b"\x7fELF\x02\x01", b"\x7fELF\x01\x01", &own[..60]] {
            assert_eq!(elf(none), None);
        }
        let error = must_be_static(&own, std::path::Path::new("x")).unwrap_err().one_line();
        assert!(error.contains("not stripped"), "{error}");
    }
}
