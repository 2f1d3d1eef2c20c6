//! Processes that may not be our children, held by a descriptor: it becomes readable when the process ends, and a signal
//! through it never reaches another process that got the same pid.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, ExitStatus},
};

use fireclaw_core::error::{Context, Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::proc::ProcessId;

/// A held process.
#[derive(Debug)]
pub(super) struct Held {
    /// Which process it is.
    pub(super) id: ProcessId,
    fd: OwnedFd,
}

impl Held {
    /// Takes hold of a running process. `None` when it is gone, or its pid is another's now.
    pub(super) fn of(id: ProcessId) -> Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(id.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor is of whoever has the pid now; only then can it be compared without a race.
            Ok(fd) => Ok(id.is_alive().then_some(Self { id, fd })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(Error::new("watch", format!("process {}", id.pid)).source(error)),
        }
    }

    /// Takes hold of a child that has not been collected: its pid cannot be another's.
    pub(super) fn child(child: &Child) -> Result<Self> {
        let pid = child.id().cast_signed();
        let fd = Pid::from_raw(pid)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        // One that has ended already has no start time to remember, and nobody will look for it.
        let id = ProcessId::of(pid).unwrap_or(ProcessId { pid, started: 0 });
        Ok(Self { id, fd: fd.context("watch", format!("process {pid}"))? })
    }

    /// Sends a signal; a process that is gone is fine.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::new("signal", format!("process {}", self.id.pid)).source(error)),
        }
    }

    /// How a process that has ended and is not our child ended: from /proc until its parent has collected it, and from the
    /// kernel's memory of it afterwards (Linux 6.15 on; before that a quick parent leaves nothing to see).
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        uncollected(self.id).or_else(|| self.collected()).map(ExitStatus::from_raw)
    }

    fn collected(&self) -> Option<i32> {
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: the descriptor is a pidfd that we own, and `info` is the structure of the size that the request names,
        // which the kernel fills no further than that size.
        unsafe { get_info(self.fd.as_raw_fd(), &raw mut info) }.ok()?;
        (info.mask & INFO_EXIT != 0).then_some(info.exit_code)
    }
}

/// Fields 22 (start time) and 52 (exit code) of /proc/PID/stat, the latter for a process that only waits for its parent.
fn uncollected(id: ProcessId) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.pid)).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().zip(3..);
    let mut field = |number| fields.find(|(_, at)| *at == number).map(|(field, _)| field);
    let is_ours = field(3)? == "Z" && field(22)?.parse() == Ok(id.started);
    is_ours.then(|| field(52)?.parse().ok()).flatten()
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `PIDFD_INFO_EXIT` of linux/pidfd.h.
const INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` of linux/pidfd.h in its first size, 64 bytes.
#[derive(Default)]
#[repr(C)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

nix::ioctl_readwrite!(get_info, 0xff, 11, Info);

/// The processes, oldest first, whose standard output is this file.
///
/// It finds a service that was started and not written down any more: a VMM that was exec'd into keeps neither its name
/// nor its environment, but it keeps its standard output, also in a jail.
pub(super) fn writers(path: &Path) -> Result<Vec<ProcessId>> {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("look at", path.display()),
    };
    let own = ProcessId::own();
    let mut found: Vec<ProcessId> = crate::fs::names(Path::new("/proc"))?
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|pid: &i32| {
            let output = fs::metadata(format!("/proc/{pid}/fd/1"));
            output.is_ok_and(|output| (output.dev(), output.ino()) == (file.dev(), file.ino()))
        })
        .filter_map(ProcessId::of)
        .filter(|process| Some(*process) != own)
        .collect();
    found.sort_unstable_by_key(|process| (process.started, process.pid));
    Ok(found)
}
