//! The lab's host as scenarios use it: fireclaw on it, waiting, reboots, power cuts, and what is kept of a failure.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
};
use fireclaw_host::{
    exec::Output,
    interrupt::Interrupt,
    wait::{self, Probed, Requirement},
};
use serde_json::Value;

use super::{machine::Machine, ssh::Remote};
use crate::say;

/// Longest part of a boot: firmware, kernel, services, emulated on a busy machine.
const BOOT: u64 = 240;

/// Everything that scenarios share.
pub struct Lab {
    /// The machine around the host.
    pub machine: Machine,
    /// Commands on the host.
    pub remote: Remote,
    /// `firecracker` or `qemu`: what instances are made with.
    pub vmm: &'static str,
    /// Whether Firecracker calls itself a release: such a one brings its filter of system calls, and has a version that is known.
    pub released: bool,
    /// The program under test.
    pub program: PathBuf,
    /// Which boot of the host this is, as far as anybody here caused it.
    pub boot_id: String,
    /// The folder of the Bash fireclaw, where somebody has it.
    pub bash_fireclaw: Option<PathBuf>,
    /// Whether the large images are there: the one with OpenClaw, container images, a stock root filesystem.
    pub large: bool,
}

impl Lab {
    /// Switches the host on and waits until its boot is over: SSH is up before the last drivers are.
    pub fn boot(&mut self) -> Result<()> {
        let Self { machine, remote, .. } = self;
        machine.power_on()?;
        remote.wait(BOOT, || machine.must_be_on())?;
        // What it says, the first scenario looks at.
        remote.ask(&["systemctl", "is-system-running", "--wait"])?;
        self.boot_id = self.boot_id()?;
        Ok(())
    }

    fn boot_id(&self) -> Result<String> {
        self.remote.must(&["cat", "/proc/sys/kernel/random/boot_id"])
    }

