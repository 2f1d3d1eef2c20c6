//! `guest …`: the verbs that run inside a guest.

use std::{io, process::ExitCode};

use fireclaw_core::error::Result;
use fireclaw_host::{exec::SystemExec, interrupt::Interrupt};

use crate::{args::GuestCommand, guest};

/// Runs a guest verb on this machine, which is the guest. What `provision` has to say of a failure is its last event.
pub fn run(command: GuestCommand) -> Result<ExitCode> {
    let told = matches!(command, GuestCommand::Provision);
    let exec = SystemExec::new(Interrupt::from_signals()?);
    match guest::run(command, io::stdin().lock(), &mut io::stdout().lock(), &exec) {
        Err(error) if told => Ok(ExitCode::from(error.get_kind().exit_code())),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}
