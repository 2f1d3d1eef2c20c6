//! The command line as a library, so that tests drive it without a process.

pub mod args;
pub mod engine;
pub mod guest;
pub mod proxy;
pub mod ui;
