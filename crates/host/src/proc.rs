//! Processes by identity: a pid together with its start time, so that a pid that was given to another process is never
//! mistaken for ours. Reads /proc, sends signals.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use fireclaw_core::error::{Context, Error, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

/// A process as a file can remember it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot.
    pub started: u64,
}

impl ProcessId {
    /// The running process with this pid.
    pub fn of(pid: i32) -> Option<Self> {
        // The program's name may hold spaces and parentheses: fields are counted after the last one.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        if *fields.first()? == "Z" {
            return None;
        }
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(self) -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// Seconds since it started.
    pub fn uptime(self) -> Option<u64> {
        let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an uptime is positive and small"
        )]
        let now = uptime as u64;
        Some(now.saturating_sub(self.started / 100))
    }

    /// Sends a signal; a process that is gone is fine.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(Error::new("signal", format!("process {}", self.pid)).source(error)),
        }
    }

    /// Waits until it is gone.
    pub fn wait_gone(self, what: &str, deadline: Duration, interrupt: &Interrupt) -> Result<()> {
        let requirement = Requirement {
            description: format!("the end of {what} (process {})", self.pid),
            deadline,
            hint: "see what it does with `ps`".into(),
        };
        until(&requirement, interrupt, || {
            if self.is_alive() { Probed::NotYet("it still runs".into()) } else { Probed::Ready(()) }
        })
    }

    /// SIGTERM, then SIGKILL after `grace`.
    pub fn end(self, what: &str, grace: Duration) -> Result<()> {
        let unhurried = Interrupt::default();
        self.signal(Signal::SIGTERM)?;
        if self.wait_gone(what, grace, &unhurried).is_ok() {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;
        self.wait_gone(what, Duration::from_secs(10), &unhurried)
    }
}

/// The processes, other than this one, that have a file open for writing, whatever its name is to them. Those that may not be
/// looked into are left out.
pub fn writers(path: &Path) -> Vec<ProcessId> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let own = ProcessId::own();
    let pids = crate::fs::names(Path::new("/proc")).unwrap_or_default().into_iter();
    pids.filter_map(|name| ProcessId::of(name.parse().ok()?))
        .filter(|process| Some(*process) != own && writes(*process, &wanted))
        .collect()
}

fn writes(process: ProcessId, wanted: &fs::Metadata) -> bool {
    let descriptors = format!("/proc/{}/fd", process.pid);
    crate::fs::names(Path::new(&descriptors)).unwrap_or_default().iter().any(|fd| {
        let same = fs::metadata(format!("{descriptors}/{fd}"))
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == (wanted.dev(), wanted.ino()));
        same && fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", process.pid)).is_ok_and(|info| {
            // Octal, as open(2) takes them: 1 is for writing, 2 for both.
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            flags
                .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
                .is_some_and(|flags| flags & 3 != 0)
        })
    })
}

/// Reads a remembered process; `None` when the file is missing or the process is gone.
pub fn read_alive(path: &Path) -> Option<ProcessId> {
    let text = fs::read_to_string(path).ok()?;
    let process: ProcessId = serde_json::from_str(&text).ok()?;
    process.is_alive().then_some(process)
}

/// Remembers a process in a file.
pub fn remember(path: &Path, process: ProcessId) -> Result<()> {
    let text = serde_json::to_vec(&process).context("render", "a process id")?;
    crate::fs::write(path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_a_file_is_found_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        fs::write(&disk, "x").unwrap();
        fs::hard_link(&disk, &link).unwrap();
        let exec = crate::exec::SystemExec::default();
        let found = std::cell::RefCell::new(Vec::new());
        for (redirection, count) in [("exec 3<>\"$1\"", 1), ("exec 3<\"$1\"", 0)] {
            let script = format!("{redirection}; echo open; exec sleep 5");
            let cmd = crate::exec::Cmd::new("sh").args(["-c", &script, "sh"]).arg(&link).stop_after("open");
            let _ =
                crate::exec::Exec::check_stream(&exec, cmd, &mut |_, _| *found.borrow_mut() = writers(&disk));
            assert_eq!(found.borrow().len(), count, "{redirection}");
        }
        let _own = fs::File::options().write(true).open(&disk).unwrap();
        assert!(writers(&disk).is_empty());
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not_it() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
        assert!(own.resident_bytes().unwrap() > 0);
    }
}
