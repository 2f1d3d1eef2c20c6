//! A stand-in of a jailed Firecracker: listens where the real one would, keeps a state, writes the files of a snapshot.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use fireclaw_core::{layout::InstancePaths, render::firecracker::jail_file};

/// The size of its guest's memory, in blocks of which one holds anything.
const MEMORY: usize = 1 << 20;

struct Shared {
    state: String,
    failing: BTreeMap<String, String>,
    asked: Vec<String>,
    half: bool,
    forgets: bool,
    ended: bool,
    busy_until: Option<Instant>,
}

pub struct StandIn {
    root: PathBuf,
    api_sock: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl StandIn {
    pub fn start(paths: &InstancePaths, version: &'static str) -> Self {
        let root = paths.jail_dir.join("firecracker/bot/root");
        std::fs::create_dir_all(root.join("run")).unwrap();
        let listener = UnixListener::bind(root.join("run/firecracker.socket")).unwrap();
        let _ = std::fs::remove_file(&paths.api_sock);
        symlink(root.join("run/firecracker.socket"), &paths.api_sock).unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            state: "Running".to_owned(),
            failing: BTreeMap::new(),
            asked: Vec::new(),
            half: false,
            forgets: false,
            ended: false,
            busy_until: None,
        }));
        let (theirs, inside) = (Arc::clone(&shared), root.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let busy_until = theirs.lock().unwrap().busy_until;
                while let Some(left) = busy_until.and_then(|end| end.checked_duration_since(Instant::now())) {
                    thread::park_timeout(left);
                }
                let mut shared = theirs.lock().unwrap();
                if shared.ended {
                    return;
                }
                answer(stream.unwrap(), &mut shared, &inside, version);
            }
        });
        Self { root, api_sock: paths.api_sock.clone(), shared }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// `Running` or `Paused`.
    pub fn state(&self) -> String {
        self.shared().state.clone()
    }

    /// Somebody paused it and is gone.
    pub fn pause(&self) {
        "Paused".clone_into(&mut self.shared().state);
    }

    /// Somebody had its memory written and is gone: it answers nobody until that is done.
    pub fn write_on_for(&self, time: Duration) {
        self.pause();
        self.put_memory();
        self.shared().busy_until = Some(Instant::now() + time);
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared().asked.clone()
    }

    pub fn fail(&self, request: &str, why: &str) {
        self.shared().failing.insert(request.to_owned(), why.to_owned());
    }

    /// The disk is full in the middle of the memory.
    pub fn write_half(&self) {
        self.shared().half = true;
        self.fail("PUT /snapshot/create", "No space left on device");
    }

    /// Says that it wrote, and did not.
    pub fn forget_memory(&self) {
        self.shared().forgets = true;
    }

    pub fn mend(&self) {
        self.shared().failing.clear();
    }

    /// A snapshot in the jail that waits to be loaded.
    pub fn put_memory(&self) {
        for name in [jail_file::STATE, jail_file::MEMORY] {
            std::fs::write(self.root.join(name), name).unwrap();
        }
    }

    pub fn has_memory(&self) -> bool {
        [jail_file::STATE, jail_file::MEMORY].iter().any(|name| self.root.join(name).exists())
    }

    /// The process ends by itself, and its jail stays.
    pub fn crash(&self) {
        std::fs::remove_file(self.root.join("run/firecracker.socket")).unwrap();
        // No kernel gives a pid as large.
        std::fs::write(self.root.join("firecracker.pid"), i32::MAX.to_string()).unwrap();
    }

    /// The process is killed, and what is left of it is removed.
    pub fn end(&self) {
        if std::mem::replace(&mut self.shared().ended, true) {
            return;
        }
        let _ = UnixStream::connect(&self.api_sock);
        let _ = std::fs::remove_file(&self.api_sock);
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn answer(mut stream: UnixStream, shared: &mut Shared, root: &Path, version: &str) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let text = loop {
        let length = stream.read(&mut buffer).unwrap_or_default();
        if length == 0 {
            return;
        }
        request.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if (text.starts_with("GET") && text.ends_with("\r\n\r\n")) || text.ends_with('}') {
            break text;
        }
    };
    let line: Vec<&str> = text.split_whitespace().take(2).collect();
    let state = ["Paused", "Resumed"].into_iter().find(|state| text.contains(&format!("\"{state}\"")));
    let name = [line.as_slice(), state.as_slice()].concat().join(" ");
    let failing = shared.failing.get(&name).cloned();
    if name == "PUT /snapshot/create" && (failing.is_none() || shared.half) {
        let mut memory = vec![0; MEMORY];
        memory[..64].fill(7);
        let end = if shared.half { MEMORY / 2 } else { MEMORY };
        std::fs::write(root.join(jail_file::MEMORY), &memory[..end]).unwrap();
        std::fs::write(root.join(jail_file::STATE), "state").unwrap();
        if shared.forgets {
            std::fs::remove_file(root.join(jail_file::MEMORY)).unwrap();
        }
    }
    if failing.is_none()
        && let Some(state) = state
    {
        if state == "Paused" { "Paused" } else { "Running" }.clone_into(&mut shared.state);
    }
    let (status, body) = match failing {
        Some(why) => ("400 Bad Request", format!("{{\"fault_message\":\"{why}\"}}")),
        None if name == "GET /" => (
            "200 OK",
            format!("{{\"id\":\"bot\",\"state\":\"{}\",\"vmm_version\":\"{version}\"}}", shared.state),
        ),
        None => ("204 No Content", String::new()),
    };
    shared.asked.push(name);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(head.as_bytes());
}
