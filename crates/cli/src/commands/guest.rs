//! `guest …`: the verbs that run inside a guest.

use std::io;

use fireclaw_core::error::Result;
use fireclaw_host::{exec::SystemExec, interrupt::Interrupt};

use crate::{args::GuestCommand, guest};

/// Runs a guest verb on this machine, which is the guest.
pub fn run(command: GuestCommand) -> Result<()> {
    let exec = SystemExec::new(Interrupt::from_signals()?);
    guest::run(command, io::stdin().lock(), &mut io::stdout().lock(), &exec)
}
