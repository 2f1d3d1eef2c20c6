//! `cargo xtask bench`: figures, written to docs/BENCHMARKS.md with the machine that they were measured on. Runs the program
//! under test in roots of its own, and a load on loopback.

mod fleet;
mod machine;
mod many;
mod proxy;
mod start;

use fireclaw_core::error::{Context, Error, Result};

use crate::{e2e, say, shell};

/// Measures everything and writes the page; or only what needs a VM for half an hour, which is printed.
pub fn run(gateway: bool) -> Result<bool> {
    if gateway {
        return e2e::run(&e2e::Options {
            only: vec![e2e::GATEWAY_START.to_owned()],
            ..e2e::Options::default()
        });
    }
    if !shell::attach("cargo", &["build", "--release", "--locked", "--package", "fireclaw"])? {
        return Err(Error::new("build", "fireclaw"));
    }
    let program = shell::release();
    let mut page = String::from(
        "# Benchmarks\n\nMade by `cargo xtask bench`. Compare the rows of one run; machines differ.\n\n",
    );
    page.push_str(&machine::describe());
    for section in [start::run(&program)?, fleet::run(&program)?, many::run(&program)?, proxy::run(&program)?]
    {
        page.push('\n');
        page.push_str(&section);
    }
    let path = shell::root().join("docs/BENCHMARKS.md");
    // What was measured in another way (a whole setup) stands behind this mark and is kept.
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(rest) = kept.find(KEPT) {
        page.push('\n');
        page.push_str(&kept[rest..]);
    }
    std::fs::write(&path, &page).context("write", path.display())?;
    say::line(&page);
    Ok(true)
}

/// What follows in the page is written by hand.
const KEPT: &str = "<!-- kept -->";
