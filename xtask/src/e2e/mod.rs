//! The end-to-end tests: this build of fireclaw, a real VM, a real OpenClaw, every command, bad input, and a kill -9 in the
//! middle. Runs as root in a network namespace of its own, whose only neighbour is the tests' internet.
//!
//! The image is built outside of it, from the package registries. Everything else has no route to any real network.

mod agent;
mod attacks;
mod bash;
mod cli;
mod clone;
mod configuration;
mod crash;
mod disks;
mod docker;
mod faults;
mod figures;
mod guest;
pub mod internet;
mod lifecycle;
mod many;
mod search;
mod setup;
mod stock;
mod traces;
mod world;

use std::{path::PathBuf, time::Instant};

use clap::Args;
use fireclaw_core::error::{Context, Error, Result};

use self::world::World;
use crate::{only, say, shell};

/// What to run.
#[allow(clippy::struct_excessive_bools)] // Each is a flag of the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Only the cases whose names contain one of these
    pub only: Vec<String>,
    /// The program under test [default: target/…/release/fireclaw, built first]
    #[arg(long)]
    pub fireclaw: Option<PathBuf>,
    /// Where state, instances and images go [default: target/e2e]
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// The long cases too
    #[arg(long)]
    pub all: bool,
    /// Leave instances and logs behind
    #[arg(long)]
    pub keep: bool,
    /// Show what every case does, not only the failed ones
    #[arg(long, short)]
    pub verbose: bool,
    /// This process is inside the namespace already
    #[arg(long, hide = true)]
    pub inside: bool,
}

/// One case: a name, and what it does. Cases share the VM that `setup` makes and run in this order.
pub struct Case {
    name: &'static str,
    /// Whether later cases make no sense when this one fails.
    base: bool,
    /// Runs with `--all` or by name only; said in the last lines.
    long: bool,
    /// Makes instances of its own: asked for by name, it does without the shared one.
    alone: bool,
    /// What it needs of the machine's own network, made before the cases, which have none.
    before: Option<fn(&World) -> Result<()>>,
    run: fn(&mut World) -> Result<()>,
}

impl Case {
    fn is_named(&self, options: &Options) -> bool {
        options.only.iter().any(|part| self.name.contains(part))
    }
}

/// Which of all cases these options ask for.
fn asked_for(all: &[Case], options: &Options) -> Vec<bool> {
    let mut named = all.iter().filter(|case| case.is_named(options)).peekable();
    let alone = named.peek().is_some() && named.all(|case| case.alone);
    all.iter()
        .map(|case| {
            if options.only.is_empty() {
                !case.long || options.all
            } else {
                case.is_named(options) || (case.base && !(alone && case.name == SETUP))
            }
        })
        .collect()
}

/// The case that makes the shared instance.
const SETUP: &str = "setup";

const fn case(name: &'static str, run: fn(&mut World) -> Result<()>) -> Case {
    Case { name, base: false, long: false, alone: false, before: None, run }
}

const fn long(name: &'static str, run: fn(&mut World) -> Result<()>) -> Case {
    Case { long: true, ..case(name, run) }
}

const fn base(name: &'static str, run: fn(&mut World) -> Result<()>) -> Case {
    Case { base: true, ..case(name, run) }
}

/// The case that `cargo xtask bench --gateway` runs.
pub const GATEWAY_START: &str = "a gateway's start beside a plain one";

/// All cases, in order. What needs no VM comes first.
fn cases() -> Vec<Case> {
    vec![
        base("the internet of the tests is closed", internet::is_closed),
        case("doctor reports", cli::doctor),
        case("image list and inspect", cli::images),
        case("image import and remove", cli::import_and_remove),
        case("refused values", cli::refused_values),
        case("refused files", cli::refused_files),
        case("dry runs change nothing", cli::dry_runs),
        case("completions and man pages", cli::completions_and_man),
        case("a full disk leaves nothing", faults::full_disk),
        case("kill -9 of setup before the guest", crash::setup_before_the_guest),
        case("Ctrl-C of setup leaves nothing", crash::interrupted_setup),
        Case { alone: true, before: Some(many::image), ..long("sixteen at once", many::sixteen) },
        base(SETUP, setup::setup),
        case("a second setup of the same id", setup::second_setup),
        case("health through the proxy", setup::health),
        case("list and status", setup::list_and_status),
        case("token", setup::token),
        case("the base is shared and nobody writes it", disks::shared_base),
        case("logs", lifecycle::logs),
        case("shell", guest::shell),
        case("values arrive byte for byte", guest::values),
        case("the boot left nothing out", guest::boot),
        case("modules of OpenClaw are found by their names", guest::preload),
        case("the guest is walled in", guest::walls),
        case("a whole agent turn, its key on the host", agent::turn),
        case("the key is nowhere in the guest", agent::key_is_nowhere),
        case("attacks on keys and names from inside", attacks::keys_and_names),
        case("provision changes settings and keeps hand edits", guest::provision),
        case("provision refuses without changing", guest::provision_refused),
        long("kill -9 of provision", crash::provision),
        long(GATEWAY_START, figures::gateway_start),
        case("the VM is killed and comes back", faults::vm_killed),
        case("the supervisor is killed and replaced", faults::supervisor_killed),
        case("the guest powers itself off", faults::powered_off),
        case("start", lifecycle::start),
        case("the state disk was kept over all that", disks::state_is_kept),
        case("graceful stop", lifecycle::stop),
        long("clone", clone::clone),
        long("the guest's SSH is gone", faults::ssh_gone),
        long("stop without SSH", lifecycle::stop_without_ssh),
        long("kill -9 of stop", crash::stop),
        long("an instance of the Bash fireclaw", bash::takes_over),
        case("a damaged record among good ones", faults::damaged_record),
        case("kill -9 of destroy", crash::destroy),
        long("kill -9 of setup in the guest's part", crash::setup_in_the_guest),
        long("the Docker runtime", docker::runtime),
        Case {
            alone: true,
            before: Some(stock::files),
            ..long("a stock root filesystem", stock::provisioned)
        },
        case("destroy", lifecycle::destroy_all),
    ]
}

