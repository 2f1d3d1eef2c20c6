//! `list` and `status` with 250 instances that do not run. Makes records in a temporary folder and runs the program.

use std::{fs, path::Path};

use fireclaw_core::{
    error::{Context, Result},
    spec::NetworkSpec,
    state::InstanceRecord,
};
use fireclaw_host::exec::{Cmd, Exec as _, SystemExec};

use super::start::{ms, timed};

/// How many instances.
const MANY: u16 = 250;
/// What the Bash fireclaw takes for one instance, measured with ten on the same kind of machine.
const BASH_SECONDS: f64 = 3.03;

/// Times and memory.
pub fn run(program: &Path) -> Result<String> {
    let dir = Path::new("/tmp").join(format!("fireclaw-bench-{}", std::process::id()));
    let state = dir.join("state");
    for n in 2..MANY + 2 {
        let id = format!("bot-{n}");
        let text = format!(
            "FIRECLAW_STATE_FORMAT=plain-v1\nINSTANCE_ID={id}\nHOST_PORT={}\nVM_IP=172.16.0.{n}\nVM_TAP=tbot{n}\nGATEWAY_TOKEN=x\n",
            18890 + n
        );
        let record = InstanceRecord::parse("a record", &text, None, &NetworkSpec::default())?;
        let folder = state.join(format!(".vm-{id}"));
        fs::create_dir_all(&folder).context("create folder", folder.display())?;
        fs::write(folder.join(".env"), record.render_env()?).context("write", "a record")?;
        fs::write(folder.join("provision.vars"), record.render_provision_vars()?)
            .context("write", "a record")?;
    }
    let cmd =
        |args: &[&str]| Cmd::new(program).args(args).env("STATE_ROOT", &state).env("FC_ROOT", dir.join("fc"));
    let (best, list) = timed(20, || cmd(&["list"]))?;
    let (_, json) = timed(20, || cmd(&["list", "--json"]))?;
    let (_, status) = timed(20, || cmd(&["status", "bot-100"]))?;
    let children = children_of(&cmd(&["list"]).line(), &state, &dir.join("fc"));
    fs::remove_dir_all(&dir).context("remove", dir.display())?;
    let bash = f64::from(MANY) * BASH_SECONDS;
    let ratio = bash / list.as_secs_f64();
    Ok(format!(
        "## {MANY} instances, none running\n\n| what | figure | at most |\n|---|---|---|\n| `list`, median of 20 (best {}) | {} | 150 ms |\n| `list --json` | {} | 150 ms |\n| `status ID` | {} | 150 ms |\n| processes that `list` starts | {children} | 0 |\n| the Bash fireclaw's `list` (30.3 s with ten, one after another: {BASH_SECONDS} s each) | {bash:.0} s, {ratio:.0} times as long | |\n",
        ms(best),
        ms(list),
        ms(json),
        ms(status),
    ))
}

/// How many processes a command starts, counted by strace where it is installed.
pub(super) fn children_of(line: &str, state: &Path, fc: &Path) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let cmd = Cmd::new("strace")
        .args(["-f", "-qq", "-e", "trace=fork,vfork,clone,clone3,execve"])
        .args(&words)
        .env("STATE_ROOT", state)
        .env("FC_ROOT", fc);
    match SystemExec::default().run(cmd) {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // A thread is no process.
            let starts = |line: &str| {
                ["clone", "clone3", "fork"].iter().any(|call| line.contains(&format!("{call}(")))
                    && !line.contains("CLONE_THREAD")
            };
            let count = said.lines().filter(|line| starts(line)).count();
            format!("{count}, by strace")
        }
        Err(_) => "not counted: strace is not installed".to_owned(),
    }
}
