//! A guest in a temporary folder: real files, and systemd, Docker, apt and OpenClaw's command line as a few booleans.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fireclaw_core::{
    error::{Error, Result},
    guest::{
        gate::Answer,
        paths::GuestPaths,
        protocol::{Done, Event},
    },
};
use fireclaw_host::{
    exec::{Cmd, Output, fake::FakeExec},
    interrupt::Interrupt,
};

use super::super::{Files, Gateway, Guest};
use crate::args::GuestCommand;

/// What the programs of the guest know.
#[expect(clippy::struct_excessive_bools, reason = "each is one program's state, set by tests one at a time")]
pub(super) struct Machine {
    /// The gateway's unit is active.
    pub active: bool,
    /// The files that its process was started with.
    pub runs_with: String,
    /// It starts with the guest.
    pub enabled: bool,
    /// `systemctl stop` has no effect: the gateway hangs.
    pub hangs: bool,
    /// What `openclaw config validate` says.
    pub verdict: Output,
    /// Docker's version.
    pub docker: &'static str,
    /// The Docker daemon answers.
    pub docker_up: bool,
    /// `systemctl start docker` works only with this text in daemon.json.
    pub docker_needs: Option<&'static str>,
    /// The kernel has a packet filter.
    pub netfilter: bool,
    /// Images that are here.
    pub images: BTreeSet<String>,
    /// The registry answers.
    pub registry: bool,
    /// A program whose next run fails, by the beginning of its command line.
    pub breaks: Option<&'static str>,
}

pub(super) struct World {
    pub root: tempfile::TempDir,
    pub machine: Arc<Mutex<Machine>>,
    pub exec: FakeExec,
    pub port: Port,
}

/// The gateway's port, as the machine's state has it.
pub(super) struct Port {
    machine: Arc<Mutex<Machine>>,
    /// A hanging gateway keeps its port open.
    pub open_while_hanging: bool,
}

impl Gateway for Port {
    fn get(&self, path: &str) -> Answer {
        let body = if path == "/readyz" { r#"{"ready":true}"# } else { r#"{"ok":true,"status":"started"}"# };
        if self.machine.lock().unwrap().active {
            Answer::Http { status: 200, body: body.to_owned() }
        } else {
            Answer::Silence("connection refused".to_owned())
        }
    }

    fn listening(&self) -> bool {
        let machine = self.machine.lock().unwrap();
        machine.active && (!machine.hangs || self.open_while_hanging)
    }
}

pub(super) const VALID: &str = r#"{"valid":true,"path":"x","warnings":[]}"#;

pub(super) const REQUEST: &str = r#"{"version":1,"instance_id":"my-bot","runtime":"native","host_port":18891,
    "gateway_token":"s3cr3t-gateway","model":"anthropic/claude-opus-4-6","skills":["github"],"browser":true,
    "telegram":{"token":"123:s3cr3t-telegram","users":[7]},"keys":{"anthropic":"s3cr3t-key\"$'\\`"}}"#;

/// The request with a field set to a JSON value.
pub(super) fn request(field: &str, value: &str) -> String {
    let mut request: serde_json::Value = serde_json::from_str(REQUEST).unwrap();
    request[field] = serde_json::from_str(value).unwrap();
    request.to_string()
}

impl World {
    /// A guest whose image carries Node, OpenClaw, Docker and Chromium.
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Arc::new(Mutex::new(Machine {
            active: false,
            runs_with: String::new(),
            enabled: false,
            hangs: false,
            verdict: Output::made(0, VALID, ""),
            docker: "26.1.5+dfsg1",
            docker_up: true,
            docker_needs: None,
            netfilter: true,
            images: BTreeSet::new(),
            registry: true,
            breaks: None,
        }));
        let (for_exec, dir) = (Arc::clone(&machine), root.path().to_owned());
        let exec = FakeExec::new(move |cmd| {
            let line = cmd.line();
            answer(&mut for_exec.lock().unwrap(), &dir, &line, cmd)
        });
        let port = Port { machine: Arc::clone(&machine), open_while_hanging: false };
        let world = Self { root, machine, exec, port };
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        world.put(
            "/etc/passwd",
            &format!("root:x:0:0::/root:/bin/sh\nubuntu:x:{uid}:{gid}::/home/ubuntu:/bin/bash\n"),
        );
        world.put("/etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n");
        world.put("/proc/sys/kernel/osrelease", "6.12.48\n");
        world.put("/opt/openclaw/node/bin/node", "");
        world.put("/opt/openclaw/lib/node_modules/openclaw/openclaw.mjs", "");
        world.put("/opt/openclaw/lib/node_modules/openclaw/package.json", r#"{"version":"2026.9.6"}"#);
        world.put("/usr/bin/chromium", "");
        world.dir("/home/ubuntu");
        world.dir("/etc/systemd/system");
        world
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        GuestPaths::under(self.root.path()).on_disk(Path::new(path))
    }

    pub(super) fn dir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    pub(super) fn config(&self) -> serde_json::Value {
        serde_json::from_str(&self.text(CONFIG)).unwrap()
    }

