//! Many instances against one: what `list`, `status` and the plan of a new instance cost with 50 that are stopped and 8 that run,
//! beside what they cost with one that runs. Makes records in temporary folders, stands in for supervisors and gateways, and runs
//! the program. Listens on loopback.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    guest::GATEWAY_PORT,
};
use fireclaw_host::{
    exec::{Cmd, Exec as _, SystemExec},
    proc::ProcessId,
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    fleet::children_of,
    start::{ms, timed},
};

const STOPPED: u8 = 50;
const RUNNING: u8 = 8;
/// How often each command runs.
const TURNS: usize = 20;
/// The ports of proxies; the addresses of guests are on loopback, 127.0.77.N.
const PORTS: u16 = 38_000;
/// What 58 may cost more than one, for a person and for a script to see no difference.
const MORE_MS: f64 = 10.0;

/// Folders with instances, gone with it.
struct Host {
    dir: TempDir,
}

impl Host {
    /// The running ones come first: `bot-2` is one of them.
    fn new(name: &str, running: u8, stopped: u8) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(&format!("fireclaw-many-{name}-")).tempdir();
        let host = Self { dir: dir.context("create", "a temporary folder")? };
        for n in 2..2 + running + stopped {
            host.record(n)?;
            if n < 2 + running {
                host.supervised(n)?;
            }
        }
        Ok(host)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.dir.path().join(path);
        let folder = path.parent().unwrap_or(self.dir.path());
        fs::create_dir_all(folder).context("create folder", folder.display())?;
        fs::write(&path, text).context("write", path.display())
    }

    fn record(&self, n: u8) -> Result<()> {
        let text = format!(
            "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=bot-{n}\nHOST_PORT={}\nVM_IP=127.0.77.{n}\nVM_TAP=tbot{n}\n\
             VMM=qemu\nSUPERVISOR=embedded\nRUNTIME=native\nGATEWAY_TOKEN=x\nPROVISIONED=true\n",
            PORTS + u16::from(n)
        );
        self.write(&format!("state/.vm-bot-{n}/.env"), &text)
    }

    /// What the embedded supervisor writes of services that run. The processes are this one.
    fn supervised(&self, n: u8) -> Result<()> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read", "the boot's id")?;
        let own = ProcessId::own();
        let record = json!({
            "format": 1, "wanted": true, "state": "active", "process": own, "restarts": 0, "detail": null,
            "last_end": null, "supervisor": own, "boot": boot.trim_end(),
        });
        for service in ["vm", "proxy"] {
            self.write(&format!("fc/bot-{n}/supervisor/{service}.json"), &record.to_string())?;
        }
        Ok(())
    }

    fn cmd(&self, program: &Path, args: &[&str]) -> Cmd {
        let at = |name: &str| self.dir.path().join(name);
        Cmd::new(program)
            .args(args)
            .env("STATE_ROOT", at("state"))
            .env("FC_ROOT", at("fc"))
            .env("BASE_IMAGES_DIR", at("images"))
    }
}

/// A gateway that has started, for as long as this process lives.
fn gateway(address: SocketAddr) -> Result<()> {
    const BODY: &str = r#"{"ok":true,"status":"started","ready":true}"#;
    let listener = TcpListener::bind(address).context("listen on", address)?;
    let answer = |mut stream: TcpStream| -> std::io::Result<()> {
        let mut request = [0; 4096];
        while stream.read(&mut request)? > 0 {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
            write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len())?;
        }
        Ok(())
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

/// The table.
pub fn run(program: &Path) -> Result<String> {
    for n in 2..2 + RUNNING {
        gateway((Ipv4Addr::LOCALHOST, PORTS + u16::from(n)).into())?;
    }
    gateway((Ipv4Addr::new(127, 0, 77, 2), GATEWAY_PORT).into())?;
    let one = Host::new("one", 1, 0)?;
    let many = Host::new("all", RUNNING, STOPPED)?;
    must_see(program, &many)?;
    let mut page = format!(
        "## {STOPPED} instances that are stopped and {RUNNING} that run\n\n| what | with one that runs | with {} | more | at most | processes that it starts |\n|---|---|---|---|---|---|\n",
        STOPPED + RUNNING
    );
    let plan = ["setup", "--instance", "new", "--vmm", "qemu", "--vm-mem-mib", "256", "--dry-run"];
    for (name, args) in [
        ("`list`", &["list"][..]),
        ("`list --json`", &["list", "--json"]),
        ("`status` of a running one", &["status", "bot-2"]),
        ("the plan of a new one (`setup --dry-run`: addresses, checks)", &plan),
    ] {
        let (_, alone) = timed(TURNS, || one.cmd(program, args))?;
        let (_, among) = timed(TURNS, || many.cmd(program, args))?;
        let children = children_of(
            &many.cmd(program, args).line(),
            &many.dir.path().join("state"),
            &many.dir.path().join("fc"),
        );
        let more = (among.as_secs_f64() - alone.as_secs_f64()) * 1000.0;
        page.push_str(&format!(
            "| {name} | {} | {} | {more:.1} ms | {MORE_MS} ms | {children} |\n",
            ms(alone),
            ms(among)
        ));
    }
    page.push_str(
        "\nMedians of 20. Supervisors and gateways are stand-ins; records, locks and connections are real.\n",
    );
    Ok(page)
}

/// The stand-ins are taken for what they stand for: else the figures would be those of something else.
fn must_see(program: &Path, many: &Host) -> Result<()> {
    let said = SystemExec::default().check(many.cmd(program, &["list", "--json"]))?;
    let rows: serde_json::Value = serde_json::from_slice(&said.stdout).context("read", "the list")?;
    let up = rows.as_array().into_iter().flatten().filter(|row| row["health"] == "up").count();
    if up == usize::from(RUNNING) {
        return Ok(());
    }
    Err(Error::new("see", format!("{RUNNING} running instances"))
        .because(format!("{up} are: {}", said.text())))
}
