//! What an instance's proxy asks of root, as files in a folder of the proxy's user: to wake the instance, to put it to sleep.
//! Touches that folder only.
//!
//! ```text
//!  proxy               folder            root (`attend`)
//!  wants to sleep ──▶  sleep    ──▶  takes up: renamed to `sleeping`, removed when done; `asleep` where it sleeps now
//!  thinks better  ──▶  removed       finds nothing to take up
//!  has a client   ──▶  wake     ──▶  wakes, removed when the VM runs; `failed` where it does not
//! ```
//! A file says all that it says by being there: whoever took the proxy over can have the instance woken and put to sleep, and
//! nothing else. Taking up and thinking better of it are a rename and an unlink of one name: one of the two wins.

use std::{
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Result},
    layout::request,
};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat, unlinkat};

use crate::fs;

/// What a proxy can want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The VM, for a client that waits.
    Wake,
    /// Rest, for want of clients.
    Sleep,
}

impl Want {
    const fn name(self) -> &'static str {
        match self {
            Self::Wake => request::WAKE,
            Self::Sleep => request::SLEEP,
        }
    }
}

/// The proxy's end. Works without root and without entering the folders above.
#[derive(Debug)]
pub struct Requests {
    dir: OwnedFd,
}

impl Requests {
    /// Opens the folder, which a unit's own user has already.
    pub fn open(dir: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty()).map_err(io::Error::from);
        Ok(Self { dir: opened.context("open", dir.display())? })
    }

    /// Makes the folder for a user, while this process is root.
    pub fn make(dir: &Path, (uid, gid): (u32, u32)) -> Result<Self> {
        fs::ensure_private_dir(dir)?;
        chown(dir, Some(uid), Some(gid)).context("give away", dir.display())?;
        Self::open(dir)
    }

    /// Asks. Once is as good as often.
    pub fn ask(&self, want: Want) -> io::Result<()> {
        // Before, so that what is found later is of this request.
        self.remove(request::FAILED)?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&self.dir, want.name(), flags, Mode::RUSR | Mode::WUSR)?;
        Ok(())
    }

    /// Whether a request is still open or worked on.
    pub fn is_open(&self, want: Want) -> bool {
        self.has(want.name()) || (want == Want::Sleep && self.has(request::SLEEPING))
    }

    /// Takes a request back. False when it is too late.
    pub fn withdraw(&self, want: Want) -> bool {
        self.remove(want.name()).unwrap_or(false)
    }

    /// Whether the instance was put to sleep, as far as this folder tells.
    pub fn is_asleep(&self) -> bool {
        self.has(request::ASLEEP)
    }

    /// Why it was not woken.
    pub fn failure(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.dir, request::FAILED, flags, Mode::empty()).ok()?;
        io::read_to_string(std::fs::File::from(file)).ok().map(|text| text.trim_end().to_owned())
    }

    fn has(&self, name: &str) -> bool {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Root's end. The folder belongs to somebody who is not trusted: names in it are looked at, renamed and removed, never opened
/// or followed, but for one file that is made anew.
#[derive(Debug, Clone)]
pub struct Inbox {
    dir: PathBuf,
}

impl Inbox {
    /// Of a folder that may not be there, and then is empty.
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What is asked, the client that waits first.
    pub fn wanted(&self) -> Option<Want> {
        [Want::Wake, Want::Sleep].into_iter().find(|want| self.has(want.name()))
    }

    /// Takes the wish to sleep up. False when it was taken back.
    pub fn take_up(&self) -> Result<bool> {
        match std::fs::rename(self.dir.join(request::SLEEP), self.dir.join(request::SLEEPING)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("take up", self.dir.display()),
        }
    }

    /// The wish to sleep is dealt with.
    pub fn slept(&self, asleep: bool) -> Result<()> {
        if asleep && self.dir.is_dir() {
            let made = std::fs::File::create_new(self.dir.join(request::ASLEEP));
            let mode = std::fs::Permissions::from_mode(0o644);
            match made.and_then(|file| file.set_permissions(mode)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).context("write", self.dir.display());
                }
                _ => {}
            }
        }
        self.remove(&[request::SLEEP, request::SLEEPING])
    }

    /// The instance does not sleep any more, whoever woke it.
    pub fn awake(&self) -> Result<()> {
        self.remove(&[request::ASLEEP, request::SLEEPING])
    }

    /// The wish to wake is dealt with; `failed` says why it was not fulfilled.
    pub fn woke(&self, failed: Option<&str>) -> Result<()> {
        let awake = self.awake();
        let told = match failed {
            // By a rename, which follows nothing that lies there.
            Some(why) if self.dir.is_dir() => {
                fs::write(&self.dir.join(request::FAILED), why.as_bytes(), 0o644)
            }
            _ => Ok(()),
        };
        // On a full disk too: a wish that stays is dealt with again at once, for ever.
        self.remove(&[request::WAKE]).and(awake).and(told)
    }

    /// Whatever is asked cannot be dealt with: a proxy whose clients wait hears why, and stays awake.
    pub fn give_up(&self, why: &str) -> Result<()> {
        self.woke(Some(why)).and(self.slept(false))
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).symlink_metadata().is_ok()
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| fs::remove_any(&self.dir.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Requests, Inbox) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests");
        let requests = Requests::make(&path, (64_000, 64_000)).unwrap();
        (dir, requests, Inbox::new(path))
    }

    #[test]
    fn a_wish_to_sleep_is_taken_back_or_taken_up_and_never_both() {
        let (_dir, requests, inbox) = folder();
        requests.ask(Want::Sleep).unwrap();
        assert_eq!(inbox.wanted(), Some(Want::Sleep));
        assert!(requests.withdraw(Want::Sleep));
        assert!(!inbox.take_up().unwrap() && inbox.wanted().is_none());

        requests.ask(Want::Sleep).unwrap();
        assert!(inbox.take_up().unwrap());
        assert!(!requests.withdraw(Want::Sleep) && requests.is_open(Want::Sleep));
        inbox.slept(true).unwrap();
        assert!(!requests.is_open(Want::Sleep) && requests.is_asleep());
        inbox.slept(true).unwrap();
    }

    #[test]
    fn a_client_comes_first_and_hears_why_it_waits_in_vain() {
        let (_dir, requests, inbox) = folder();
        inbox.slept(true).unwrap();
        requests.ask(Want::Sleep).unwrap();
        requests.ask(Want::Wake).unwrap();
        requests.ask(Want::Wake).unwrap();
        assert_eq!(inbox.wanted(), Some(Want::Wake));
        inbox.woke(Some("no KVM\n")).unwrap();
        assert!(!requests.is_open(Want::Wake) && !requests.is_asleep());
        assert_eq!(requests.failure().as_deref(), Some("no KVM"));
        requests.ask(Want::Wake).unwrap();
        assert_eq!(requests.failure(), None);
        inbox.woke(None).unwrap();
        assert_eq!(requests.failure(), None);
    }

    /// As on a full disk: a wish that stays would be dealt with again at once, and again.
    #[test]
    fn a_wish_is_dealt_with_even_where_that_cannot_be_told() {
        let (dir, requests, inbox) = folder();
        requests.ask(Want::Wake).unwrap();
        std::fs::create_dir_all(dir.path().join("requests").join(request::FAILED).join("x")).unwrap();
        inbox.give_up("no room").unwrap_err();
        assert_eq!(inbox.wanted(), None);
    }

    #[test]
    fn what_a_proxy_leaves_there_leads_root_nowhere() {
        let (dir, _requests, inbox) = folder();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        for name in [request::FAILED, request::ASLEEP, request::SLEEP, request::WAKE] {
            std::os::unix::fs::symlink(&victim, dir.path().join("requests").join(name)).unwrap();
        }
        inbox.slept(true).unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("requests").join(request::SLEEP)).unwrap();
        assert!(inbox.take_up().unwrap());
        inbox.woke(Some("why")).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert_eq!(victim.metadata().unwrap().permissions().mode() & 0o200, 0o200);
        assert_eq!(fs::names(&dir.path().join("requests")).unwrap(), [request::FAILED]);
    }

    #[test]
    fn without_a_folder_nothing_is_wanted() {
        let inbox = Inbox::new("/nonexistent/x".into());
        assert_eq!(inbox.wanted(), None);
        assert!(!inbox.take_up().unwrap());
        inbox.woke(Some("x")).unwrap();
    }
}
