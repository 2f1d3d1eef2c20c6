//! The project's own commands: `cargo xtask ci` is every check there is, and what CI runs.

mod attacker;
mod bench;
mod ci;
mod container;
mod dist;
#[cfg(test)]
mod documents;
mod e2e;
mod lab;
mod only;
mod record;
mod rollup;
mod say;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every check and test, the end-to-end ones included; installs what they need
    Ci {
        /// Leave the end-to-end tests out (said in the last lines)
        #[arg(long)]
        fast: bool,
        /// The long end-to-end cases too
        #[arg(long, conflicts_with = "fast")]
        all: bool,
    },
    /// Figures, written to docs/BENCHMARKS.md
    Bench {
        /// Only a real gateway's start in a VM, beside a plain one (half an hour, emulated; printed)
        #[arg(long)]
        gateway: bool,
    },
    /// What is published: the static program, a Debian package, an npm package, in target/dist
    Dist(dist::Options),
    /// The end-to-end tests: a real VM with a real OpenClaw
    E2e(e2e::Options),
    /// Scenarios on a whole host in a VM: systemd, KVM, Firecracker, reboots, power cuts, neighbours
    Lab(lab::Options),
    /// The hosts of the end-to-end tests' internet, in a network namespace of their own
    #[command(hide = true)]
    Internet(e2e::internet::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Ci { fast, all } => ci::run(fast, all),
        Command::Bench { gateway } => bench::run(gateway),
        Command::Dist(options) => dist::run(&options),
        Command::E2e(options) => e2e::run(&options),
        Command::Lab(options) => lab::run(&options),
        Command::Internet(options) => e2e::internet::serve(&options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say::line(&format!("error: {}", error.one_line()));
            if let Some(hint) = error.get_hint() {
                say::line(&format!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}
