//! The last step of a build: a filesystem made of the tree. Runs mke2fs.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use fireclaw_core::error::{Context, Result};

use super::Build;
use crate::{exec::Cmd, image::recipe::SOURCE_DATE_EPOCH};

impl Build<'_> {
    pub(super) fn pack(&mut self) -> Result<()> {
        let tree = self.tree();
        for folder in ["/tmp", "/var/cache/apt", "/var/lib/apt/lists", "/var/tmp"] {
            for name in crate::fs::names(&self.below(folder))? {
                crate::fs::remove_any(&self.below(folder).join(name))?;
            }
        }
        let (bytes, files) = weigh(&tree)?;
        // Room for the filesystem's own tables and for what a guest writes before its disk is looked at; instances grow it.
        let size = (bytes + bytes / 8 + (256 << 20)) >> 20;
        let image = self.work.join("out/rootfs.ext4");
        crate::fs::remove_file(&image)?;
        let file = fs::File::create(&image).context("create", image.display())?;
        file.set_len(size << 20).context("size", image.display())?;
        let cmd = Cmd::new("mke2fs")
            // The same tree gives the same filesystem, as far as mke2fs lets it.
            .env("E2FSPROGS_FAKE_TIME", SOURCE_DATE_EPOCH.to_string())
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .args(["-q", "-F", "-t", "ext4", "-L", "rootfs", "-m", "0", "-U", &uuid(&self.key)])
            // Features newer than the tools of the hosts that grow the copies.
            .args(["-O", "^metadata_csum_seed,^orphan_file", "-E"])
            .arg(format!(
                "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed={}",
                uuid(&self.key)
            ))
            .args(["-N", &(files + files / 2 + 20_000).to_string(), "-d"])
            .arg(&tree)
            .arg(&image)
            .about(image.display());
        self.run(cmd)
    }
}

/// A UUID made of the first digits of a hash.
fn uuid(hash: &str) -> String {
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or("0");
    // Version 8: made of whatever its maker likes (RFC 9562).
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// What a tree takes, hard links counted once, in whole blocks; and its number of files.
fn weigh(tree: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    let mut seen = HashSet::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).context("list", folder.display())? {
            let entry = entry.context("list", folder.display())?;
            let facts = entry.metadata().context("look at", entry.path().display())?;
            if !seen.insert(facts.ino()) {
                continue;
            }
            files += 1;
            bytes += facts.len().div_ceil(4096) * 4096;
            if facts.is_dir() {
                bytes += 4096;
                folders.push(entry.path());
            }
        }
    }
    Ok((bytes, files))
}
