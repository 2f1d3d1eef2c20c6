//! Measures the proxy against a direct connection, socat and systemd-socket-proxyd: requests, bulk, and memory while
//! connections are idle. Everything is on loopback and bounded: about forty seconds, a thousand connections. Starts the
//! proxies and ends them.

mod load;
mod server;

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Child,
    time::Duration,
};

use crate::{record, rollup::Rollup};
use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec, handover},
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The stand-in's address. The port is the gateway's, the address is loopback's own.
const TARGET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 77, 2)), 18789);
/// Every figure is the median of so many turns, taken in turn by all candidates, so that a noisy neighbour hits all.
const ROUNDS: usize = 3;
/// One measurement.
const LASTING: Duration = Duration::from_millis(800);
/// Idle connections at which memory is read.
const HELD: [usize; 3] = [1, 100, 1000];
/// Where Debian puts it; it is no command for people.
const SOCKET_PROXYD: &str = "/lib/systemd/systemd-socket-proxyd";

/// One way from a client to the stand-in.
struct Candidate {
    name: &'static str,
    address: SocketAddr,
    /// `None` for the direct way.
    proxy: Option<Child>,
}

impl Candidate {
    fn start(name: &'static str, port: u16, cmd: &Cmd) -> Result<Self> {
        let proxy = Some(handover::spawn(cmd, None)?);
        let this = Self { name, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), proxy };
        let requirement = Requirement {
            description: format!("{name} on port {port}"),
            deadline: Duration::from_secs(10),
            hint: format!("run it by hand: {}", cmd.line()),
        };
        until(&requirement, &Interrupt::default(), || match load::hold(this.address, &mut Vec::new(), 1) {
            Ok(()) => Probed::Ready(()),
            Err(error) => Probed::NotYet(error.one_line()),
        })?;
        Ok(this)
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let Some(proxy) = &mut self.proxy else { return };
        for pid in family(proxy.id()) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = proxy.wait();
    }
}

/// What was measured of one candidate.
#[derive(Default)]
struct Figures {
    kept: Vec<f64>,
    fresh: Vec<f64>,
    megabytes: Vec<f64>,
    memory: Vec<Memory>,
}

/// Memory of a program and its children, in KiB.
#[derive(Clone, Copy)]
struct Memory {
    /// Resident, shared pages counted in every process.
    resident: u64,
    /// Resident, shared pages divided among those that share them.
    proportional: u64,
}

/// Measures `fireclaw` (the binary to try) and gives a Markdown table.
pub fn run(fireclaw: &Path) -> Result<String> {
    let exec = SystemExec::default();
    server::serve(TARGET)?;
    let mut candidates = vec![Candidate { name: "direct", address: TARGET, proxy: None }];
    let mut absent = Vec::new();

    let port = free_port()?;
    let root = tempfile::tempdir().context("create", "a folder for a record")?;
    candidates.push(Candidate::start("fireclaw proxy", port, &our_proxy(fireclaw, port, root.path())?)?);
    if let Some(socat) = exec.which("socat") {
        let port = free_port()?;
        let listen = format!("TCP-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1");
        candidates.push(Candidate::start(
            "socat",
            port,
            &Cmd::new(socat).args([listen, format!("TCP:{TARGET}")]),
        )?);
    } else {
        absent.push("socat");
    }
    let activate = exec.which("systemd-socket-activate").filter(|_| Path::new(SOCKET_PROXYD).exists());
    if let Some(activate) = activate {
        let port = free_port()?;
        // It counts on systemd to ignore SIGPIPE for it: a client that hangs up would end it.
        let cmd = Cmd::new("env").arg("--ignore-signal=PIPE").arg(activate).args([
            "-l",
            &format!("127.0.0.1:{port}"),
            SOCKET_PROXYD,
            "--connections-max=2048",
            &TARGET.to_string(),
        ]);
        candidates.push(Candidate::start("systemd-socket-proxyd", port, &cmd)?);
    } else {
        absent.push("systemd-socket-proxyd");
    }
    let figures = measure(&candidates)?;
    Ok(table(&candidates, &figures, &absent))
}

