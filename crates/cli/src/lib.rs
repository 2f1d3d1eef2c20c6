//! The command line as a library, so that tests drive it without a process.

pub mod app;
pub mod args;
pub mod audit;
pub mod clock;
pub mod commands;
pub mod containment;
mod crowd;
pub mod deadlines;
pub mod digest;
pub mod doctor;
mod draft;
pub mod engine;
pub mod fleet;
pub mod gates;
pub mod guest;
pub mod hibernate;
pub mod proxy;
pub mod rates;
pub mod secrets;
pub mod setup_checks;
pub mod sidecar;
pub mod steps;
pub mod store;
pub mod ui;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

/// Parses, runs, and prints what went wrong once.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match args::Cli::try_parse_from(args::by_older_name(argv)) {
        Ok(cli) => cli,
        // Help and version are results; anything else is a usage error, whose code is 2 as ours is.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Every command reads records, and records hold secrets. The VMM and the services inherit the limit.
    match fireclaw_host::cores::forbid().and_then(|()| commands::run(cli)) {
        Ok(code) => code,
        Err(error) => {
            ui::Ui::new(false, std::env::var_os("NO_COLOR").is_some()).error(&error);
            ui::exit_code(&error)
        }
    }
}
