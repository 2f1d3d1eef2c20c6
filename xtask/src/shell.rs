//! Programs with our own terminal, and small questions to the system. Starts programs through `host::exec`.

use std::{path::PathBuf, time::Duration};

use fireclaw_core::error::{Error, Result};
use fireclaw_host::exec::{Cmd, Exec, Output, SystemExec, handover};

/// The workspace's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, PathBuf::from)
}

/// Cargo's folder of results.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The release build of the program.
pub fn release() -> PathBuf {
    target().join(triple()).join("release/fireclaw")
}

/// The target that the workspace is built for.
pub const fn triple() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" }
}

/// Runs a program on our own output; `Ok(true)` when it succeeds.
pub fn attach(program: &str, args: &[&str]) -> Result<bool> {
    let cmd = Cmd::new(program).inherit_env().args(args).cwd(root());
    Ok(handover::attach(&cmd)? == 0)
}

/// Runs a program and gives what it said; any status.
pub fn ask(program: &str, args: &[&str]) -> Result<Output> {
    SystemExec::default().run(Cmd::new(program).args(args).deadline(Duration::from_mins(2)))
}

/// Runs a program that must succeed and gives its standard output.
pub fn must(program: &str, args: &[&str]) -> Result<String> {
    let output = ask(program, args)?;
    if output.status.success() {
        return Ok(output.text());
    }
    Err(Error::new("run", format!("{program} {}", args.join(" "))).because(output.last_words()))
}

/// Whether a program is there.
pub fn has(program: &str) -> bool {
    SystemExec::default().which(program).is_some()
}
