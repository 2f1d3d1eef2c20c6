//! Checksums of files. Reads them.

use std::{fs::File, io, path::Path};

use fireclaw_core::error::{Context, Result};
use sha2::{Digest, Sha256};

/// The SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).context("read", path.display())?;
    io::copy(&mut file, &mut hasher).context("read", path.display())?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
