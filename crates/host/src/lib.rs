//! Every effect of fireclaw on a host, one module a kind of thing, each behind a small trait with a real version and one
//! in memory for tests.
//!
//! Only [`exec`] starts programs, only [`tap`] and the few places that say why use `unsafe`.

pub mod apt;
pub mod cgroup;
pub mod cores;
pub mod disk;
pub mod download;
pub mod embedded;
pub mod exec;
pub mod firecracker;
pub mod fs;
pub mod http;
pub mod image;
pub mod inspect;
pub mod interrupt;
pub mod keys;
pub mod link;
pub mod lock;
pub mod memory;
pub mod network;
pub mod nft;
pub mod probe;
pub mod proc;
pub mod qemu;
pub mod requests;
pub mod seed;
pub mod snapshot;
pub mod ssh;
pub mod supervisor;
pub mod systemd;
pub mod tap;
pub mod vmm;
pub mod wait;
