//! The lab: a whole host in a VM, with systemd as its first process, KVM that works, Firecracker and its jailer, and the
//! neighbours that such a host has. docs/LAB.md describes it.
//!
//! Nothing here needs hardware virtualisation: the machine around the host is emulated, and so is the virtualisation that
//! its KVM uses.

mod disk;
mod host;
mod images;
mod machine;
mod scenarios;
mod ssh;
mod stock;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, ValueEnum};
use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Exec, SystemExec},
    keys,
};
use fireclaw_testkit::oci::Layout;

use self::{host::Lab, machine::Machine, scenarios::Scenario, ssh::Remote};
use crate::{only, say, shell};

/// A root filesystem without anything of fireclaw, and the packages that it will ask for: [`stock::folder`] for others than the lab.
pub fn stock_root() -> Result<PathBuf> {
    stock::folder(&shell::target().join("lab"))
}

/// The container of the gateway's stand-in, for others than the lab.
pub fn small_container(work: &Path, layout: &Layout, tag: &str) -> Result<()> {
    images::small_container(work, layout, tag)
}

/// What to run.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Scenarios whose names contain one of these; `run` before them changes nothing; `shell` alone gives a root shell, `disks` makes the disks
    pub only: Vec<String>,
    /// The program under test [default: target/…/release/fireclaw, built first]
    #[arg(long)]
    pub fireclaw: Option<PathBuf>,
    /// A folder with a built image that carries OpenClaw [default: the one of the end-to-end tests]
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// `firecracker` or `qemu` [default: firecracker where the machine has it]
    #[arg(long)]
    pub vmm: Option<Vmm>,
    /// The long scenarios too
    #[arg(long)]
    pub all: bool,
    /// Leave the disks of the run behind, and go on with instances that a failed scenario left
    #[arg(long)]
    pub keep: bool,
    /// Show what every scenario does, not only the failed ones
    #[arg(long, short)]
    pub verbose: bool,
    /// The moment after which no scenario is begun any more: what is left over is said.
    #[arg(skip)]
    pub begin_before: Option<Instant>,
}

/// What instances are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// Through its jailer.
    Firecracker,
    /// With the lab's KVM.
    Qemu,
}

/// How much of what a failed scenario did is shown.
const SHOWN_DETAILS: usize = 60;

/// Runs scenarios, or a shell. `Ok(false)` when one failed.
pub fn run(options: &Options) -> Result<bool> {
    say::head("lab: the host and its images");
    say::verbose(options.verbose);
    let begun = Instant::now();
    let mut words = options.only.as_slice();
    if words.first().is_some_and(|word| word == "run") {
        words = &words[1..];
    }
    let plain = words == ["shell"] || words == ["disks"];
    let all = scenarios::all();
    if !plain {
        only::each_is_known(words, &all.iter().map(|scenario| scenario.name).collect::<Vec<_>>())?;
    }
    let (chosen, left_out): (Vec<_>, Vec<_>) = all.into_iter().partition(|scenario| {
        let named = words.iter().any(|word| scenario.name.contains(word.as_str()));
        named || (words.is_empty() && (options.all || !scenario.long))
    });
    let large = plain || chosen.iter().any(|scenario| scenario.large);
    let (mut lab, proved) = prepare(options, large)?;
    if words == ["disks"] {
        return Ok(true);
    }
    lab.boot()?;
    install(&lab, &proved)?;
    say::line(&format!("the host is up after {} s", begun.elapsed().as_secs()));
    if words == ["shell"] {
        return Ok(lab.remote.attach()? == 0);
    }
    let mut rows: Vec<Row> = chosen.iter().map(|scenario| carry_out(scenario, &mut lab, options)).collect();
    if words.is_empty() {
        let why = "takes minutes; `cargo xtask lab --all` runs it";
        rows.extend(left_out.iter().map(|scenario| Row::skipped(scenario, "-", why)));
    }
    drop(lab);
    say::head("lab: scenario, VMM, result, seconds");
    for row in &rows {
        say::line(&format!("{:<28} {:<12} {:<5} {:>5}", row.name, row.vmm, row.verdict(), row.seconds));
        if let Verdict::PassedAgain(why) | Verdict::Skipped(why) | Verdict::Failed(why) = &row.verdict {
            say::line(&format!("     {why}"));
        }
    }
    say::line(&format!("proved on {}", proved.described));
    say::line(&format!("{} s in all", begun.elapsed().as_secs()));
    Ok(!rows.iter().any(|row| matches!(row.verdict, Verdict::Failed(_))))
}

