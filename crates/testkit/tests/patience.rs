//! The script that Node loads before OpenClaw, in Node: it stretches one limit of OpenClaw's on a slow machine and nothing
//! else anywhere. Needs `node`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use fireclaw_core::guest::unit::PATIENCE_SCRIPT;
use fireclaw_host::exec::{Cmd, Exec, SystemExec};

/// Prints for each of three timers how long it was set to. The first is OpenClaw's by the name of its file.
const HEARTBEAT: &str = "const timers = [setTimeout(() => {}, 5000), setTimeout(() => {}, 4000)];\n\
    export const seen = timers.map((timer) => timer.unref()._idleTimeout);\n";
const OTHER: &str = "import { promisify } from 'node:util';\n\
    import { seen } from './openclaw-state-lease-heartbeat-Bx8MXIzo.mjs';\n\
    const timer = setTimeout(() => {}, 5000).unref();\n\
    console.log(JSON.stringify([...seen, timer._idleTimeout, await promisify(setTimeout)(1, 'done')]));\n";
/// What a slow machine is to the script: one on which Node has run for a while already.
const SLOW: &str = "while (performance.now() < 450);\n";

fn timers(dir: &Path, before: &[&str]) -> String {
    let mut cmd = Cmd::new("node").cwd(dir);
    for script in before {
        cmd = cmd.arg("--import").arg(dir.join(script));
    }
    SystemExec::default().check(cmd.arg(dir.join("other.mjs"))).unwrap().text()
}

#[test]
fn a_slow_machine_gets_time_for_one_thing() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("openclaw-state-lease-heartbeat-Bx8MXIzo.mjs", HEARTBEAT),
        ("other.mjs", OTHER),
        ("slow.mjs", SLOW),
        ("patience.mjs", PATIENCE_SCRIPT),
        // The same where every machine is quick enough, as this one may not be.
        ("quick.mjs", &PATIENCE_SCRIPT.replace("SLOW = 150;", "SLOW = 150_000;")),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    assert_eq!(timers(dir.path(), &["slow.mjs", "patience.mjs"]), r#"[120000,4000,5000,"done"]"#);
    assert_eq!(timers(dir.path(), &["slow.mjs", "quick.mjs"]), r#"[5000,4000,5000,"done"]"#);
}
