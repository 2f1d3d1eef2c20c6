//! The manifest of an image: what went in, with versions and checksums, and how it boots. Reads the file it is given.

use std::{collections::BTreeMap, fmt, path::Path};

use fireclaw_core::{
    error::{Context, Error, Result},
    spec::DiskKind,
};
use serde::{Deserialize, Serialize};

/// The format of images whose base is copied for each instance.
pub const COPIED: u32 = 1;
/// The format of images whose base is shared. It says the same as the command line does; a fireclaw that knows only the
/// first refuses it, and does not boot a copy that lacks its state disk.
pub const SHARED: u32 = 2;

/// The word of a kernel command line that names the state disk to the initial ramdisk of our images.
const STATE_DISK: &str = "fireclaw.state=";

/// How an image boots. The files are names in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel that QEMU and newer Firecrackers take.
    pub kernel: String,
    /// The same as ELF, for older Firecrackers.
    pub kernel_elf: Option<String>,
    /// The initial ramdisk.
    pub initrd: Option<String>,
    /// The kernel command line.
    pub cmdline: String,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What went into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`COPIED`] or [`SHARED`].
    pub format: u32,
    /// The image's name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub built_at: String,
    /// The distribution and its release, or "imported".
    pub system: String,
    /// Where the packages came from.
    pub mirror: Option<String>,
    /// OpenClaw's version, when it is in the image.
    pub openclaw: Option<String>,
    /// Node's version.
    pub node: Option<String>,
    /// Docker is in it.
    pub docker: bool,
    /// Chromium is in it.
    pub browser: bool,
    /// How it boots.
    pub boot: Boot,
    /// Its files by name.
    pub files: BTreeMap<String, ImageFile>,
    /// Packages with their versions.
    pub packages: BTreeMap<String, String>,
    /// npm packages with their integrity as the registry states it.
    pub npm: BTreeMap<String, String>,
}

impl Manifest {
    /// Whether the native runtime is possible.
    pub const fn has_openclaw(&self) -> bool {
        self.openclaw.is_some()
    }

    /// What the disks of an instance are: what the command line expects.
    pub fn disks(&self) -> DiskKind {
        let has_state = self.boot.cmdline.split(' ').any(|word| word.starts_with(STATE_DISK));
        if has_state { DiskKind::Shared } else { DiskKind::Copy }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |has| if has { "yes" } else { "no" };
        let none = |text: &Option<String>| text.clone().unwrap_or_else(|| "no".to_owned());
        writeln!(f, "image     {}", self.name)?;
        writeln!(f, "system    {}", self.system)?;
        writeln!(f, "built     {}", self.built_at)?;
        writeln!(f, "openclaw  {}", none(&self.openclaw))?;
        writeln!(f, "node      {}", none(&self.node))?;
        writeln!(f, "docker    {}", yes(self.docker))?;
        writeln!(f, "browser   {}", yes(self.browser))?;
        writeln!(f, "disks     {}", self.disks())?;
        writeln!(f, "kernel    {}", self.boot.kernel)?;
        writeln!(f, "cmdline   {}", self.boot.cmdline)?;
        writeln!(f, "packages  {}", self.packages.len())?;
        for (name, file) in &self.files {
            writeln!(f, "file      {name}  {} MiB  sha256 {}", file.bytes >> 20, file.sha256)?;
        }
        Ok(())
    }
}

/// Reads a manifest.
pub fn read(path: &Path) -> Result<Manifest> {
    let text = std::fs::read(path).context("read", path.display())?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
        Error::new("read", path.display().to_string())
            .source(error)
            .hint("build the image again with `fireclaw image build`")
    })?;
    if ![COPIED, SHARED].contains(&manifest.format) {
        return Err(Error::new("read", path.display().to_string())
            .because(format!(
                "its format is {} and this fireclaw knows {COPIED} and {SHARED}",
                manifest.format
            ))
            .hint("build the image again with `fireclaw image build`"));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::recipe;

    fn manifest(format: u32, cmdline: &str) -> serde_json::Value {
        serde_json::json!({
            "format": format, "name": "default", "built_at": "", "system": "trixie", "mirror": null,
            "openclaw": "1", "node": "1", "docker": true, "browser": true, "files": {}, "packages": {}, "npm": {},
            "boot": {"kernel": "vmlinuz", "kernel_elf": null, "initrd": null, "cmdline": cmdline},
        })
    }

    #[test]
    fn the_command_line_says_what_the_disks_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        for (format, cmdline, disks) in
            [(COPIED, "root=/dev/vda rw quiet", DiskKind::Copy), (SHARED, recipe::CMDLINE, DiskKind::Shared)]
        {
            std::fs::write(&path, manifest(format, cmdline).to_string()).unwrap();
            assert_eq!(read(&path).unwrap().disks(), disks, "{cmdline}");
        }
        std::fs::write(&path, manifest(3, recipe::CMDLINE).to_string()).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.one_line().contains("format is 3"), "{}", error.one_line());
        assert!(error.get_hint().unwrap().contains("image build"));
    }
}
