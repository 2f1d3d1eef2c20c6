//! A service's output: from its pipe into a log of bounded size.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use fireclaw_core::error::{Context, Result};
use nix::{errno::Errno, libc::O_NONBLOCK, sys::stat::Mode, unistd::mkfifo};

use crate::{fs, vmm::console};

/// A log grows to this size, is then kept as `….1`, and begins anew: twice this is the most that a service can fill.
pub(super) const LOG_LIMIT: u64 = 4 << 20;
/// What the pipe holds while nobody reads: a whole boot log. The kernel gives the memory only to what is written.
const PIPE: usize = 1 << 20;
/// Read at once. One piece a turn of the loop: an endless writer does not keep us from anything else.
const PIECE: usize = 32 << 10;
/// The end of the output that is kept to tell why a service failed.
const TAIL: usize = console::END;
/// The most that is told of it.
const WORDS: usize = 240;

/// The reading end of a service's output.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    pipe: File,
    log: BoundedLog,
    tail: Vec<u8>,
}

impl Console {
    /// Makes the pipe where it is missing and opens it for reading and writing: so it has always a reader and a writer,
    /// and neither the end of a service nor the end of a supervisor breaks it.
    pub(super) fn open(path: PathBuf, log: PathBuf) -> Result<Self> {
        if std::fs::symlink_metadata(&path).is_ok_and(|there| !there.file_type().is_fifo()) {
            fs::remove_file(&path)?;
        }
        match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).context("create pipe", path.display()),
        }
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(&path)
            .context("open pipe", path.display())?;
        // A kernel that grants less makes a service wait for us earlier; nothing is lost.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE);
        Ok(Self { path, pipe, log: BoundedLog::new(log, LOG_LIMIT), tail: Vec::new() })
    }

    /// The service's own end. A description of its own: our reads do not block, its writes do.
    pub(super) fn for_service(&self) -> Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path).context("open pipe", self.path.display())
    }

    /// Moves one piece from the pipe into the log. False when there was nothing.
    pub(super) fn pump(&mut self, buffer: &mut Buffer) -> bool {
        match self.pipe.read(&mut buffer.0) {
            Ok(read) if read > 0 => {
                let piece = &buffer.0[..read];
                self.log.write(piece);
                self.remember(piece);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            _ => false,
        }
    }

    /// Moves what a service that has ended left in the pipe. Bounded: something of it may live on and write on.
    pub(super) fn drain(&mut self, buffer: &mut Buffer) {
        for _ in 0..=PIPE / PIECE {
            if !self.pump(buffer) {
                return;
            }
        }
    }

    /// Adds a line of ours to the log.
    pub(super) fn say(&mut self, line: &str) {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        self.log.write(format!("{now} supervisor: {line}\n").as_bytes());
    }

    /// Forgets what an earlier process said.
    pub(super) fn begin(&mut self) {
        self.tail.clear();
    }

    /// Whether it ended as a guest does that restarts.
    pub(super) fn restarts(&self) -> bool {
        console::restarts(&String::from_utf8_lossy(&self.tail))
    }

    /// What the service said last: from its last `error:` line on, or its last line.
    pub(super) fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let from = lines
            .iter()
            .rposition(|line| line.starts_with("error:"))
            .unwrap_or(lines.len().saturating_sub(1));
        // A guest wrote some of this, and a terminal may show it.
        let words: String =
            lines[from..].join("; ").chars().filter(|letter| !letter.is_control()).take(WORDS).collect();
        (!words.is_empty()).then_some(words)
    }

    fn remember(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + piece.len()).saturating_sub(TAIL);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend_from_slice(piece);
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// What is read into; one for all pipes.
#[derive(Debug)]
pub(super) struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; PIECE].into())
    }
}

/// A log that never grows past its limit, and that loses output rather than stop a service when the disk is full.
#[derive(Debug)]
struct BoundedLog {
    path: PathBuf,
    limit: u64,
    open: Option<(File, u64)>,
}

impl BoundedLog {
    fn new(path: PathBuf, limit: u64) -> Self {
        Self { path, limit, open: None }
    }

    fn write(&mut self, piece: &[u8]) {
        if self.open.as_ref().is_some_and(|(_, size)| size + piece.len() as u64 > self.limit) {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            self.open = None;
            if std::fs::rename(&self.path, old).is_err() {
                // It cannot be set aside, or somebody removed it: it still must not grow.
                let _ = std::fs::remove_file(&self.path);
            }
        }
        if self.open.is_none() {
            self.open = open_to_append(&self.path).ok();
        }
        // On an error the size is looked up again at the next piece: part of this one may be there.
        if let Some((file, size)) = &mut self.open {
            match file.write_all(piece) {
                Ok(()) => *size += piece.len() as u64,
                Err(_) => self.open = None,
            }
        }
    }
}

fn open_to_append(path: &Path) -> Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::make_private_dir(folder)?;
    }
    let file = append(path)?;
    let size = file.metadata().context("look at", path.display())?.len();
    Ok((file, size))
}

/// Opens a log that only we write to.
pub(super) fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).context("open", path.display())
}

/// Opens a small log whose writers are others, and empties it once it is larger than `limit`.
pub(super) fn append_at_most(path: &Path, limit: u64) -> Result<File> {
    let file = append(path)?;
    if file.metadata().context("look at", path.display())?.len() > limit {
        file.set_len(0).context("empty", path.display())?;
    }
    Ok(file)
}