enum Verdict {
    Passed,
    /// Not at once: why it failed before.
    PassedAgain(String),
    Failed(String),
    Skipped(String),
}

struct Row {
    name: &'static str,
    vmm: &'static str,
    verdict: Verdict,
    seconds: u64,
}

impl Row {
    fn skipped(scenario: &Scenario, vmm: &'static str, why: &str) -> Self {
        Self { name: scenario.name, vmm, verdict: Verdict::Skipped(why.to_owned()), seconds: 0 }
    }

    fn verdict(&self) -> &'static str {
        match self.verdict {
            Verdict::Passed => "ok",
            Verdict::PassedAgain(_) => "ok 2",
            Verdict::Failed(_) => "FAIL",
            Verdict::Skipped(_) => "skip",
        }
    }
}

fn carry_out(scenario: &Scenario, lab: &mut Lab, options: &Options) -> Row {
    let vmm = lab_vmm(scenario, lab.vmm);
    if let Some(why) = scenario.unfit(lab) {
        return Row::skipped(scenario, vmm, why);
    }
    if options.begin_before.is_some_and(|moment| Instant::now() > moment) {
        return Row::skipped(scenario, vmm, "the time of this run is used up; `cargo xtask lab` runs it");
    }
    if options.verbose {
        say::head(scenario.name);
    }
    let begun = Instant::now();
    let mut tried = attempt(scenario, lab);
    let mut before = None;
    if let Some(why) = tried.said() {
        say::line(&format!("`{}` begins again on a host switched off and on: {why}", scenario.name));
        before = Some(why);
        let fresh = lab.power_cut().and_then(|()| lab.clear());
        tried = match fresh {
            Ok(()) => attempt(scenario, lab),
            Err(error) => Attempt { result: Err(error), emulation: None },
        };
    }
    let Attempt { mut result, emulation } = tried;
    // The next scenario finds a host without instances, and this one has to leave one.
    if !options.keep || result.is_ok() {
        let cleared = recover(lab);
        result = result.and(cleared);
    }
    let seconds = begun.elapsed().as_secs();
    let verdict = match result {
        Ok(()) => {
            before.map_or(Verdict::Passed, |why| Verdict::PassedAgain(format!("the first time: {why}")))
        }
        Err(error) => match emulation {
            // It says nothing of fireclaw.
            Some(what) => Verdict::Skipped(format!("{what} twice, which is the emulation's fault")),
            None => Verdict::Failed(error.one_line()),
        },
    };
    let details = say::take_details(SHOWN_DETAILS);
    let row = Row { name: scenario.name, vmm, verdict, seconds };
    say::line(&format!("{:<4} {:<40} {seconds:>5} s", row.verdict(), scenario.name));
    if let Verdict::Failed(why) = &row.verdict {
        for line in details {
            say::line(&line);
        }
        say::line(&format!("     {why}"));
    }
    row
}

/// What came of a scenario once.
struct Attempt {
    result: Result<()>,
    /// What became of the emulation, when it failed.
    emulation: Option<&'static str>,
}

impl Attempt {
    /// Why it did not pass.
    fn said(&self) -> Option<String> {
        let error = self.result.as_ref().err()?;
        Some(self.emulation.map_or_else(|| error.one_line(), str::to_owned))
    }
}

/// Runs a scenario; of one that fails, the traces are put aside and the state of its guests is said.
fn attempt(scenario: &Scenario, lab: &mut Lab) -> Attempt {
    let result = (scenario.run)(lab);
    let emulation = result.as_ref().err().and_then(|error| lab.emulation_failed(error));
    if result.is_err() {
        let name = scenario.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        lab.collect(&shell::target().join("lab/failures").join(name));
        if emulation.is_none() {
            lab.guests_at_a_failure().iter().for_each(|line| say::line(line));
        }
    }
    Attempt { result, emulation }
}

