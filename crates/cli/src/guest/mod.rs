//! The guest's side: `fireclaw guest …`, started over SSH or by a unit, as root in the VM. Writes files below /etc, /var and the gateway's
//! home, drives systemd, Docker and apt, and answers on standard output.
//!
//! `provision` reads one JSON request and prints one JSON event a line; `seed`, which a unit starts, prints a line for the journal; the
//! other verbs print one JSON object. What to write is decided in [`fireclaw_core::guest`]; here it is done.

mod account;
mod browser;
mod config;
mod docker;
mod events;
mod files;
mod info;
mod native;
mod packages;
mod probe;
mod provision;
mod seed;
mod service;
mod trim;

use std::{
    io::{Read, Write},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    guest::{
        GATEWAY_PORT,
        gate::{self, HealthReport, Reading},
        paths::GuestPaths,
        protocol::{Failure, ProvisionRequest},
    },
    id::InstanceId,
};
use fireclaw_host::{exec::Exec, interrupt::Interrupt};
use serde::Serialize;

use crate::args::GuestCommand;

use self::{events::Events, files::Files, probe::Gateway, service::Service};

/// Does it in this machine, which is the guest.
pub fn run(command: GuestCommand, stdin: impl Read, out: &mut dyn Write, exec: &dyn Exec) -> Result<()> {
    let guest = Guest {
        files: Files::new(GuestPaths::default()),
        exec,
        gateway: &probe::Loopback(GATEWAY_PORT),
        interrupt: Interrupt::default(),
        hang: service::HANG,
    };
    guest.run(command, stdin, out)
}

/// The largest request that is read.
const REQUEST_MAX: u64 = 1 << 20;

/// The lines of the gateway's log that a failure is shown with.
const LOG_LINES: &str = "20";

/// The guest and the ways to touch it. Tests bring their own.
struct Guest<'a> {
    files: Files,
    exec: &'a dyn Exec,
    gateway: &'a dyn Gateway,
    interrupt: Interrupt,
    /// How long a gateway may take to end once it no longer listens.
    hang: Duration,
}

impl Guest<'_> {
    fn run(&self, command: GuestCommand, stdin: impl Read, out: &mut dyn Write) -> Result<()> {
        match command {
            GuestCommand::Provision => {
                let mut events = Events::new(out);
                let done =
                    read_request(stdin).and_then(|request| provision::provision(self, &request, &mut events));
                match done {
                    Ok(done) => events.done(done),
                    Err(error) => {
                        events.failed(Failure::from(&error));
                        return Err(error);
                    }
                }
                Ok(())
            }
            GuestCommand::Health { id } => print(out, &self.health(&id.parse()?)?),
            GuestCommand::Stop { id, timeout } => {
                print(out, &self.service(&id.parse()?).stop(Duration::from_secs(timeout))?)
            }
            GuestCommand::Info => print(out, &info::info(self)?),
            GuestCommand::Trim => print(out, &trim::trim(&self.files)?),
            GuestCommand::Seed => {
                let said = seed::apply(self)?;
                writeln!(out, "{said}").context("write", "what was done")
            }
        }
    }

    fn service<'s>(&'s self, instance: &InstanceId) -> Service<'s> {
        Service::new(self, instance)
    }

    fn health(&self, instance: &InstanceId) -> Result<HealthReport> {
        let service = self.service(instance);
        let unit = service.state()?;
        let reading: Reading = gate::read(|path| self.gateway.get(path));
        let log = if unit.has_failed() { service.log(LOG_LINES) } else { Vec::new() };
        Ok(HealthReport::new(unit, reading, log))
    }
}

fn read_request(stdin: impl Read) -> Result<ProvisionRequest> {
    let mut text = String::new();
    stdin.take(REQUEST_MAX + 1).read_to_string(&mut text).context("read", "the request")?;
    if text.len() as u64 > REQUEST_MAX {
        return Err(Error::refused("request", "<hidden>", "is larger than a mebibyte"));
    }
    ProvisionRequest::parse(&text)
}

fn print(out: &mut dyn Write, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(report).context("render", "the report")?;
    writeln!(out, "{text}").and_then(|()| out.flush()).context("write", "the report")
}

#[cfg(test)]
mod tests;
