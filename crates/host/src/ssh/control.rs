//! The sockets of SSH's master connections: one an invocation, beside each other, named after the process that they are for.
//! Looks at their folder.

use std::path::{Path, PathBuf};

use fireclaw_core::error::Result;

use crate::fs;

/// One of an instance's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// The process that it is for.
    pub owner: i32,
    /// Whether it is listened on. OpenSSH's client makes it under another name first.
    pub is_ready: bool,
}

/// The socket of this invocation alone: closing it must not end another's session. `base` is the instance's, see
/// `InstancePaths::ssh_control`.
pub fn own(base: &Path) -> PathBuf {
    base.with_extension(std::process::id().to_string())
}

/// Those of all invocations. `base` may be any of them too.
pub fn all(base: &Path) -> Result<Vec<Socket>> {
    let (Some(folder), Some(instance)) = (base.parent(), base.file_stem()) else { return Ok(Vec::new()) };
    let read = |name: String| {
        // A listener that is not ready yet has a random part after the process.
        let rest = name.strip_prefix(&*instance.to_string_lossy())?.strip_prefix('.')?;
        let (owner, is_ready) = rest.split_once('.').map_or((rest, true), |(owner, _)| (owner, false));
        Some(Socket { path: folder.join(&name), owner: owner.parse().ok()?, is_ready })
    };
    Ok(fs::names(folder)?.into_iter().filter_map(read).collect())
}