const fn lab_vmm(scenario: &Scenario, vmm: &'static str) -> &'static str {
    if scenario.boots_vms { vmm } else { "-" }
}

/// A host that runs, without instances.
fn recover(lab: &mut Lab) -> Result<()> {
    if !lab.machine.is_on()? || !lab.answers() {
        lab.power_cut()?;
    }
    lab.clear()
}

/// Programs that are put on the host, and which VMM they prove.
struct Proved {
    firecracker: Option<(PathBuf, PathBuf)>,
    released: bool,
    described: String,
}

/// Disks, machine, the way in.
fn prepare(options: &Options, large: bool) -> Result<(Lab, Proved)> {
    let target = shell::target();
    let below = target.join("lab");
    std::fs::create_dir_all(&below).context("create folder", below.display())?;
    let program = match &options.fireclaw {
        Some(program) => program.clone(),
        None => built()?,
    };
    let key = below.join("key/id");
    let public = keys::ensure_user_key(&key, &keys::SystemEntropy)?.public;
    let host = disk::host(&below, &format!("{public}\n"))?;
    let default = match &options.image {
        _ if !large => None,
        Some(image) => Some(image.clone()),
        None => match images::default_image(&target) {
            Ok(image) => Some(image),
            Err(error) => {
                say::line(&error.one_line());
                None
            }
        },
    };
    let images = images::disk(&below, &program, default.as_deref())?;
    let machine = Machine::new(&below.join("run"), host, &images)?;
    let remote = Remote::new(&key, machine.ssh_port)?;
    let proved = proved(options)?;
    let vmm = if proved.firecracker.is_some() { "firecracker" } else { "qemu" };
    let large = default.is_some();
    let lab = Lab {
        machine,
        remote,
        vmm,
        released: proved.released,
        program,
        bash_fireclaw: std::env::var_os("BASH_FIRECLAW").map(PathBuf::from),
        large,
        boot_id: String::new(),
    };
    Ok((lab, proved))
}

fn built() -> Result<PathBuf> {
    if !shell::attach("cargo", &["build", "--release", "--locked", "--package", "fireclaw"])? {
        return Err(Error::new("build", "fireclaw"));
    }
    Ok(shell::release())
}

/// Firecracker and its jailer, where this machine has them.
pub fn firecracker() -> Option<(PathBuf, PathBuf)> {
    let find = |variable: &str, program: &str| {
        std::env::var_os(variable).map(PathBuf::from).or_else(|| SystemExec::default().which(program))
    };
    find("FIRECRACKER_BIN", "firecracker").zip(find("JAILER_BIN", "jailer"))
}

/// What the scenarios are going to prove.
fn proved(options: &Options) -> Result<Proved> {
    let found = firecracker();
    if options.vmm == Some(Vmm::Qemu) || (found.is_none() && options.vmm.is_none()) {
        return Ok(Proved {
            firecracker: None,
            released: false,
            described: "QEMU with the lab's KVM, not on Firecracker".to_owned(),
        });
    }
    let Some((firecracker, jailer)) = found else {
        return Err(Error::new("find", "firecracker and jailer")
            .because("neither FIRECRACKER_BIN and JAILER_BIN nor the PATH name them")
            .hint("leave --vmm out to run on QEMU"));
    };
    let said = shell::must(&firecracker.display().to_string(), &["--version"])?;
    let version = said.lines().next().unwrap_or_default().to_owned();
    Ok(Proved {
        // `Firecracker v1.16.1`; what was not released has more: `v1.17.0-dev-81b38b9`.
        released: !version.contains('-'),
        described: format!("{version} through its jailer"),
        firecracker: Some((firecracker, jailer)),
    })
}

/// Puts the programs on the host.
fn install(lab: &Lab, proved: &Proved) -> Result<()> {
    let put = |file: &Path, name: &str| lab.remote.put(file, &format!("/usr/local/bin/{name}"), "755");
    put(&lab.program, "fireclaw")?;
    if let Some((firecracker, jailer)) = &proved.firecracker {
        put(firecracker, "firecracker")?;
        put(jailer, "jailer")?;
    }
    Ok(())
}

/// Lays the small image into a folder of images, for others than the lab.
pub fn install_tiny(program: &Path, to: &Path) -> Result<()> {
    images::install_tiny(&shell::target().join("lab"), program, to)
}
