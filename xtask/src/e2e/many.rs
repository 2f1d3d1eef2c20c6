//! Sixteen instances at once, without systemd: begun in the same moment, listed meanwhile, on one base, and gone without a trace.
//! Runs the program, reads what the kernel says of its VMs.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::exec::{Exec, SystemExec};
use serde_json::Value;

use super::world::{World, ensure, same};
use crate::{lab, rollup::Rollup, say, shell};

const MANY: usize = 16;

/// The small image of the lab: they are to be many, and not to do much.
const IMAGE: &str = "tiny";

/// Puts the small image beside the real one.
pub fn image(world: &World) -> Result<()> {
    lab::install_tiny(&world.program, &world.root.join("images").join(IMAGE))
}

/// All are set up, healthy, apart and on one base; then all are destroyed.
pub fn sixteen(world: &mut World) -> Result<()> {
    let ids: Vec<String> = (1..=MANY).map(|number| format!("many-{number}")).collect();
    let begun = Instant::now();
    let lists = set_up(world, &ids)?;
    let took = begun.elapsed();
    let rows = world.json(&["list", "--json"])?;
    let rows: Vec<&Value> = rows.as_array().into_iter().flatten().filter(|row| is_ours(row)).collect();
    same("instances", &rows.len(), &MANY)?;
    for field in ["vm_ip", "host_port"] {
        let values: BTreeSet<String> = rows.iter().map(|row| row[field].to_string()).collect();
        same(field, &values.len(), &MANY)?;
    }
    for row in &rows {
        same(&format!("health of {}", row["id"]), &row["health"], &Value::from("up"))?;
    }
    let own = shared(world, &ids)?;
    let begun = Instant::now();
    let told = all(&ids, |id| asked(world, &["destroy", id, "--force", "--quiet"]));
    told.into_iter().collect::<Result<Vec<()>>>()?;
    let gone = begun.elapsed();
    let left = world.json(&["list", "--json"])?;
    ensure(!left.as_array().into_iter().flatten().any(is_ours), || format!("some are listed still: {left}"))?;
    let links = shell::must("ip", &["-o", "link"])?;
    ensure(!links.contains("many"), || format!("taps outlived them: {links}"))?;
    world.ok(&["image", "remove", IMAGE])?;
    say::line(&format!(
        "     {MANY} set up in {:.0} s, {lists} lists meanwhile, and destroyed in {:.0} s; a VM's own memory, median: {} MiB",
        took.as_secs_f64(),
        gone.as_secs_f64(),
        own >> 10
    ));
    Ok(())
}

/// All at once; whoever fails says so, and the others are looked at all the same. Tells how many lists were made meanwhile.
fn set_up(world: &World, ids: &[String]) -> Result<usize> {
    let (done, over) = mpsc::channel::<()>();
    let (told, lists) = thread::scope(|scope| {
        let watch = scope.spawn(move || listed(world, &over));
        let told = all(ids, |id| {
            let size = ["--vm-vcpu", "1", "--vm-mem-mib", "192", "--disk-size", "2G", "--image", IMAGE];
            let words =
                [&["setup", "--instance", id, "--dns", "203.0.113.10", "--quiet"][..], &size].concat();
            asked(world, &words)
        });
        drop(done);
        (told, watch.join().expect("a test that panics is a failed one"))
    });
    told.into_iter().collect::<Result<Vec<()>>>()?;
    lists
}

/// Lists until all are set up: every list is one, and knows nobody twice.
fn listed(world: &World, over: &mpsc::Receiver<()>) -> Result<usize> {
    let mut lists = 0;
    while over.recv_timeout(Duration::from_secs(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let rows = world.json(&["list", "--json"])?;
        let rows: Vec<&Value> = rows.as_array().into_iter().flatten().filter(|row| is_ours(row)).collect();
        let names: BTreeSet<String> = rows.iter().map(|row| row["id"].to_string()).collect();
        same("names in a list", &names.len(), &rows.len())?;
        lists += 1;
    }
    Ok(lists)
}

fn is_ours(row: &Value) -> bool {
    row["id"].as_str().is_some_and(|id| id.starts_with("many-"))
}

/// The same for each, at once.
fn all<T: Send>(ids: &[String], each: impl Fn(&str) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let running: Vec<_> = ids.iter().map(|id| scope.spawn(|| each(id))).collect();
        running.into_iter().map(|one| one.join().expect("a test that panics is a failed one")).collect()
    })
}

fn asked(world: &World, words: &[&str]) -> Result<()> {
    let output = SystemExec::default().run(world.cmd(words))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new("see", format!("`fireclaw {}` succeed", words.join(" "))).because(output.last_words()))
}

/// All are on one file, and each has memory of its own; the median of that, in KiB.
fn shared(world: &World, ids: &[String]) -> Result<u64> {
    let mut bases = BTreeSet::new();
    let mut own = Vec::new();
    for id in ids {
        let base = world.fc(id, "images/base.ext4");
        bases.insert(std::fs::metadata(&base).context("look at", base.display())?.ino());
        let pid = world.vm_pid(id)?;
        own.push(Rollup::of(pid)?.kib("Anonymous")?);
    }
    same("bases", &bases.len(), &1)?;
    own.sort_unstable();
    Ok(own[own.len() / 2])
}
