//! What a start of the program costs. Runs it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Result};
use fireclaw_host::exec::{Cmd, Exec as _, SystemExec};

/// The shortest and the median time of a command.
pub fn timed(runs: usize, mut make: impl FnMut() -> Cmd) -> Result<(Duration, Duration)> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        SystemExec::default().check(make())?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok((times[0], times[times.len() / 2]))
}

/// Milliseconds with one decimal.
pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// `--version`, and the size of the program.
pub fn run(program: &Path) -> Result<String> {
    let (best, median) = timed(30, || Cmd::new(program).arg("--version"))?;
    let (floor, _) = timed(30, || Cmd::new("true"))?;
    let bytes = std::fs::metadata(program).context("look at", program.display())?.len();
    #[expect(clippy::cast_precision_loss, reason = "a size for a person")]
    let size = bytes as f64 / 1e6;
    Ok(format!(
        "## The program\n\n| what | figure | at most |\n|---|---|---|\n| `fireclaw --version`, median of 30 (best {}; `true` started the same way {}) | {} | 10 ms |\n| the release binary, static and stripped | {size:.1} MB | 15 MB |\n",
        ms(best),
        ms(floor),
        ms(median),
    ))
}
