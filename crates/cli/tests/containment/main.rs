//! What keeps a guest in, with real packets, real nft rules and a real sidecar, in network namespaces that vanish with their test.
//! The internet, its resolvers and its providers are namespaces as well, without a route out.
//!
//! Needs root; without it the tests fail.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod attacks;
mod client;
mod commands;
mod cores;
#[allow(dead_code, reason = "shared with the tests of the network")]
#[path = "../../../host/tests/network/frame.rs"]
mod frame;
#[allow(dead_code, reason = "shared with the tests of the network")]
#[path = "../../../host/tests/network/guest.rs"]
mod guest;
mod keys;
#[allow(dead_code, reason = "shared with the tests of the network")]
#[path = "../../../host/tests/network/lab.rs"]
mod lab;
#[allow(dead_code, reason = "shared with the tests of QEMU")]
#[path = "../../../host/tests/qemu/guest.rs"]
mod machine;
mod names;
mod stage;