/// Runs the cases. `Ok(false)` when one failed.
pub fn run(options: &Options) -> Result<bool> {
    if options.inside {
        return inside(options);
    }
    if !nix_is_root() {
        return Err(Error::new("run", "the end-to-end tests")
            .because("they need root")
            .hint("run them as root"));
    }
    only::each_is_known(&options.only, &cases().iter().map(|case| case.name).collect::<Vec<_>>())?;
    say::head("end to end: the program and its image");
    let world = World::new(options)?;
    if options.fireclaw.is_none() {
        let built = shell::attach("cargo", &["build", "--release", "--locked", "--package", "fireclaw"])?;
        if !built {
            return Err(Error::new("build", "fireclaw"));
        }
    }
    let begun = Instant::now();
    world.run_shown(&["doctor", "--fix", "--quiet"])?;
    // One of an older fireclaw would do for its users, and would not show what this one builds.
    let there = world.ask(&["image", "inspect", "default", "--json"]).is_ok_and(|seen| {
        serde_json::from_slice(&seen.stdout).is_ok_and(|it: serde_json::Value| it["format"] == 2)
    });
    if !there && !world.run_shown(&["image", "build"])? {
        return Err(Error::new("build", "the base image"));
    }
    let all = cases();
    for (case, asked) in all.iter().zip(asked_for(&all, options)) {
        if let Some(before) = case.before.filter(|_| asked) {
            before(&world)?;
        }
    }
    say::line(&format!("image ready after {} s", begun.elapsed().as_secs()));
    let program = std::env::current_exe().context("find", "this program")?;
    let mut args: Vec<String> = vec![
        "--net".into(),
        "--mount".into(),
        "--".into(),
        program.display().to_string(),
        "e2e".into(),
        "--inside".into(),
    ];
    args.extend(["--fireclaw".to_owned(), world.program.display().to_string()]);
    args.extend(["--root".to_owned(), world.root.display().to_string()]);
    for (flag, given) in [("--keep", options.keep), ("--all", options.all), ("--verbose", options.verbose)] {
        if given {
            args.push(flag.into());
        }
    }
    args.extend(options.only.iter().cloned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    shell::attach("unshare", &args)
}

fn nix_is_root() -> bool {
    shell::ask("id", &["-u"]).is_ok_and(|output| output.text() == "0")
}

/// How much of what a failed case did is shown.
const SHOWN_DETAILS: usize = 60;

fn inside(options: &Options) -> Result<bool> {
    say::verbose(options.verbose);
    let mut world = World::new(options)?;
    let internet = internet::Internet::open(&world.root)?;
    configuration::install(&world.root, &internet)?;
    world.internet = Some(internet);
    let before = traces::Traces::take(&world)?;
    let mut rows = Vec::new();
    let mut broken = None;
    let mut skipped = Vec::new();
    let all = cases();
    for (case, asked) in all.iter().zip(asked_for(&all, options)) {
        if !asked {
            skipped.extend(case.long.then_some(case.name));
            continue;
        }
        if let Some(base) = broken {
            rows.push((case.name, Some(format!("not run: `{base}` failed")), 0));
            continue;
        }
        if options.verbose {
            say::head(case.name);
        }
        let begun = Instant::now();
        let result = (case.run)(&mut world).err().map(|error| error.one_line());
        let seconds = begun.elapsed().as_secs();
        if let Some(error) = &result {
            world.collect(case.name);
            say::line(&format!("FAIL {:<48} {seconds:>5} s", case.name));
            for line in say::take_details(SHOWN_DETAILS) {
                say::line(&line);
            }
            say::line(&format!("     {error}"));
            if case.base {
                broken = Some(case.name);
            }
        } else {
            say::take_details(0);
            say::line(&format!("ok   {:<48} {seconds:>5} s", case.name));
        }
        rows.push((case.name, result, seconds));
    }
    if !options.keep {
        world.clear();
        let left = before.left_behind(&world)?;
        let verdict = (!left.is_empty()).then(|| left.join("; "));
        rows.push(("nothing is left behind", verdict, 0));
    }
    say::head("end to end: what failed and what was left out");
    for (name, error, seconds) in &rows {
        if let Some(error) = error {
            say::line(&format!("FAIL {name:<48} {seconds:>5} s"));
            say::line(&format!("     {error}"));
        }
    }
    for name in &skipped {
        say::line(&format!("skip {name}: takes minutes; `cargo xtask e2e --all` runs it"));
    }
    let failed = rows.iter().filter(|(_, error, _)| error.is_some()).count();
    say::line(&format!("{} passed, {failed} failed, {} skipped", rows.len() - failed, skipped.len()));
    Ok(failed == 0)
}
