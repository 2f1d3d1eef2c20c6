//! Base images: kernel, initrd, root filesystem, and a manifest that says what went in. Touches `BASE_IMAGES_DIR`, and while it
//! builds the package mirrors.
//!
//! ```text
//! fetch tools ─> root filesystem ─> OpenClaw ─> customise ─> initrd and kernel ─> warm caches ─> pack ─> publish
//! ```
//!
//! Each step leaves a stamp keyed by what goes into it; the next run begins where the last one failed.

mod build;
mod check;
pub mod customise;
pub mod initrd;
mod kernel;
mod manifest;
mod npm;
mod pvh;
pub mod recipe;
mod store;
pub mod tree;

#[cfg(test)]
mod ramdisk_tests;

use std::path::PathBuf;

use fireclaw_core::id::ImageName;

pub use self::{
    build::build,
    check::{check_ext4, check_kernel},
    manifest::{Boot, Manifest, read as read_manifest},
    pvh::has_pvh_entry,
    store::{ImportRequest, Listed, import, inspect, list, remove, unpack_kernel},
};

#[cfg(any(test, feature = "fakes"))]
pub use self::kernel::fake as fake_kernel;

/// Programs of the host that building takes, each with its Debian package.
pub const HOST_PROGRAMS: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("curl", "curl"),
    ("tar", "tar"),
    ("chroot", "coreutils"),
    ("unshare", "util-linux"),
    ("mke2fs", "e2fsprogs"),
    ("update-ca-certificates", "ca-certificates"),
];

/// What an image is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The image's name.
    pub name: ImageName,
    /// The distribution's release.
    pub suite: String,
    /// The package mirror, where it is not the distribution's own.
    pub mirror: Option<String>,
    /// Docker in it.
    pub docker: bool,
    /// Chromium in it.
    pub browser: bool,
    /// OpenClaw from npm.
    pub openclaw_version: String,
    /// Node from npm.
    pub node_version: String,
    /// The program that becomes the guest's side of fireclaw.
    pub guest_binary: PathBuf,
}

impl BuildRequest {
    /// The defaults.
    pub fn new(name: ImageName, guest_binary: PathBuf) -> Self {
        Self {
            name,
            suite: "trixie".to_owned(),
            mirror: None,
            docker: true,
            browser: true,
            openclaw_version: "2026.9.6".to_owned(),
            node_version: "26.10.0".to_owned(),
            guest_binary,
        }
    }
}

/// Who watches a build.
pub trait Progress {
    /// A step begins.
    fn begin(&mut self, step: &str);
    /// Something happens inside it.
    fn detail(&mut self, line: &str);
    /// It ended.
    fn end(&mut self, step: &str, ms: u64, ok: bool);
}
