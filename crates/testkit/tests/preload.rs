//! The script that Node loads before OpenClaw, in Node: it stretches one limit of OpenClaw's on a slow machine, and finds the modules
//! of OpenClaw that name each other; nothing else anywhere. Needs `node`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use fireclaw_core::guest::unit::PRELOAD_SCRIPT;
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
        ("patience.mjs", PRELOAD_SCRIPT),
        // The same where every machine is quick enough, as this one may not be.
        ("quick.mjs", &PRELOAD_SCRIPT.replace("SLOW = 150;", "SLOW = 150_000;")),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    assert_eq!(timers(dir.path(), &["slow.mjs", "patience.mjs"]), r#"[120000,4000,5000,"done"]"#);
    assert_eq!(timers(dir.path(), &["slow.mjs", "quick.mjs"]), r#"[5000,4000,5000,"done"]"#);
}

/// Says where it found a neighbour, which is a link: Node follows one where it looks, and only there.
const MAIN: &str = "import { Worker, isMainThread, parentPort } from 'node:worker_threads';\n\
    import { at } from './link.mjs';\n\
    import { below } from './deep/../link.mjs';\n\
    const { at: again } = await import('./again.mjs?at=/other/place/');\n\
    if (isMainThread) new Worker(new URL(import.meta.url)).once('message', (it) => console.log(at, below, it, again));\n\
    else parentPort.postMessage(at);\n";
const REAL: &str = "export const at = import.meta.url.split('/').pop();\nexport const below = at;\n";

#[test]
fn only_openclaws_modules_are_where_their_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let preload = dir.path().join("preload.mjs");
    std::fs::write(&preload, PRELOAD_SCRIPT).unwrap();
    // Of older ones some have no such hooks, and 20 has them for `require` alone. The end-to-end tests ask the Node of an image.
    let asked = Cmd::new("node").args(["--print", "process.versions.node.split('.')[0] >= 24"]);
    let has_hooks = SystemExec::default().check(asked).unwrap().text() == "true";
    let found =
        if has_hooks { "link.mjs real.mjs link.mjs real.mjs" } else { "real.mjs real.mjs real.mjs real.mjs" };
    for (folder, said) in [("openclaw/dist", found), ("other/dist", "real.mjs real.mjs real.mjs real.mjs")] {
        let folder = dir.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("main.mjs"), MAIN).unwrap();
        std::fs::write(folder.join("real.mjs"), REAL).unwrap();
        std::fs::write(folder.join("again.mjs"), "export { at } from './link.mjs';\n").unwrap();
        std::os::unix::fs::symlink("real.mjs", folder.join("link.mjs")).unwrap();
        let cmd = Cmd::new("node").arg("--import").arg(&preload).arg(folder.join("main.mjs"));
        assert_eq!(SystemExec::default().check(cmd).unwrap().text(), said, "{}", folder.display());
    }
}
