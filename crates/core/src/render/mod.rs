//! Struct to text: everything that is written to a file or handed to a program. Pure, and pinned by golden files.

pub mod cgroup;
pub mod cloud_init;
pub mod firecracker;
pub mod nft;
pub mod qemu;
pub mod scripts;
pub mod systemd;
