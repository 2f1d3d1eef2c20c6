//! An instance that sleeps: its memory comes back as it was, once, only where everything fits, across a restart and a power cut of
//! the host, and for whoever connects. Says what it took.

use std::time::{Duration, Instant};

use fireclaw_core::error::{Context, Error, Result};
use serde_json::Value;

use crate::{
    lab::host::{Lab, ensure, same},
    say,
};

const ID: &str = "sleeper_1";
const DIR: &str = "/srv/firecracker/vm-demo/sleeper_1";
/// A process of the guest that lives for as long as its memory does.
const LONG: &str = "lab-long.service";
/// How long a guest takes from its VM's start to a gateway that answers, on a busy machine.
const GUEST: u64 = 420;
/// The share of a cold start that waking may take. The small image's gateway starts in no time, so this is the worst case.
const SHARE: f64 = 0.25;

/// One instance through all of it.
pub fn hibernate(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(ID, &[])?;
    lab.ok(&["stop", ID])?;
    let cold = timed(|| lab.ok(&["start", ID]))?;
    let first = Life::begin(lab)?;
    let put_away = timed(|| lab.ok(&["hibernate", ID]))?;
    sleeps(lab)?;
    // Long enough for a clock that stood still to be noticed.
    lab.remote.must(&["sleep", "20"])?;
    let by_hand = timed(|| lab.ok(&["start", ID]))?;
    first.goes_on(lab)?;

    dropped_when_the_disk_changed(lab, &first)?;
    let life = Life::begin(lab)?;
    across_the_hosts_restart(lab, &life)?;
    cut_off(lab)?;
    let wake = for_whoever_connects(lab)?;
    say::line(&format!(
        "     cold start {cold:.1} s, hibernate {put_away:.1} s, start of a hibernated one {by_hand:.1} s, \
         connection to first byte {wake:.2} s: {:.1} % of the cold start",
        wake * 100.0 / cold
    ));
    ensure(wake < cold * SHARE, || format!("waking took {wake:.1} s, a cold start {cold:.1} s"))?;
    lab.ok(&["destroy", ID, "--force"])?;
    let left = lab.remote.must(&["ls", "/etc/systemd/system", "/srv/firecracker/vm-demo"])?;
    ensure(!left.contains(ID), || format!("something of it is left: {left}"))
}

/// The same without systemd's help, which then does not limit the VM either.
pub fn embedded(lab: &mut Lab) -> Result<()> {
    lab.with_config("cpu_quota = \"auto\"\nio_read_max = \"500M\"\n", without_systemd)
}

fn without_systemd(lab: &Lab) -> Result<()> {
    lab.setup_tiny(ID, &["--supervisor", "embedded", "--idle-after", "1h"])?;
    limited(lab)?;
    let life = Life::begin(lab)?;
    lab.ok(&["hibernate", ID])?;
    sleeps(lab)?;
    lab.ok(&["start", ID])?;
    life.goes_on(lab)?;
    lab.ok(&["hibernate", ID])?;
    sleeps(lab)?;
    let (body, _) = connect(lab, ID)?;
    ensure(body.contains("ok"), || format!("the gateway said {body:?}"))?;
    life.goes_on(lab)?;
    limited(lab)?;
    lab.ok(&["destroy", ID, "--force"])?;
    let left = lab.remote.ask(&["test", "-e", &group()])?;
    ensure(!left.status.success(), || "its control group is left".into())
}

fn group() -> String {
    format!("/sys/fs/cgroup/fireclaw/{ID}")
}

