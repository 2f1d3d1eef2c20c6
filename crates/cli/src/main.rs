//! The binary: parses, runs, prints the one error, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    fireclaw::main(std::env::args_os())
}
