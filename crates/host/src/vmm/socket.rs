//! The Unix socket at which a VMM takes commands: making it, seeing whether anybody is behind it, connecting with a
//! deadline. Touches only the path it is given.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    layout::check_socket_path,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as connect_fd,
            listen as listen_fd, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// Makes a listening socket that only root can connect to. A file left at the path by a VMM that is gone is replaced; a
/// VMM that still listens there is an error.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    check_socket_path("API socket path", path)?;
    refuse_running(path)?;
    crate::fs::remove_file(path)?;
    let made = || -> Result<OwnedFd, io::Error> {
        let fd = stream_socket(SockFlag::SOCK_CLOEXEC)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        // Nobody can connect before the socket listens, so there is no moment at which others could.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        listen_fd(&fd, Backlog::new(8)?)?;
        Ok(fd)
    };
    made().context("listen at", path.display())
}

/// Fails when a VMM listens at the path: two on one disk would destroy it.
pub fn refuse_running(path: &Path) -> Result<()> {
    if is_listening(path) {
        return Err(Error::new("start", "the VMM")
            .because(format!("one is running already, it listens at {}", path.display()))
            .hint("stop the instance first"));
    }
    Ok(())
}

/// Whether a process listens at the path, be it hung or not. Never blocks.
pub fn is_listening(path: &Path) -> bool {
    let connected = || -> Result<(), Errno> {
        let fd = stream_socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        connect_fd(fd.as_raw_fd(), &UnixAddr::new(path)?)
    };
    // EAGAIN is a full queue of connections that a hung process does not take.
    matches!(connected(), Ok(()) | Err(Errno::EAGAIN))
}

/// Connects within a deadline. The kernel blocks a connect while the listener's queue is full, which it is when the VMM
/// hangs, unless a send timeout is set before.
pub fn connect(path: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let fd = stream_socket(SockFlag::SOCK_CLOEXEC)?;
    let millis = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX).max(1);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
    match connect_fd(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(UnixStream::from(fd)),
        Err(Errno::EAGAIN) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no connection: it hangs"))
        }
        Err(error) => Err(error.into()),
    }
}

fn stream_socket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_socket_is_roots_alone_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        assert!(!is_listening(&path));
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(is_listening(&path));
        let error = listen(&path).unwrap_err();
        assert!(error.one_line().contains("running already"), "{}", error.one_line());
        drop(first);
        assert!(!is_listening(&path) && path.exists());
        listen(&path).unwrap();
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused_before_anything_is_made() {
        let path = Path::new("/tmp").join("x".repeat(110));
        assert!(listen(&path).unwrap_err().one_line().contains("107"));
    }

    #[test]
    fn a_listener_that_takes_nothing_costs_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _listener = listen(&path).unwrap();
        let mut queued = Vec::new();
        let begun = Instant::now();
        let error = loop {
            match connect(&path, Duration::from_millis(100)) {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
            assert!(queued.len() < 100, "the queue never filled");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(is_listening(&path), "a hung VMM is a running one");
    }
}
