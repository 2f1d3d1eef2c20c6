//! What a path unit is under systemd: watches the folder in which the proxy leaves its requests, and runs `fireclaw attend` while
//! there is one. Watches that folder and starts that program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{console::append_at_most, files::Files, pidfd::Held, unit::Setup};
use crate::{exec::handover, fs, requests::Inbox};

/// What it says is for the night when it fails.
const LOG_LIMIT: u64 = 256 << 10;

/// The watch, and the one process that deals with requests.
#[derive(Debug)]
pub(super) struct Attendant {
    watch: Option<OwnedFd>,
    inbox: Inbox,
    running: Option<(std::process::Child, Held)>,
}

impl Attendant {
    /// Watches from now on. Where that cannot be done an instance is not put to sleep, nor woken: nothing else depends on it.
    pub(super) fn new(files: &Files) -> Self {
        let watch = || {
            fs::ensure_private_dir(&files.requests).ok()?;
            let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            inotify::add_watch(&watch, &files.requests, WatchFlags::CREATE | WatchFlags::MOVED_TO).ok()?;
            Some(watch)
        };
        Self { watch: watch(), inbox: Inbox::new(files.requests.clone()), running: None }
    }

    /// Becomes readable with a request.
    pub(super) fn requests(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Becomes readable when the process has ended.
    pub(super) fn process(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, held)| held.as_fd())
    }

    /// What was told is seen: the folder says the rest.
    pub(super) fn drain(&self) {
        let mut buffer = [0; 4096];
        while self.watch.as_ref().is_some_and(|watch| nix::unistd::read(watch, &mut buffer).is_ok()) {}
    }

    /// Starts the process where there is a request and none that deals with it.
    pub(super) fn see_to(&mut self, setup: &Setup) {
        if self.running.is_some() || self.watch.is_none() || self.inbox.wanted().is_none() {
            return;
        }
        // With the supervisor's own words: it must outlive a supervisor that it has replaced.
        let started = append_at_most(&setup.files.own_log, LOG_LIMIT)
            .and_then(|log| handover::spawn(&setup.cmd("attend"), Some(&log)))
            .and_then(|child| Ok((Held::child(&child)?, child)));
        match started {
            Ok((held, child)) => self.running = Some((child, held)),
            // A proxy whose clients wait would do so for ever.
            Err(error) => {
                let _ = self.inbox.give_up(&error.one_line());
            }
        }
    }

    /// The process has ended. A request that it could not deal with would have it started again and again.
    pub(super) fn ended(&mut self, setup: &Setup) {
        let Some((mut child, _)) = self.running.take() else { return };
        let well = child.wait().is_ok_and(|status| status.success());
        if !well {
            let why = format!("`fireclaw attend` failed, see {}", setup.files.own_log.display());
            let _ = self.inbox.give_up(&why);
        }
    }
}
