//! The world of the end-to-end tests: the program under test, its roots, and how it is asked. Runs the program.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::exec::{Cmd, Exec, Output, SystemExec, handover};
use serde_json::Value;

use super::{Options, internet::Internet};
use crate::{say, shell};

/// The instance that most cases share. Its name has an underscore and a hyphen on purpose.
pub const ID: &str = "my_bot-1";

/// Everything that the cases share.
pub struct World {
    /// The program under test.
    pub program: PathBuf,
    /// Below it lie all roots.
    pub root: PathBuf,
    /// The hosts that guests can reach.
    pub internet: Option<Internet>,
}

impl World {
    /// The world that the options describe.
    pub fn new(options: &Options) -> Result<Self> {
        let program = options.fireclaw.clone().unwrap_or_else(shell::release);
        let root = options.root.clone().unwrap_or_else(|| shell::target().join("e2e"));
        fs::create_dir_all(&root).context("create folder", root.display())?;
        Ok(Self { program, root, internet: None })
    }

    /// The environment of the program under test: its roots and a network that collides with nobody's.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let below = |name: &str| self.root.join(name).display().to_string();
        vec![
            ("STATE_ROOT", below("state")),
            ("FC_ROOT", below("fc")),
            ("BASE_IMAGES_DIR", below("images")),
            ("SSH_KEY_PATH", below("ssh/key")),
            ("BRIDGE_NAME", "fc-e2e0".to_owned()),
            ("BRIDGE_ADDR", "172.30.0.1/24".to_owned()),
            ("SUBNET_CIDR", "172.30.0.0/24".to_owned()),
            ("BASE_PORT", "28890".to_owned()),
            ("DISK_SIZE", "12G".to_owned()),
        ]
    }

    /// A run of the program, not started yet.
    pub fn cmd(&self, args: &[&str]) -> Cmd {
        let mut cmd = Cmd::new(&self.program).args(args).deadline(Duration::from_mins(25));
        for (name, value) in self.environment() {
            cmd = cmd.env(name, value);
        }
        cmd
    }

    /// Runs the program on our own output.
    pub fn run_shown(&self, args: &[&str]) -> Result<bool> {
        Ok(handover::attach(&self.cmd(args).inherit_env())? == 0)
    }

    /// Runs the program; any status. What it says is shown.
    pub fn ask(&self, args: &[&str]) -> Result<Output> {
        self.ask_cmd(self.cmd(args), &args.join(" "))
    }

    /// Runs a prepared command of the program.
    pub fn ask_cmd(&self, cmd: Cmd, shown: &str) -> Result<Output> {
        let begun = Instant::now();
        let output = SystemExec::default().run(cmd)?;
        let shown: String = shown.chars().take(110).collect();
        say::detail(&format!(
            "  $ fireclaw {shown}   [{} in {:.1} s]",
            output.code(),
            begun.elapsed().as_secs_f64()
        ));
        for line in String::from_utf8_lossy(&output.stderr).lines().filter(|line| !line.starts_with("ok ")) {
            say::detail(&format!("    {line}"));
        }
        Ok(output)
    }

    /// Runs the program, which must exit with this code.
    pub fn expect(&self, code: i32, args: &[&str]) -> Result<Output> {
        let output = self.ask(args)?;
        if output.code() == code {
            return Ok(output);
        }
        Err(Error::new("see", format!("exit code {code} of `fireclaw {}`", args.join(" "))).because(format!(
            "it was {}: {}",
            output.code(),
            output.last_words()
        )))
    }

    /// Runs the program, which must succeed.
    pub fn ok(&self, args: &[&str]) -> Result<Output> {
        self.expect(0, args)
    }

    /// Runs the program, which must succeed with JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.ok(args)?;
        serde_json::from_slice(&output.stdout).context("read the JSON of", args.join(" "))
    }

    /// Runs the program, which must be refused with this code, a hint, and this text in its error.
    pub fn refused(&self, code: i32, args: &[&str], text: &str) -> Result<()> {
        let output = self.expect(code, args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(said.contains("error:"), || format!("no error was printed: {said}"))?;
        ensure(said.contains(text), || format!("the error does not say `{text}`: {said}"))?;
        // Usage errors come from the parser, which shows the usage instead of a hint.
        ensure(said.contains("hint:") || said.contains("Usage:") || said.contains("--help"), || {
            format!("no hint: {said}")
        })
    }

    /// A command in the guest of the shared instance, which must succeed.
    pub fn guest(&self, command: &str) -> Result<String> {
        Ok(self.ok(&["shell", ID, command])?.text())
    }

    /// The status of an instance.
    pub fn status(&self, id: &str) -> Result<Value> {
        self.json(&["status", id, "--json"])
    }

    /// A path below an instance's folder in `FC_ROOT`.
    pub fn fc(&self, id: &str, name: &str) -> PathBuf {
        self.root.join("fc").join(id).join(name)
    }

    /// A path below an instance's folder in `STATE_ROOT`.
    pub fn state(&self, id: &str, name: &str) -> PathBuf {
        self.root.join("state").join(format!(".vm-{id}")).join(name)
    }

    /// The journal of an instance.
    pub fn journal(&self, id: &str) -> PathBuf {
        self.root.join("state/.journal").join(format!("{id}.jsonl"))
    }

    /// The process of an instance's VM.
    pub fn vm_pid(&self, id: &str) -> Result<i32> {
        Self::process(&format!("guest={id},process={id}"))
    }

    /// The first process whose command line has this pattern.
    pub fn process(pattern: &str) -> Result<i32> {
        let pids = shell::ask("pgrep", &["-f", "--", pattern])?.text();
        pids.lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| Error::new("find", format!("`{pattern}`")).because("no such process"))
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, seconds: u64, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
        let requirement = fireclaw_host::wait::Requirement {
            description: what.to_owned(),
            deadline: Duration::from_secs(seconds),
            hint: "see the logs that were collected".to_owned(),
        };
        fireclaw_host::wait::until(&requirement, &fireclaw_host::interrupt::Interrupt::default(), || {
            match probe() {
                Ok(true) => fireclaw_host::wait::Probed::Ready(()),
                Ok(false) => fireclaw_host::wait::Probed::NotYet("it does not hold".to_owned()),
                Err(error) => fireclaw_host::wait::Probed::NotYet(error.one_line()),
            }
        })
    }

    /// Puts the logs of all instances aside for whoever looks at a failure.
    pub fn collect(&self, case: &str) {
        let to = self.root.join("failures").join(case.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let _ = fs::remove_dir_all(&to);
        for id in names(&self.root.join("fc")) {
            let from = self.fc(&id, "logs");
            let into = to.join(&id);
            let _ = fs::create_dir_all(&into);
            for log in names(&from) {
                let _ = fs::copy(from.join(&log), into.join(&log));
            }
            if let Some(text) =
                fs::read_to_string(from.join("console.log")).ok().filter(|text| !text.is_empty())
            {
                let lines: Vec<&str> = text.lines().collect();
                say::detail(&format!("    last lines of {id}'s console:"));
                for line in &lines[lines.len().saturating_sub(8)..] {
                    say::detail(&format!("      {line}"));
                }
            }
        }
        say::detail(&format!("    logs are in {}", to.display()));
    }

    /// Removes every instance.
    pub fn clear(&self) {
        let mut ids = names(&self.root.join("fc"));
        ids.extend(
            names(&self.root.join("state"))
                .iter()
                .filter_map(|name| name.strip_prefix(".vm-").map(str::to_owned)),
        );
        ids.sort();
        ids.dedup();
        for id in ids {
            let _ = self.ask(&["destroy", &id, "--force", "--quiet"]);
        }
    }
}

/// The names in a folder; none when it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    fireclaw_host::fs::names(dir).unwrap_or_default()
}

/// Whether a status says that the gateway has started. With a bot that cannot reach Telegram, as here, it is degraded.
pub fn has_started(status: &Value) -> bool {
    status["health"] == "up" || status["health"] == "degraded"
}

/// Fails with a sentence when something does not hold.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new("see", "what was expected").because(why())) }
}

/// Fails when two values differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, wanted: &T) -> Result<()> {
    ensure(seen == wanted, || format!("{what} is {seen:?} and not {wanted:?}"))
}