/// `fireclaw proxy` as a supervisor starts it: the record says where to listen and where the guest is.
fn our_proxy(fireclaw: &Path, port: u16, root: &Path) -> Result<Cmd> {
    let (state, fc) = (root.join("state"), root.join("fc"));
    for folder in [state.join(".vm-bench"), fc.join("bench")] {
        fs::create_dir_all(&folder).context("create folder", folder.display())?;
    }
    let record = state.join(".vm-bench/.env");
    fs::write(&record, record::text("bench", port, TARGET.ip())).context("write", record.display())?;
    let env = |path: std::path::PathBuf| path.display().to_string();
    Ok(Cmd::new(fireclaw).args(["proxy", "bench"]).env("STATE_ROOT", env(state)).env("FC_ROOT", env(fc)))
}

fn measure(candidates: &[Candidate]) -> Result<Vec<Figures>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read", "the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(16_384)), hard)
        .context("raise", "the limit of open files")?;
    let mut figures: Vec<Figures> = candidates.iter().map(|_| Figures::default()).collect();
    // Memory first: what a proxy keeps after a load would be counted as the idle connections'.
    for (candidate, figures) in candidates.iter().zip(&mut figures) {
        let Some(proxy) = &candidate.proxy else { continue };
        let mut held: Vec<TcpStream> = Vec::new();
        for count in HELD {
            load::hold(candidate.address, &mut held, count)?;
            figures.memory.push(memory(proxy.id())?);
        }
    }
    for _ in 0..ROUNDS {
        for (candidate, figures) in candidates.iter().zip(&mut figures) {
            let context = |error: Error| Error::new("measure", candidate.name).source(error);
            figures.kept.push(load::kept(candidate.address, LASTING).map_err(context)?);
            figures.fresh.push(load::fresh(candidate.address, LASTING).map_err(context)?);
            figures.megabytes.push(load::download(candidate.address, LASTING).map_err(context)?);
        }
    }
    Ok(figures)
}

/// A port that nobody listens on. Another program may take it before we do; the start then says so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find", "a free port")?;
    Ok(listener.local_addr().context("find", "a free port")?.port())
}

/// A process and all its descendants.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fireclaw_host::fs::names(Path::new("/proc"))
        .unwrap_or_default()
        .iter()
        .filter_map(|name| {
            let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
            let parent = stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()?;
            Some((name.parse().ok()?, parent))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&of) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

fn memory(root: u32) -> Result<Memory> {
    let mut sum = Memory { resident: 0, proportional: 0 };
    for pid in family(root) {
        let rollup = Rollup::of(pid)?;
        sum.resident += rollup.kib("Rss")?;
        sum.proportional += rollup.kib("Pss")?;
    }
    Ok(sum)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn table(candidates: &[Candidate], figures: &[Figures], absent: &[&str]) -> String {
    let mut text = String::from(
        "## The proxy\n\n| | requests/s, kept connections | requests/s, a connection each | MB/s, one stream \
         | memory, 1 idle | 100 idle | 1,000 idle |\n|---|---|---|---|---|---|---|\n",
    );
    let direct = &figures[0];
    for (candidate, figures) in candidates.iter().zip(figures) {
        let rate = |ours: &[f64], direct: &[f64]| {
            format!("{:.0} ({:.2})", median(ours), median(ours) / median(direct).max(f64::MIN_POSITIVE))
        };
        let mut cells = vec![
            candidate.name.to_owned(),
            rate(&figures.kept, &direct.kept),
            rate(&figures.fresh, &direct.fresh),
            rate(&figures.megabytes, &direct.megabytes),
        ];
        cells.extend(
            figures
                .memory
                .iter()
                .map(|memory| format!("{} ({})", mebibytes(memory.resident), mebibytes(memory.proportional))),
        );
        cells.resize(1 + 3 + HELD.len(), "none".into());
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    for name in absent {
        let _ = writeln!(text, "| {name} | not installed | | | | | |");
    }
    let _ = write!(
        text,
        "\nIn brackets: the share of the direct connection; for memory (MiB, the program and its children, resident), with \
         shared pages counted once. Medians of {ROUNDS} turns of {} ms.\n",
        LASTING.as_millis()
    );
    text
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}