    pub(super) fn machine<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut self.machine.lock().unwrap())
    }

    /// Runs a verb; its lines, and how it ended.
    pub(super) fn run(&self, command: GuestCommand, stdin: &str) -> (Vec<String>, Result<()>) {
        let guest = Guest {
            files: Files::new(GuestPaths::under(self.root.path())),
            exec: &self.exec,
            gateway: &self.port,
            interrupt: Interrupt::default(),
            hang: Duration::from_millis(30),
        };
        let mut out = Vec::new();
        let result = guest.run(command, stdin.as_bytes(), &mut out);
        (String::from_utf8(out).unwrap().lines().map(str::to_owned).collect(), result)
    }

    /// Provisions; the events, and the end.
    pub(super) fn provision(&self, request: &str) -> (Vec<Event>, Result<Done>) {
        let (lines, result) = self.run(GuestCommand::Provision, request);
        let mut events: Vec<Event> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = events.pop().expect("there is always a last event");
        let end = match (last, result) {
            (Event::Done(done), Ok(())) => Ok(done),
            (Event::Error(failure), Err(error)) => {
                assert_eq!(failure.causes, error.causes());
                Err(error)
            }
            other => panic!("the last event and the result differ: {other:?}"),
        };
        (events, end)
    }

    /// The command lines of a provisioning that must go well.
    pub(super) fn provisioned(&self, request: &str) -> (Done, Vec<String>) {
        let before = self.exec.lines().len();
        let done = self.provision(request).1.unwrap();
        (done, self.exec.lines().split_off(before))
    }

    /// Every file below the folders that are written to, with its text.
    pub(super) fn snapshot(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders: Vec<PathBuf> =
            ["/etc", "/var", "/home"].iter().map(|path| self.path(path)).collect();
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries.map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    found.push((entry.clone(), fs::read_to_string(entry).unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

pub(super) const CONFIG: &str = "/home/ubuntu/.openclaw/openclaw.json";
pub(super) const ENVIRONMENT: &str = "/etc/fireclaw/openclaw-my-bot.env";
pub(super) const UNIT: &str = "/etc/systemd/system/openclaw-my-bot.service";
pub(super) const PENDING: &str = "/var/lib/fireclaw/openclaw-my-bot.pending";

/// Every file that the gateway reads when it starts.
pub(super) fn gateway_files(root: &Path) -> String {
    [CONFIG, ENVIRONMENT, UNIT]
        .map(|path| fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap())
        .concat()
}

fn answer(machine: &mut Machine, root: &Path, line: &str, _: &Cmd) -> Result<Output> {
    let ok = |said: &str| Ok(Output::made(0, said, ""));
    let no = |said: &str| Ok(Output::made(1, "", said));
    if machine.breaks.is_some_and(|breaks| line.starts_with(breaks)) {
        return Err(Error::new("run", line.to_owned()).because("it was broken by the test"));
    }
    let daemon = || fs::read_to_string(root.join("etc/docker/daemon.json")).unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["systemctl", "show", ..] => {
            let (active, sub) = if machine.active { ("active", "running") } else { ("inactive", "dead") };
            ok(&format!(
                "LoadState=loaded\nActiveState={active}\nSubState={sub}\nResult=success\nExecMainStatus=0\nNRestarts=0"
            ))
        }
        ["systemctl", "stop", ..] => {
            machine.active &= machine.hangs;
            ok("")
        }
        ["systemctl", "kill", ..] => {
            machine.active = false;
            ok("")
        }
        ["systemctl", "is-enabled", ..] if !machine.enabled => no(""),
        ["systemctl", "enable", .., "openclaw-my-bot.service"] => {
            machine.enabled = true;
            ok("")
        }
        ["systemctl", "start" | "restart", "docker.service"] => {
            machine.docker_up = machine.docker_needs.is_none_or(|needs| daemon().contains(needs));
            if machine.docker_up { ok("") } else { no("Job for docker.service failed") }
        }
        ["systemctl", "start", _] => {
            assert!(root.join(UNIT.trim_start_matches('/')).exists(), "started without a unit");
            machine.active = true;
            machine.runs_with = gateway_files(root);
            ok("")
        }
        ["docker", "version", ..] if !machine.docker_up => no("Cannot connect to the Docker daemon"),
        ["docker", "pull", image] if machine.registry => {
            machine.images.insert(image.to_owned());
            ok("latest: Pulling from openclaw\nStatus: Downloaded newer image")
        }
        ["docker", "pull", _] => no("connection refused"),
        ["docker", "image", "inspect", .., image] => {
            if machine.images.contains(image) {
                ok("sha256:1")
            } else {
                no("No such image")
            }
        }
        ["iptables", ..] if !machine.netfilter => no("Protocol not supported"),
        [.., "config", "validate", "--json"] => Ok(machine.verdict.clone()),
        ["/opt/openclaw/node/bin/node", "--version"] => ok("v26.10.0\n"),
        ["/usr/bin/docker", "--version"] => {
            ok(&format!("Docker version {}, build a72d7cd\n", machine.docker))
        }
        ["journalctl", ..] => ok("the last line"),
        ["apt-get", .., "chromium", _] => {
            fs::write(root.join("usr/bin/chromium"), "").unwrap();
            ok("Setting up chromium")
        }
        _ => ok(""),
    }
}
