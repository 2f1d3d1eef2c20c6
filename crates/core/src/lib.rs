//! What fireclaw decides, without touching anything: no I/O, no clock, no environment.
//!
//! Every other crate asks this one what a thing is called ([`id`]), where it lies ([`layout`]), what a user meant
//! ([`spec`]), what is recorded of an instance ([`state`]), which addresses are free ([`alloc`]), what a command is going
//! to do ([`plan`]) and what the files it writes look like ([`render`]).
#![forbid(unsafe_code)]

pub mod activity;
pub mod alloc;
pub mod audit;
pub mod broker;
pub mod egress;
pub mod error;
pub mod guest;
pub mod id;
pub mod layout;
pub mod plan;
pub mod render;
pub mod report;
pub mod secret;
pub mod sidecar;
pub mod snapshot;
pub mod spec;
pub mod state;