/// The kernel itself has the limits of the configuration, and counts the VMM among those whom they hold for.
fn limited(lab: &Lab) -> Result<()> {
    let pid = lab.vm_pid(ID)?.map(|pid| pid.to_string());
    let group = group();
    let read = |file: &str| lab.remote.must(&["cat", &format!("{group}/{file}")]);
    let held = read("cgroup.procs")?;
    ensure(held.lines().any(|line| Some(line) == pid.as_deref()), || format!("{pid:?} is not among {held}"))?;
    let memory: u64 = read("memory.max")?.trim().parse().context("read", "memory.max")?;
    ensure((256 << 20..4 << 30).contains(&memory), || format!("memory.max is {memory}"))?;
    same("cpu.max", &read("cpu.max")?.trim(), &"150000 100000")?;
    same("pids.max", &read("pids.max")?.trim(), &"512")?;
    let disks = read("io.max")?;
    ensure(disks.contains(&format!("rbps={}", 500 << 20)), || format!("io.max is {disks}"))
}

/// The seconds that it takes.
pub fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begun = Instant::now();
    act()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// What only a memory keeps, and what the disk must keep.
struct Life {
    boot: String,
    process: String,
    rows: u64,
}

impl Life {
    fn begin(lab: &Lab) -> Result<Self> {
        lab.until("a login in the guest", 120, || lab.ok(&["shell", ID, "true"]).map(|_| true))?;
        let unit = format!("--unit={LONG}");
        let _ = lab.ask(&["shell", ID, "sudo", "systemd-run", &unit, "sleep", "100000"])?;
        Ok(Self { boot: boot(lab)?, process: process(lab)?, rows: lab.rows(ID)? })
    }

    /// The same boot, the same process, a clock that is right, a file that is whole, a gateway that answers.
    fn goes_on(&self, lab: &Lab) -> Result<()> {
        lab.until("the gateway to answer", GUEST, || Ok(lab.field(ID, "health")? == "up"))?;
        same("the guest's boot", &boot(lab)?, &self.boot)?;
        same("the process in the guest", &process(lab)?, &self.process)?;
        let rows = lab.rows(ID)?;
        ensure(rows >= self.rows, || format!("{} rows were there, and {rows} are", self.rows))?;
        lab.until("the guest's clock to be right", 30, || {
            let theirs: i64 =
                lab.ok(&["shell", ID, "date", "+%s"])?.trim().parse().context("read", "a time")?;
            let ours: i64 = lab.remote.must(&["date", "+%s"])?.trim().parse().context("read", "a time")?;
            Ok((ours - theirs).abs() <= 3)
        })?;
        // Used up.
        ensure(!lab.remote.ask(&["test", "-e", &format!("{DIR}/snapshot")])?.status.success(), || {
            "the memory is there still".into()
        })
    }
}

fn boot(lab: &Lab) -> Result<String> {
    lab.ok(&["shell", ID, "cat", "/proc/sys/kernel/random/boot_id"])
}

fn process(lab: &Lab) -> Result<String> {
    let pid = lab.ok(&["shell", ID, "systemctl", "show", "-p", "MainPID", LONG])?;
    ensure(pid.trim().trim_start_matches("MainPID=") != "0", || format!("{LONG} does not run"))?;
    Ok(pid)
}

/// No process, no jail, a status that says so, and files for root alone.
fn sleeps(lab: &Lab) -> Result<()> {
    is_kept(lab)?;
    ensure(!lab.remote.ask(&["test", "-e", &format!("{DIR}/jail")])?.status.success(), || {
        "the jail is there still".into()
    })
}

/// What must hold after a power cut too, which may bring the jail back until the next start clears it away.
fn is_kept(lab: &Lab) -> Result<()> {
    let status = lab.json(&["status", ID, "--json"])?;
    same("vm", &status["vm"], &Value::from("hibernated"))?;
    ensure(status["snapshot_bytes"].as_u64().is_some_and(|bytes| bytes > 0), || {
        format!("it takes {} on the disk", status["snapshot_bytes"])
    })?;
    say::detail(&format!("  its memory takes {} bytes on the disk", status["snapshot_bytes"]));
    ensure(lab.vm_pid(ID)?.is_none(), || "Firecracker runs still".into())?;
    let modes = lab.remote.must(&["find", &format!("{DIR}/snapshot"), "-type", "f", "-perm", "/077"])?;
    ensure(modes.is_empty(), || format!("others may read {modes}"))
}

