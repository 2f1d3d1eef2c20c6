//! Keeps a base for an instance, so that its image can be rebuilt or removed. Touches the two places where the base is kept;
//! the base itself, its owner and its mode stay as they are: others run from it.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use fireclaw_core::error::{Context, Result};

use super::{Kept, copy_sparse, part};
use crate::{fs, interrupt::Interrupt};

/// Makes `link` lead to the file that `base` is now. Where no hard link reaches `link` the file is kept as `pin`, which lies
/// on the filesystem of the images. Each run replaces what an earlier one left.
pub(super) fn keep(base: &Path, link: &Path, pin: &Path) -> Result<Kept> {
    // A link of a symbolic link would follow the next image.
    let real = base.canonicalize().context("find", base.display())?;
    fs::remove_file(link)?;
    fs::remove_file(pin)?;
    let kept = if std::fs::hard_link(&real, link).is_ok() {
        Kept::Linked
    } else if pinned(&real, pin)? {
        symlink(pin, link).context("link", link.display())?;
        Kept::Beside
    } else {
        let new = part::path_for(link);
        copy_sparse(&real, &new, &Interrupt::default())?;
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644))
            .context("set the mode of", new.display())?;
        std::fs::rename(&new, link).context("create", link.display())?;
        Kept::Copied
    };
    fs::sync_dir(link.parent().unwrap_or_else(|| Path::new(".")))?;
    Ok(kept)
}

/// Whether the file has a second name beside the images now.
fn pinned(real: &Path, pin: &Path) -> Result<bool> {
    let folder = pin.parent().unwrap_or_else(|| Path::new("."));
    fs::make_private_dir(folder)?;
    if std::fs::hard_link(real, pin).is_err() {
        return Ok(false);
    }
    fs::sync_dir(folder)?;
    Ok(true)
}