    /// What became of the emulation in the middle of a scenario; `None` when nothing did. Emulated virtualisation inside
    /// emulation: now and then the host stands still or crashes, or a guest's kernel does, whatever runs on them.
    pub fn emulation_failed(&self, error: &Error) -> Option<&'static str> {
        if error.one_line().contains("Kernel panic - not syncing: Fatal exception") {
            return Some("a guest's kernel crashed");
        }
        if !self.answers() {
            return Some("the host hung");
        }
        if self.boot_id().is_ok_and(|now| now != self.boot_id) {
            return Some("the host crashed");
        }
        // Firecracker's words for a triple fault; it starts again then, and who waited for the guest before says something else.
        let shut_down = ["journalctl", "--boot", "--quiet", "--lines=1", "--grep=on vcpu run: Shutdown"];
        (self.remote.ask(&shut_down).is_ok_and(|found| found.status.success()))
            .then_some("a guest's processor gave up")
    }

    /// Whether the host is there at all.
    pub fn answers(&self) -> bool {
        self.remote.close();
        self.remote.wait(60, || Ok(())).is_ok()
    }

    /// Restarts the host as its administrator would, and waits until it is back.
    pub fn reboot(&mut self) -> Result<()> {
        let before = self.boot_id()?;
        // The connection may end before the answer.
        let _ = self.remote.ask(&["systemctl", "reboot"]);
        self.remote.close();
        let requirement = requirement("the host to come back", 420);
        let Self { machine, remote, .. } = self;
        wait::until(&requirement, &Interrupt::default(), || {
            if let Err(error) = machine.must_be_on() {
                return Probed::Never(error);
            }
            let asked = remote.ask_with(
                &["cat", "/proc/sys/kernel/random/boot_id"],
                Vec::new(),
                Duration::from_secs(20),
            );
            match asked {
                Ok(output) if output.status.success() && output.text() != before => {
                    self.boot_id = output.text();
                    Probed::Ready(())
                }
                Ok(output) => {
                    // A connection that is going away is not to be waited on.
                    remote.close();
                    Probed::NotYet(output.last_words())
                }
                Err(error) => Probed::NotYet(error.one_line()),
            }
        })
    }

    /// Cuts the host's power and switches it on again.
    pub fn power_cut(&mut self) -> Result<()> {
        self.machine.cut_power()?;
        self.remote.close();
        self.boot()
    }

    /// fireclaw on the host; any status.
    pub fn ask(&self, args: &[&str]) -> Result<Output> {
        self.remote.ask(&[&["fireclaw"], args].concat())
    }

    /// fireclaw on the host, which must exit with this code.
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

    /// fireclaw on the host, which must succeed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.expect(0, args)?.text())
    }

    /// fireclaw on the host, which must succeed with JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        serde_json::from_str(&self.ok(args)?).context("read the JSON of", args.join(" "))
    }

    /// Makes an instance of the small image.
    pub fn setup_tiny(&self, id: &str, more: &[&str]) -> Result<Value> {
        self.setup_small(id, "tiny", more)
    }

    /// Makes a small instance.
    pub fn setup_small(&self, id: &str, image: &str, more: &[&str]) -> Result<Value> {
        let args = [
            "setup",
            "--instance",
            id,
            "--image",
            image,
            "--vmm",
            self.vmm,
            "--vm-vcpu",
            "1",
            "--vm-mem-mib",
            "256",
            "--disk-size",
            "2G",
            "--dns",
            "203.0.113.10",
            "--json",
        ];
        self.json(&[&args, more].concat())
    }

    /// Runs with a configuration file of fireclaw's on the host, which is gone after it.
    pub fn with_config<T>(&self, text: &str, run: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        const FILE: &str = "/etc/fireclaw/config.toml";
        self.remote.must(&["mkdir", "-p", "/etc/fireclaw"])?;
        self.remote.put_bytes(text.as_bytes().to_vec(), FILE, "644")?;
        let result = run(self);
        self.remote.must(&["rm", FILE])?;
        result
    }

    /// How many rows there are in the small image's file, which SQLite must find whole. The gateway may be up before its
    /// guest takes logins.
    pub fn rows(&self, id: &str) -> Result<u64> {
        let ask = || self.ok(&["shell", id, "sudo", "lab-rows"]);
        self.until("a login in the guest", 120, || ask().map(|_| true))?;
        let said = ask()?;
        let lines: Vec<&str> = said.lines().collect();
        ensure(lines.contains(&"ok"), || format!("SQLite says: {said}"))?;
        lines.last().unwrap_or(&"").trim().parse().context("count", "rows")
    }

    /// A field of an instance's status.
    pub fn field(&self, id: &str, field: &str) -> Result<Value> {
        Ok(self.json(&["status", id, "--json"])?[field].clone())
    }

    /// The VMM's process of an instance, by the arguments that each VMM has; none when there is none.
    pub fn vm_pid(&self, id: &str) -> Result<Option<u32>> {
        let pattern = if self.vmm == "firecracker" {
            let id: InstanceId = id.parse()?;
            format!("firecracker.--id.{}.--", id.jail())
        } else {
            format!("guest={id},process={id}")
        };
        let output = self.remote.ask(&["pgrep", "-f", &pattern])?;
        Ok(output.text().lines().find_map(|pid| pid.trim().parse().ok()))
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, seconds: u64, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
        wait::until(&requirement(what, seconds), &Interrupt::default(), || match probe() {
            Ok(true) => Probed::Ready(()),
            Ok(false) => Probed::NotYet("it does not hold".to_owned()),
            Err(error) => Probed::NotYet(error.one_line()),
        })
    }

    /// Removes every instance, whatever became of it.
    pub fn clear(&self) -> Result<()> {
        let list = self.json(&["list", "--json"])?;
        for row in list.as_array().into_iter().flatten() {
            if let Some(id) = row["id"].as_str() {
                self.ok(&["destroy", id, "--force", "--quiet"])?;
            }
        }
        Ok(())
    }

    /// Puts journal, console and logs aside for whoever looks at a failure.
    pub fn collect(&mut self, to: &Path) {
        let _ = fs::remove_dir_all(to);
        let _ = fs::create_dir_all(to);
        let _ = fs::copy(self.machine.console(), to.join("console.log"));
        if !self.machine.is_on().unwrap_or(false) {
            return;
        }
        let answers: [(&str, &[&str]); 6] = [
            ("journal.log", &["journalctl", "--no-pager", "-o", "short-monotonic", "-n", "4000"]),
            ("ps.log", &["ps", "-eo", "pid,ppid,user,stat,wchan,args"]),
            ("units.log", &["systemctl", "--no-pager", "list-units", "--all"]),
            ("links.log", &["ip", "-d", "address"]),
            ("nft.log", &["nft", "list", "ruleset"]),
            ("list.log", &["fireclaw", "list"]),
        ];
        for (name, words) in answers {
            if let Ok(output) = self.remote.ask_with(words, Vec::new(), Duration::from_mins(1)) {
                let _ = fs::write(to.join(name), output.stdout);
            }
        }
        if let Ok(output) = self.remote.ask(&[
            "tar",
            "-C",
            "/srv/firecracker",
            "-cf",
            "-",
            "--exclude=images",
            "--exclude=jail",
            "vm-demo",
        ]) {
            let _ = fs::write(to.join("instances.tar"), output.stdout);
        }
        say::detail(&format!("    logs are in {}", to.display()));
    }

    /// Whether guests were running at a failure and the last words of each, for whoever sees only what a run printed.
    pub fn guests_at_a_failure(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |words: &[&str], last: usize| {
            let Ok(output) = self.remote.ask_with(words, Vec::new(), Duration::from_mins(1)) else { return };
            let said = output.text();
            let said: Vec<&str> = said.lines().collect();
            lines.extend(
                said[said.len().saturating_sub(last)..].iter().map(|line| format!("    | {line:.160}")),
            );
        };
        add(&["fireclaw", "list"], 20);
        add(&["ps", "-C", "firecracker,qemu-system-x86_64", "-o", "pid,stat,etimes,cputimes,wchan:20"], 20);
        let list = self.json(&["list", "--json"]).unwrap_or_default();
        for row in list.as_array().into_iter().flatten() {
            if let Some(id) = row["id"].as_str() {
                add(&["fireclaw", "logs", id, "host", "--no-follow", "--lines", "12"], 24);
            }
        }
        lines
    }
}

fn requirement(what: &str, seconds: u64) -> Requirement {
    Requirement {
        description: what.to_owned(),
        deadline: Duration::from_secs(seconds),
        hint: "see what was collected".to_owned(),
    }
}

/// Where the time of a command went, from its JSON.
pub fn show_steps(report: &Value) {
    for step in report["steps"].as_array().into_iter().flatten() {
        say::detail(&format!("    {:<24} {:>8} ms", step["name"].as_str().unwrap_or(""), step["ms"]));
    }
}

/// Fails with a sentence when something does not hold.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new("see", "what was expected").because(why())) }
}

/// Fails when two values differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, wanted: &T) -> Result<()> {
    ensure(seen == wanted, || format!("{what} is {seen:?} and not {wanted:?}"))
}