/// A memory that does not know what is on its disk is no good: the instance boots, and nothing on the disk is lost.
fn dropped_when_the_disk_changed(lab: &Lab, life: &Life) -> Result<()> {
    let rows_before = lab.rows(ID)?;
    lab.ok(&["hibernate", ID])?;
    // As a mount of the disk would change it.
    lab.remote.must(&["touch", "-m", &format!("{DIR}/images/state.ext4")])?;
    let started = lab.expect(0, &["start", ID])?;
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    ensure(said.contains("was dropped") && said.contains("disk was written"), || said.clone())?;
    ensure(boot(lab)? != life.boot, || "it went on from a memory that does not fit".into())?;
    let rows = lab.rows(ID)?;
    ensure(rows >= rows_before, || format!("{rows_before} rows were there, and {rows} are"))
}

/// Asleep before, asleep after, and none the worse for either end of the host.
fn across_the_hosts_restart(lab: &mut Lab, life: &Life) -> Result<()> {
    lab.ok(&["hibernate", ID])?;
    lab.reboot()?;
    sleeps(lab)?;
    lab.ok(&["start", ID])?;
    life.goes_on(lab)?;
    lab.ok(&["hibernate", ID])?;
    lab.power_cut()?;
    is_kept(lab)?;
    lab.ok(&["start", ID])?;
    life.goes_on(lab)
}

/// Killed while the memory is written, and without power while it is read: what is left runs, or boots, or sleeps.
fn cut_off(lab: &mut Lab) -> Result<()> {
    for pause in ["0.5", "1.5", "3"] {
        let killed = "fireclaw hibernate \"$1\" --quiet & pid=$!; sleep \"$2\"; kill -9 $pid || true; wait $pid || true";
        lab.remote.script(killed, &[ID, pause])?;
        lab.ok(&["start", ID])?;
        lab.until("the gateway to answer", GUEST, || Ok(lab.field(ID, "health")? == "up"))?;
        lab.rows(ID)?;
    }
    lab.remote.script("nohup fireclaw hibernate \"$1\" >/dev/null 2>&1 & sleep 1.5", &[ID])?;
    lab.power_cut()?;
    lab.ok(&["start", ID])?;
    lab.until("the gateway to answer", GUEST, || Ok(lab.field(ID, "health")? == "up"))?;
    lab.rows(ID)?;
    lab.ok(&["hibernate", ID])?;
    lab.remote.script("nohup fireclaw start \"$1\" >/dev/null 2>&1 & sleep 1.5", &[ID])?;
    lab.power_cut()?;
    lab.ok(&["start", ID])?;
    lab.until("the gateway to answer", GUEST, || Ok(lab.field(ID, "health")? == "up"))?;
    lab.rows(ID).map(drop)
}

/// It falls asleep by itself; the next client is served, and a hundred at once wake it once. Gives the seconds of the first.
fn for_whoever_connects(lab: &Lab) -> Result<f64> {
    let life = Life::begin(lab)?;
    // The writer is work of its own.
    lab.ok(&["shell", ID, "sudo", "systemctl", "stop", "lab-writer"])?;
    lab.ok(&["provision", ID, "--idle-after", "1m"])?;
    lab.until("it to fall asleep", 900, || Ok(lab.field(ID, "vm")? == "hibernated"))?;
    sleeps(lab)?;
    memory_of_ours(lab)?;
    let (body, seconds) = connect(lab, ID)?;
    ensure(body.contains("ok"), || format!("the gateway said {body:?}"))?;
    // What follows takes longer, without a client.
    lab.ok(&["provision", ID, "--idle-after", "1h"])?;
    life.goes_on(lab)?;

    lab.ok(&["hibernate", ID])?;
    sleeps(lab)?;
    let port = port(lab, ID)?;
    lab.with_config("supervisor = \"sytsemd\"\n", |lab| nobody_can_wake_it(lab, &port))?;
    let before = wakes(lab)?;
    let many = "i=0; while [ $i -lt 100 ]; do curl -s --max-time 120 \"http://127.0.0.1:$1/health\" & i=$((i+1)); done; wait";
    let said = lab.remote.script(many, &[&port])?;
    same("clients that were served", &said.matches("\"ok\"").count(), &100)?;
    same("times it was woken", &(wakes(lab)? - before), &1)?;
    life.goes_on(lab)?;
    lab.ok(&["provision", ID, "--idle-after", "off"])?;
    let units = lab.remote.must(&["ls", "/etc/systemd/system"])?;
    ensure(!units.contains("vmdemo-wake-"), || format!("units are left: {units}"))?;
    Ok(seconds)
}

