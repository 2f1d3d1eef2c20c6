//! Makes the copy of an instance's disk another guest's, before anything boots from it. Touches the disk and a folder beside it,
//! and runs e2fsprogs.
//!
//! A guest wrote this filesystem, as root and perhaps in bad faith. So nothing mounts it, and the programs that read it run as a
//! user who can reach this one file and nothing else of the host: the disk lies, while they work, in a folder of that user's, and
//! they get the folder as their standard input, since the folders above it are root's alone. What they say is checked, not
//! believed, and what was written is read again.
//!
//! At the end blocks that are free are given back to the host. What was taken out of a file is then nowhere on the disk, and the
//! copy takes less room than its source.

use std::{
    collections::BTreeSet,
    fs::{File, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::renewal::{Edit, Found, Look, Owner, Renewal},
};
use tempfile::TempDir;

use crate::{
    exec::{Cmd, Exec, Output},
    fs,
};

/// The disk as the programs see it: their standard input is its folder.
const DISK: &str = "/proc/self/fd/0/disk";

/// The largest file that is read from a guest's disk. Configurations have a few KiB.
const LARGEST: u64 = 256 << 10;

/// The most that a program's output may be, for it to be whole: of more only the end is kept.
const WHOLE: usize = 1 << 20;

/// Looks, decides, writes, checks. Gives the channels that the guest lost. `uid` is the user of the VM that is going to run from
/// it. After an error there is no disk.
pub(super) fn renew(exec: &dyn Exec, disk: &Path, renewal: &Renewal, uid: u32) -> Result<BTreeSet<String>> {
    let bench = Bench::open(exec, disk, uid)?;
    // What a guest that was cut off had not written back yet.
    bench.check(&["-f", "-p"])?;
    let edits = renewal.edits(&bench)?;
    bench.carry_out(&edits.edits)?;
    bench.check(&["-f", "-p", "-E", "discard"])?;
    for edit in &edits.edits {
        bench.verify(edit)?;
    }
    bench.close(disk)?;
    Ok(edits.channels)
}

/// A disk in its user's hands.
struct Bench<'a> {
    exec: &'a dyn Exec,
    folder: TempDir,
    uid: u32,
    /// What errors name.
    shown: String,
}

impl<'a> Bench<'a> {
    fn open(exec: &'a dyn Exec, disk: &Path, uid: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(".renew-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(disk.parent().unwrap_or_else(|| Path::new(".")))
            .context("renew", disk.display())?;
        let bench = Self { exec, folder, uid, shown: disk.display().to_string() };
        std::fs::rename(disk, bench.disk()).context("move", disk.display())?;
        bench.hand_over(&bench.disk())?;
        bench.hand_over(bench.folder.path())?;
        Ok(bench)
    }

