//! `cargo xtask ci`: every check and test in one run, with what was left out in the last lines. Starts cargo and the
//! package manager.

use std::time::{Duration, Instant};

use fireclaw_core::error::{Error, Result};

use crate::{dist, e2e, lab, say, shell};

/// Debian packages that the tests need beside what the product installs itself: a program to find them by, and the
/// package. The kernel objects that our code makes are checked by these other programs.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("mke2fs", "e2fsprogs"),
    ("mcopy", "mtools"),
    ("mkfs.fat", "dosfstools"),
    ("blkid", "util-linux"),
    ("mkfs.xfs", "xfsprogs"),
    ("socat", "socat"),
    ("curl", "curl"),
    ("gcc", "gcc"),
    ("mmdebstrap", "mmdebstrap"),
    ("busybox", "busybox-static"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("man", "man-db"),
    ("pgrep", "procps"),
    ("dpkg-deb", "dpkg"),
    ("npm", "npm"),
    ("node", "nodejs"),
    ("lintian", "lintian"),
    ("systemd-analyze", "systemd"),
];

/// A machine that is slower than most leaves scenarios of the lab out, and says so, rather than run for hours.
const LAB_BEGINS_WITHIN: Duration = Duration::from_mins(45);

/// One check.
struct Check {
    name: &'static str,
    run: fn() -> Result<bool>,
}

const CHECKS: &[Check] = &[
    Check { name: "format", run: || cargo(&["fmt", "--all", "--check"]) },
    Check {
        name: "lints",
        run: || {
            cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])
        },
    },
    Check {
        name: "dependencies",
        run: || cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
    },
    Check {
        name: "tests",
        run: || {
            cargo(&[
                "nextest",
                "run",
                "--workspace",
                "--locked",
                "--no-fail-fast",
                "--cargo-quiet",
                "--show-progress=none",
                "--status-level=fail",
                "--final-status-level=fail",
            ])
        },
    },
    Check {
        name: "release build",
        run: || cargo(&["build", "--release", "--locked", "--quiet", "--package", "fireclaw"]),
    },
    Check { name: "packages", run: || dist::run(&dist::Options { check: true, ..dist::Options::default() }) },
];

/// Runs everything. `Ok(false)` when a check failed.
pub fn run(fast: bool, all: bool) -> Result<bool> {
    let begun = Instant::now();
    install()?;
    let mut skipped = vec![
        "real_openclaw, 3 tests: they need a folder with OpenClaw (FIRECLAW_TEST_OPENCLAW); the end-to-end cases prove the same in a VM".to_owned(),
    ];
    if !all {
        skipped.push("long end-to-end cases: listed above; `cargo xtask ci --all` runs them".to_owned());
    }
    let mut rows = Vec::new();
    for check in CHECKS {
        say::head(check.name);
        let at = Instant::now();
        let ok = (check.run)()?;
        rows.push((check.name, ok, at.elapsed().as_secs()));
        // What does not build cannot be tested; the other checks go on, to show all at once.
        if !ok && check.name == "release build" {
            break;
        }
    }
    advisories(&mut rows, &mut skipped)?;
    if fast {
        skipped.push("end to end, lab: left out by --fast".to_owned());
    } else {
        let at = Instant::now();
        let ok = e2e::run(&e2e::Options { all, ..e2e::Options::default() })?;
        rows.push(("end to end", ok, at.elapsed().as_secs()));
        the_lab(begun, &mut rows, &mut skipped)?;
    }
    say::head("summary");
    for (name, ok, seconds) in &rows {
        say::line(&format!("{} {name:<16} {seconds:>5} s", if *ok { "ok  " } else { "FAIL" }));
    }
    for reason in &skipped {
        say::line(&format!("skip {reason}"));
    }
    say::line(&format!("{} s in all", begun.elapsed().as_secs()));
    Ok(rows.iter().all(|(_, ok, _)| *ok))
}

/// The lab's scenarios: on Firecracker where there is one to prove, else on QEMU with the lab's KVM. The lab's last lines say which.
fn the_lab(
    begun: Instant,
    rows: &mut Vec<(&'static str, bool, u64)>,
    skipped: &mut Vec<String>,
) -> Result<()> {
    if begun.elapsed() > LAB_BEGINS_WITHIN {
        skipped.push("lab: the time of this run is used up; `cargo xtask lab` runs it".to_owned());
        return Ok(());
    }
    if lab::firecracker().is_none() {
        skipped.push(
            "lab on Firecracker: neither the PATH nor FIRECRACKER_BIN and JAILER_BIN name one; its scenarios ran on QEMU".to_owned(),
        );
    }
    skipped.push("the lab's long scenarios: listed above; `cargo xtask lab --all` runs them".to_owned());
    let at = Instant::now();
    let ok = lab::run(&lab::Options {
        fireclaw: Some(shell::release()),
        begin_before: Some(begun + LAB_BEGINS_WITHIN),
        ..lab::Options::default()
    })?;
    rows.push(("lab", ok, at.elapsed().as_secs()));
    Ok(())
}

fn cargo(args: &[&str]) -> Result<bool> {
    shell::attach("cargo", args)
}

/// The advisory database is fetched from the net, and without it there is nothing to compare with.
fn advisories(rows: &mut Vec<(&'static str, bool, u64)>, skipped: &mut Vec<String>) -> Result<()> {
    say::head("advisories");
    let at = Instant::now();
    let reachable =
        shell::ask("git", &["ls-remote", "--exit-code", "https://github.com/RustSec/advisory-db", "HEAD"])
            .is_ok_and(|output| output.status.success());
    if reachable {
        rows.push((
            "advisories",
            cargo(&["deny", "--log-level", "error", "check", "advisories"])?,
            at.elapsed().as_secs(),
        ));
    } else {
        say::line("the advisory database cannot be reached from here");
        skipped.push("advisories: the database at github.com cannot be reached from here".to_owned());
    }
    Ok(())
}

/// Installs what the checks need and the machine lacks.
fn install() -> Result<()> {
    say::head("tools");
    install_packages()?;
    // Another version of one package may have pushed out a second that was there before.
    install_packages()?;
    for (subcommand, package) in [("nextest", "cargo-nextest"), ("deny", "cargo-deny")] {
        let there = shell::attach("cargo", &[subcommand, "--version"])?;
        if !there && !cargo(&["install", "--locked", "--target", host_triple(), package])? {
            return Err(Error::new("install", package).because("cargo install failed"));
        }
    }
    Ok(())
}

/// Those whose program is missing, by the package manager.
fn install_packages() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| !shell::has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say::line(&format!("installing {}", missing.join(" ")));
    let mut args = vec!["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install"];
    args.extend(&missing);
    let done = shell::attach("apt-get", &["-q", "update"])?
        && shell::attach("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], args.as_slice()].concat())?;
    if done {
        return Ok(());
    }
    Err(Error::new("install", missing.join(" ")).because("apt-get failed"))
}

/// `cargo install` would take the workspace's target setting; any target does for a tool.
fn host_triple() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" }
}
