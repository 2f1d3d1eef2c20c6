//! Checksums. Reads the files that it is given.

use std::{fs::File, io, path::Path};

use fireclaw_core::error::{Context, Result};
use sha2::{Digest, Sha256};

/// The SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).context("read", path.display())?;
    io::copy(&mut file, &mut hasher).context("read", path.display())?;
    Ok(hex(&hasher.finalize()))
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