    fn disk(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    fn hand_over(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.uid)).context("hand over", path.display())
    }

    /// Root's again, durable, and under its name.
    fn close(self, disk: &Path) -> Result<()> {
        let here = self.disk();
        chown(&here, Some(0), Some(0)).context("take back", disk.display())?;
        File::open(&here).and_then(|file| file.sync_all()).context("sync", disk.display())?;
        std::fs::rename(&here, disk).context("create", disk.display())?;
        fs::sync_dir(disk.parent().unwrap_or_else(|| Path::new(".")))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        let folder = File::open(self.folder.path()).context("open", self.folder.path().display())?;
        let cmd = Cmd::new(program).args(args).arg(DISK).user(self.uid, self.uid);
        self.exec.run(cmd.stdin_file(folder).about(&self.shown))
    }

    fn check(&self, args: &[&str]) -> Result<()> {
        let output = self.run("e2fsck", args)?;
        // 1 is "errors corrected"; everything above is damage that is left.
        if matches!(output.code(), 0 | 1) {
            return Ok(());
        }
        Err(Error::new("check", format!("the filesystem in {}", self.shown))
            .because(format!("e2fsck ended with {}: {}", output.code(), output.last_words()))
            .hint("start the instance that is copied and stop it again: its guest mends what can be mended"))
    }

    /// Asks debugfs one thing. `None` when there is nothing by that name.
    fn ask(&self, request: &str, path: &str) -> Result<Option<Vec<u8>>> {
        check_path(path)?;
        let output = self.run("debugfs", &["-R", &format!("{request} {path}")])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("File not found by ext2_lookup") {
            return Ok(None);
        }
        // Its first line is its version; it exits with 0 whatever happens.
        if !output.status.success() || said.lines().count() > 1 || output.stdout.len() >= WHOLE {
            return Err(self.unreadable(path, &output.last_words()));
        }
        Ok(Some(output.stdout))
    }

    fn facts(&self, path: &str) -> Result<Option<Facts>> {
        let Some(said) = self.ask("stat", path)? else { return Ok(None) };
        let said = String::from_utf8_lossy(&said);
        Facts::parse(&said)
            .map(Some)
            .ok_or_else(|| self.unreadable(path, said.lines().next().unwrap_or_default()))
    }

    fn unreadable(&self, path: &str, why: &str) -> Error {
        Error::new("read", format!("{path} in {}", self.shown)).because(why.to_owned())
    }

    fn carry_out(&self, edits: &[Edit]) -> Result<()> {
        let mut commands = String::new();
        let mut say = |line: String| {
            commands.push_str(&line);
            commands.push('\n');
        };
        for (number, edit) in edits.iter().enumerate() {
            match edit {
                Edit::Remove(path) => {
                    check_path(path)?;
                    say(format!("rm {path}"));
                }
                Edit::Rename(from, to) => {
                    check_path(from)?;
                    check_path(to)?;
                    // Neither counts links: together they are a change of name.
                    say(format!("rm {to}"));
                    say(format!("ln {from} {to}"));
                    say(format!("unlink {from}"));
                }
                Edit::Write { path, text, owner } => {
                    check_path(path)?;
                    let name = format!("new-{number}");
                    self.lend(&name, text.expose())?;
                    say(format!("rm {path}"));
                    say(format!("write /proc/self/fd/0/{name} {path}"));
                    say(format!("set_inode_field {path} mode 0100{:o}", owner.mode & 0o7777));
                    say(format!("set_inode_field {path} uid {}", owner.uid));
                    say(format!("set_inode_field {path} gid {}", owner.gid));
                }
            }
        }
        self.lend("commands", &commands)?;
        self.run("debugfs", &["-w", "-f", "/proc/self/fd/0/commands"]).map(drop)
    }

    /// A file beside the disk, for the programs to read.
    fn lend(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.path().join(name);
        fs::write(&path, text.as_bytes(), 0o600)?;
        self.hand_over(&path)
    }

    /// What debugfs did not do it says among much else; the disk itself is the witness.
    fn verify(&self, edit: &Edit) -> Result<()> {
        let (path, holds) = match edit {
            Edit::Remove(path) => (path, self.facts(path)?.is_none()),
            Edit::Rename(from, to) => (to, self.facts(from)?.is_none() && self.facts(to)?.is_some()),
            Edit::Write { path, text, owner } => {
                let facts = self.facts(path)?;
                let same = facts.is_some_and(|facts| facts.regular && facts.owner == *owner);
                (path, same && self.ask("cat", path)?.is_some_and(|is| is == text.expose().as_bytes()))
            }
        };
        if holds {
            return Ok(());
        }
        Err(Error::new("change", format!("{path} in {}", self.shown))
            .because("it is not what was asked for")
            .hint("is the disk of the instance that is copied full? `df` in its guest shows it"))
    }
}

impl Look for Bench<'_> {
    fn file(&self, path: &str) -> Result<Option<Found>> {
        let Some(facts) = self.facts(path)? else { return Ok(None) };
        let refused = |why: &str| Err(self.unreadable(path, why).kind(Kind::Refused));
        if !facts.regular {
            return refused("it is not a file");
        }
        if facts.size > LARGEST {
            return refused(&format!("it has {} bytes, and {LARGEST} would be many", facts.size));
        }
        let bytes = self.ask("cat", path)?.unwrap_or_default();
        let Ok(text) = String::from_utf8(bytes) else { return refused("it is not text") };
        Ok(Some(Found { text, owner: facts.owner }))
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.facts(path)?.is_some())
    }

    fn is_file(&self, path: &str) -> Result<bool> {
        Ok(self.facts(path)?.is_some_and(|facts| facts.regular))
    }

    fn files(&self, path: &str) -> Result<Vec<String>> {
        let said = self.ask("ls -p", path)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&said).lines().filter_map(listed).map(str::to_owned).collect())
    }
}

/// A regular file with a plain name in a line of debugfs's `ls -p`: `/INODE/MODE/UID/GID/NAME/SIZE/`.
fn listed(line: &str) -> Option<&str> {
    let parts: Vec<&str> = line.split('/').collect();
    match parts.as_slice() {
        ["", _, mode, _, _, name, _, ""] if mode.starts_with("100") && is_plain(name) => Some(name),
        _ => None,
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)
}

/// debugfs has a language of its own, with quotes and escapes: no path may use it.
fn check_path(path: &str) -> Result<()> {
    if path.starts_with('/') && path.split('/').skip(1).all(|part| is_plain(part) && part != "..") {
        return Ok(());
    }
    Err(Error::new("use", format!("the path {}", path.escape_debug())).because("it has odd characters"))
}

/// What debugfs's `stat` tells of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    regular: bool,
    owner: Owner,
    size: u64,
}

impl Facts {
    /// The first three lines; what comes after them may hold words of the guest's.
    fn parse(said: &str) -> Option<Self> {
        let head: Vec<&str> = said.lines().take(3).flat_map(str::split_whitespace).collect();
        let after = |key: &str| head.iter().position(|word| *word == key).and_then(|at| head.get(at + 1));
        Some(Self {
            regular: *after("Type:")? == "regular",
            owner: Owner {
                uid: after("User:")?.parse().ok()?,
                gid: after("Group:")?.parse().ok()?,
                mode: u32::from_str_radix(after("Mode:")?, 8).ok()?,
            },
            size: after("Size:")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
