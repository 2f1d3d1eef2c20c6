//! Figures of a real OpenClaw in an emulated guest, for docs/BENCHMARKS.md. What fails here is the measuring, never a figure.

use std::time::Duration;

use fireclaw_core::error::Result;

use super::world::{ID, World, ensure, has_started};
use crate::say;

/// Starts a gateway as fireclaw's service does and as a person would by hand, in turns.
const GATEWAY_START: &str = include_str!("files/gateway_start.sh");

/// How often each is started: some minutes each time.
const TURNS: &str = "2";

/// One kind of start: seconds until it was ready, and of processor time.
struct Start {
    kind: String,
    ready: f64,
    spent: f64,
}

/// Both of one guest, its page cache emptied before each.
pub fn gateway_start(world: &mut World) -> Result<()> {
    let command = format!("sudo bash -s openclaw-{ID}.service {TURNS}");
    let cmd = world.cmd(&["shell", ID, &command]).stdin_bytes(GATEWAY_START.as_bytes().to_vec());
    let said = world.ask_cmd(cmd.deadline(Duration::from_hours(2)), "shell … (starts in turns)")?;
    let text = said.text();
    let starts = text.lines().filter_map(read).collect::<Vec<_>>();
    for line in text.lines() {
        say::line(&format!("     {line}"));
    }
    let mean = |kind: &str, of: fn(&Start) -> f64| {
        let all: Vec<f64> = starts.iter().filter(|start| start.kind == kind).map(of).collect();
        #[allow(clippy::cast_precision_loss)] // A handful of starts.
        let count = all.len() as f64;
        all.iter().sum::<f64>() / count
    };
    let [plain, ours] = ["plain", "ours"].map(|kind| (mean(kind, |it| it.ready), mean(kind, |it| it.spent)));
    ensure(plain.0.is_finite() && ours.0.is_finite(), || format!("a kind never got ready: {text}"))?;
    say::line(&format!(
        "     ready after {:.1} s, a plain one after {:.1} s: {:.2} of it; processor time {:.1} of {:.1} s: {:.2}",
        ours.0,
        plain.0,
        ours.0 / plain.0,
        ours.1,
        plain.1,
        ours.1 / plain.1
    ));
    world.until("the gateway to be up again", 900, || Ok(has_started(&world.status(ID)?)))
}

/// A line of the script: turn, kind, seconds until ready, seconds of processor time.
fn read(line: &str) -> Option<Start> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, ready, spent] = words[..] else { return None };
    Some(Start { kind: kind.to_owned(), ready: ready.parse().ok()?, spent: spent.parse().ok()? })
}
