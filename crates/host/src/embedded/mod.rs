//! The supervisor for hosts without systemd: a small detached process an instance, `fireclaw supervise ID`, that keeps the
//! instance's services running as two units would.
//!
//! This module is both ends of it. [`EmbeddedSupervisor`] is the commands' end: it starts a supervisor where one is
//! needed, asks it over its socket, and reads the state files for a status. [`supervise`] is the process itself. It lives
//! as long as there is something to supervise, and can be killed at any time: services run on, their output waits in a
//! pipe, and the next supervisor takes over what it finds running (`machine` has the states, `record` the files).
//!
//! SIGTERM asks a supervisor to stop both services gracefully and to end; they remain wanted, so that the next command
//! after a reboot of the host brings them back. SIGHUP and SIGINT are ignored.

mod attend;
mod client;
mod console;
mod control;
mod daemon;
mod files;
mod machine;
mod pidfd;
mod record;
#[cfg(test)]
mod tests;
mod unit;

pub use client::EmbeddedSupervisor;
pub use daemon::supervise;
