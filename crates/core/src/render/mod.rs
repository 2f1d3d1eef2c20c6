//! Text that fireclaw writes: structs rendered to what another program reads. Pure; golden-tested.

pub mod firecracker;
pub mod qemu;
