//! Saving and loading against a stand-in of the API that does with the files what Firecracker does, or fails as it does.

use std::{
    io::Write,
    os::unix::{
        fs::{MetadataExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use fireclaw_core::render::firecracker::jail_file;

use super::{
    api::tests::received,
    hibernate::{has_memory, load, save},
};
use crate::vmm::{SnapshotFiles, VmSpec};

/// A jail whose Firecracker answers each request by a closure over its path and body.
struct Jailed {
    dir: tempfile::TempDir,
    spec: VmSpec,
    to: SnapshotFiles,
    seen: Arc<Mutex<Vec<String>>>,
}

fn jailed(requests: usize, mut answer: impl FnMut(&str, &Path) -> u16 + Send + 'static) -> Jailed {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("jail/firecracker/my--bot/root");
    std::fs::create_dir_all(root.join("run")).unwrap();
    std::fs::create_dir(dir.path().join("snapshot")).unwrap();
    let mut spec = VmSpec::example();
    spec.api_sock = dir.path().join("api.sock");
    spec.mem_mib = 1;
    symlink(root.join("run/firecracker.socket"), &spec.api_sock).unwrap();
    let listener = UnixListener::bind(root.join("run/firecracker.socket")).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let (line, sent) = received(&mut stream);
            let status = answer(&line, &root);
            let body = if status < 300 { "" } else { r#"{"fault_message":"No space left on device"}"# };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            log.lock().unwrap().push(format!("{line} {sent}"));
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    let at = |name: &str| dir.path().join("snapshot").join(name);
    let to = SnapshotFiles { state: at("state"), memory: at("memory") };
    Jailed { dir, spec, to, seen }
}

impl Jailed {
    fn inside(&self, name: &str) -> PathBuf {
        self.dir.path().join("jail/firecracker/my--bot/root").join(name)
    }

    fn left(&self) -> Vec<&'static str> {
        let files = [
            ("state in the jail", self.inside(jail_file::STATE)),
            ("memory in the jail", self.inside(jail_file::MEMORY)),
            ("state", self.to.state.clone()),
            ("memory", self.to.memory.clone()),
        ];
        files.into_iter().filter(|(_, path)| path.exists()).map(|(name, _)| name).collect()
    }
}

#[test]
fn a_snapshot_leaves_the_jail_and_is_roots_alone() {
    let jailed = jailed(1, |_, root| {
        // Into the files that are there, as Firecracker's user, whom their mode lets do it.
        for name in [jail_file::STATE, jail_file::MEMORY] {
            let facts = root.join(name).metadata().unwrap();
            assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (64_000, 64_000, 0o600));
            std::fs::write(root.join(name), name).unwrap();
        }
        204
    });
    save(&jailed.spec, &jailed.to).unwrap();
    assert_eq!(jailed.left(), ["state", "memory"]);
    for path in [&jailed.to.state, &jailed.to.memory] {
        let facts = path.metadata().unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, 0, 0o600));
    }
    assert_eq!(std::fs::read(&jailed.to.memory).unwrap(), jail_file::MEMORY.as_bytes());
    let seen = jailed.seen.lock().unwrap().join("\n");
    assert!(seen.contains("PUT /snapshot/create") && seen.contains("\"/snapshot.memory\""), "{seen}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let jailed = jailed(1, |_, root| {
        std::fs::write(root.join(jail_file::MEMORY), "half").unwrap();
        500
    });
    let error = save(&jailed.spec, &jailed.to).unwrap_err();
    assert!(error.one_line().contains("No space left on device"), "{}", error.one_line());
    assert!(jailed.left().is_empty(), "{:?}", jailed.left());
}

#[test]
fn a_memory_is_loaded_once_and_gone_whatever_came_of_it() {
    for (status, well) in [(204, true), (400, false)] {
        let jailed = jailed(1, move |_, _| status);
        assert!(!has_memory(&jailed.spec.api_sock));
        for name in [jail_file::STATE, jail_file::MEMORY] {
            std::fs::write(jailed.inside(name), name).unwrap();
        }
        assert!(has_memory(&jailed.spec.api_sock));
        assert_eq!(load(&jailed.spec.api_sock, Duration::from_secs(10)).is_ok(), well);
        assert!(!has_memory(&jailed.spec.api_sock) && jailed.left().is_empty());
        let seen = jailed.seen.lock().unwrap().join("\n");
        assert!(seen.contains("PUT /snapshot/load") && seen.contains("\"resume_vm\":true"), "{seen}");
    }
}
