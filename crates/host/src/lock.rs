//! File locks, released by the kernel when their holder dies. Touches the lock files of `layout`.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use fireclaw_core::error::{Context, Error, Kind, Result};

use crate::{
    fs,
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

/// A held lock; dropping it releases. The file stays: removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::make_private_dir(parent)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("open lock", path.display())
}

fn try_take(path: &Path) -> Result<Result<Lock, String>> {
    let mut file = open(path)?;
    match file.try_lock() {
        Ok(()) => {
            // Who holds it, for the one who finds it held. On a full disk that one learns no number.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| write!(file, "{}", std::process::id()));
            Ok(Ok(Lock { _file: file }))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Ok(Err(holder))
        }
        Err(TryLockError::Error(error)) => Err(Error::new("lock", path.display().to_string()).source(error)),
    }
}

/// The running process that took a lock last, for display: whether it holds it still only taking it would tell.
pub fn last_holder(path: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    crate::proc::ProcessId::of(pid).map(|process| process.pid)
}

/// Takes a lock or fails at once with [`Kind::Held`], naming the process that has it.
pub fn take(path: &Path, what: &str) -> Result<Lock> {
    try_take(path)?.map_err(|holder| {
        Error::new("lock", what)
            .kind(Kind::Held)
            .because(format!("another fireclaw (process {holder}) is working on it"))
            .hint("wait until it is done, or see what it does with `ps`")
    })
}

/// Waits for a lock that is only ever held for moments.
pub fn wait_for(path: &Path, what: &str, deadline: Duration, interrupt: &Interrupt) -> Result<Lock> {
    let requirement = Requirement {
        description: format!("the lock of {what}"),
        deadline,
        hint: "another fireclaw holds it for long: see `ps` for one that hangs".into(),
    };
    until(&requirement, interrupt, || match try_take(path) {
        Ok(Ok(lock)) => Probed::Ready(lock),
        Ok(Err(holder)) => Probed::NotYet(format!("held by process {holder}")),
        Err(error) => Probed::Never(error),
    })
    .map_err(|error| error.kind(Kind::Held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/a.lock");
        let held = take(&path, "instance a").unwrap();
        let error = take(&path, "instance a").unwrap_err();
        assert_eq!(error.get_kind(), Kind::Held);
        assert!(error.one_line().contains(&std::process::id().to_string()));
        drop(held);
        take(&path, "instance a").unwrap();
    }
}