/// A slip in the settings: whoever connects is sent away, and nothing turns in a circle meanwhile.
fn nobody_can_wake_it(lab: &Lab, port: &str) -> Result<()> {
    let unit = format!("vmdemo-wake-{ID}.service");
    let tries = || -> Result<usize> {
        let log = lab.remote.must(&["journalctl", "-b", "--no-pager", "-o", "cat", "-u", &unit])?;
        Ok(log.lines().filter(|line| line.starts_with("Starting ")).count())
    };
    let before = tries()?;
    let ask = "curl -s --max-time 60 \"http://127.0.0.1:$1/health\" || true";
    let said = lab.remote.script(ask, &[port])?;
    ensure(!said.contains("\"ok\""), || format!("the gateway said {said:?}"))?;
    lab.remote.must(&["sleep", "5"])?;
    same("times that its waking was tried", &(tries()? - before), &1)
}

fn port(lab: &Lab, id: &str) -> Result<String> {
    Ok(lab.field(id, "host_port")?.to_string())
}

/// What the gateway says to a client of the proxy, and the seconds from its connection to the first byte.
pub fn connect(lab: &Lab, id: &str) -> Result<(String, f64)> {
    let ask = "curl -s --max-time 120 -w '\\n%{time_starttransfer}' \"http://127.0.0.1:$1/health\"";
    let said = lab.remote.script(ask, &[&port(lab, id)?])?;
    let (body, seconds) = said
        .rsplit_once('\n')
        .ok_or_else(|| Error::new("read", "what curl says").because(format!("it is {said:?}")))?;
    Ok((body.to_owned(), seconds.trim().replace(',', ".").parse().context("read", "a time")?))
}

/// How often the VM's unit was started, by its journal.
fn wakes(lab: &Lab) -> Result<usize> {
    let unit = format!("firecracker-vmdemo-{ID}.service");
    let log = lab.remote.must(&["journalctl", "-b", "--no-pager", "-o", "cat", "-u", &unit])?;
    Ok(log.lines().filter(|line| line.starts_with("Started firecracker-vmdemo-")).count())
}

/// What is resident while it sleeps: its proxy.
fn memory_of_ours(lab: &Lab) -> Result<()> {
    let unit = format!("vmdemo-proxy-{ID}.service");
    let pid = lab.remote.must(&["systemctl", "show", "-p", "MainPID", "--value", &unit])?;
    let status = lab.remote.must(&["cat", &format!("/proc/{}/status", pid.trim())])?;
    let said: Vec<&str> =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon")).collect();
    say::line(&format!("     asleep, its proxy has {}", said.join(", ").replace('\t', " ")));
    // Nothing is polled: a second costs next to nothing.
    let ticks = |lab: &Lab| -> Result<u64> {
        let stat = lab.remote.must(&["cat", &format!("/proc/{}/stat", pid.trim())])?;
        let times = stat.rsplit(')').next().unwrap_or_default();
        Ok(times.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum())
    };
    let before = ticks(lab)?;
    lab.remote.must(&["sleep", "10"])?;
    let used = Duration::from_millis((ticks(lab)? - before) * 10);
    ensure(used < Duration::from_millis(200), || {
        format!("asleep, its proxy used {} ms in 10 s", used.as_millis())
    })
}
