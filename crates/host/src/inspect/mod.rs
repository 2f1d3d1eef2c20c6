//! What anybody could see and reach of files and processes, for `audit`. Reads metadata and a `/proc` whose place is given, so that
//! tests bring their own. Changes nothing, starts nothing.

mod process;
mod sockets;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fireclaw_core::{
    audit::{FileFact, FileKind, ProcessFacts, Role, secrets_in},
    secret::Secret,
};

/// A `/proc`.
#[derive(Debug, Clone)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Proc {
    /// A `/proc` at this place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every process with its command line, words ended by zeroes. Those that end meanwhile are left out.
    pub fn command_lines(&self) -> Vec<(i32, Vec<u8>)> {
        let names = crate::fs::names(&self.root).unwrap_or_default();
        let mut all: Vec<(i32, Vec<u8>)> = names
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter_map(|pid: i32| Some((pid, fs::read(self.file(pid, "cmdline")).ok()?)))
            .collect();
        all.sort_unstable_by_key(|(pid, _)| *pid);
        all
    }

    /// One process; `None` when it is gone. What confines it counts where it holds for each of its threads: Firecracker's have a filter
    /// of system calls each.
    pub fn process(&self, pid: i32, role: Role, secrets: &[(&'static str, &Secret)]) -> Option<ProcessFacts> {
        let threads = self.threads(pid)?;
        let all = |name: &str, value: &str| {
            threads.iter().all(|status| process::field(status, name) == Some(value))
        };
        let limits = fs::read_to_string(self.file(pid, "limits")).unwrap_or_default();
        let environment = fs::read(self.file(pid, "environ")).unwrap_or_default();
        let own_root = |pid: &str| fs::metadata(self.root.join(pid).join("root/.")).ok();
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let jailed = match (own_root(&pid.to_string()), own_root("self")) {
            (Some(theirs), Some(ours)) => !same(&theirs, &ours),
            _ => false,
        };
        Some(ProcessFacts {
            role,
            pid,
            uid: threads.iter().filter_map(|status| process::least_uid(status)).min()?,
            no_new_privileges: all("NoNewPrivs", "1"),
            seccomp: all("Seccomp", "2"),
            capabilities: threads.iter().fold(0, |held, status| held | process::capabilities(status)),
            jailed,
            dumps_core: process::dumps_core(&limits),
            merged_pages: fs::read_to_string(self.file(pid, "ksm_merging_pages"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
            sockets: sockets::of(&self.root.join(pid.to_string())),
            environment: secrets_in(&environment, secrets),
        })
    }

    /// The status of the process, which is that of its first thread, and of each other thread; `None` when it is gone. Those that the
    /// kernel put there for itself (KVM's, `io_uring`'s) run no code of the program.
    fn threads(&self, pid: i32) -> Option<Vec<String>> {
        let first = fs::read_to_string(self.file(pid, "status")).ok()?;
        let dir = self.file(pid, "task");
        let names = crate::fs::names(&dir).unwrap_or_default();
        let others = names.iter().filter(|name| **name != pid.to_string()).filter_map(|name| {
            let stat = fs::read_to_string(dir.join(name).join("stat")).ok()?;
            if process::is_kernels(&stat) {
                return None;
            }
            fs::read_to_string(dir.join(name).join("status")).ok()
        });
        Some(std::iter::once(first).chain(others).collect())
    }

    fn file(&self, pid: i32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }
}

/// A file or folder, with the owners besides root that it may have. What is not there is no fact.
pub fn file(path: &Path, kind: FileKind, owners: &[u32]) -> Option<FileFact> {
    let metadata = fs::symlink_metadata(path).ok()?;
    // A symbolic link has no mode of its own; what it leads to counts.
    let metadata = if metadata.is_symlink() { fs::metadata(path).ok()? } else { metadata };
    Some(FileFact {
        path: path.to_owned(),
        kind,
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        owners: owners.to_vec(),
        gid: metadata.gid(),
        reader: None,
    })
}

/// Every file of a folder as a secret.
pub fn files_in(dir: &Path, owners: &[u32]) -> Vec<FileFact> {
    let names = crate::fs::names(dir).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| {
            let path = dir.join(name);
            let kind = if path.is_dir() { FileKind::Dir } else { FileKind::Secret };
            file(&path, kind, owners)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use fireclaw_core::audit::Protocol;

    use super::*;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(listener.local_addr().unwrap()).unwrap();
        let open = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let path = Secret::new(std::env::var("PATH").unwrap());
        let secrets = [("the path", &path)];
        let seen = Proc::default().process(pid, Role::Proxy, &secrets).unwrap();
        assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
        assert!(!seen.jailed && !seen.seccomp);
        assert!(
            seen.sockets.contains(&(Protocol::Tcp, listener.local_addr().unwrap())),
            "{:?}",
            seen.sockets
        );
        assert!(seen.sockets.contains(&(Protocol::Udp, open.local_addr().unwrap())), "{:?}", seen.sockets);
        assert!(
            !seen.sockets.contains(&(Protocol::Udp, connected.local_addr().unwrap())),
            "{:?}",
            seen.sockets
        );
        assert_eq!(seen.environment, ["the path"]);
        let lines = Proc::default().command_lines();
        let own = lines.iter().find(|(found, _)| *found == pid).unwrap();
        assert!(own.1.starts_with(std::env::args().next().unwrap().as_bytes()));
        assert!(Proc::default().process(i32::MAX, Role::Vm, &[]).is_none());
    }

    #[test]
    fn one_thread_without_a_filter_makes_a_process_without() {
        let dir = tempfile::tempdir().unwrap();
        let thread = |tid: &str, flags: u32, uid: u32, seccomp: u8, capabilities: &str| {
            let at = dir.path().join("7/task").join(tid);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("stat"), format!("{tid} (fc_vcpu) 0) S 1 7 7 0 -1 {flags} 0 0")).unwrap();
            let status = format!(
                "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nNoNewPrivs:\t1\nSeccomp:\t{seccomp}\nCapEff:\t{capabilities}\n"
            );
            fs::write(at.join("status"), &status).unwrap();
            if tid == "7" {
                fs::write(dir.path().join("7/status"), status).unwrap();
            }
        };
        let seen = || Proc::at(dir.path()).process(7, Role::Vm, &[]).unwrap();
        thread("7", 0x40_0000, 64000, 2, "0");
        thread("8", 0x40_0040, 64000, 2, "0");
        // A kernel's own thread, as KVM has one in each VM's process.
        thread("9", 0x40_4040, 64000, 0, "0");
        assert!(seen().seccomp && seen().no_new_privileges);
        assert_eq!((seen().uid, seen().capabilities), (64000, 0));
        thread("10", 0x40_0040, 0, 0, "2");
        assert!(!seen().seccomp && seen().no_new_privileges);
        assert_eq!((seen().uid, seen().capabilities), (0, 2));
    }

    #[test]
    fn files_are_seen_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("closed", 0o600), ("open", 0o644)] {
            fs::write(dir.path().join(name), "x").unwrap();
            fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut modes: Vec<u32> = files_in(dir.path(), &[]).iter().map(|file| file.mode).collect();
        modes.sort_unstable();
        assert_eq!(modes, [0o600, 0o644]);
        assert_eq!(file(&dir.path().join("none"), FileKind::Secret, &[]), None);
    }
}
