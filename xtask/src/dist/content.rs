//! The files that packages are made of, as values, and their way to a disk: every path, mode and time is said here, none is
//! left to the machine that packs. Man pages and completions come from the definition of the command line.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use fireclaw_core::error::{Context, Result};
use nix::sys::{
    stat::{UtimensatFlags, utimensat},
    time::TimeSpec,
};

/// What a file is.
pub enum Body {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link.
    Link(String),
}

/// One file of a package.
pub struct File {
    /// Below the package's root, without a slash in front.
    pub path: String,
    /// Its mode; that of a link does not count.
    pub mode: u32,
    /// What it is.
    pub body: Body,
}

impl File {
    /// A file that everybody may read.
    pub fn data(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, body: Body::Bytes(content.into()) }
    }

    /// A program.
    pub fn program(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { mode: 0o755, ..Self::data(path, content) }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, to: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o777, body: Body::Link(to.into()) }
    }
}

/// The manual: a page a command, by name.
pub fn man_pages() -> Result<Vec<(String, Vec<u8>)>> {
    let dir = tempfile::tempdir().context("make", "a temporary folder")?;
    fireclaw::commands::completion::man(fireclaw::ui::Ui::plain(), Some(dir.path()))?;
    fireclaw_host::fs::names(dir.path())?
        .into_iter()
        .map(|name| {
            let page = fs::read(dir.path().join(&name)).context("read", &name)?;
            Ok((name, page))
        })
        .collect()
}

/// Packed as `gzip -9n` does: without name and time.
pub fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(content).and_then(|()| packed.finish()).context("pack", "a file")
}

/// Writes files below a folder, every one, every folder and every link with the same time.
pub fn write(files: &[File], root: &Path, time: i64) -> Result<()> {
    let mut folders = vec![root.to_owned()];
    for file in files {
        let path = root.join(&file.path);
        let mut missing: Vec<_> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
        missing.reverse();
        for folder in missing {
            fs::create_dir(folder).context("create folder", folder.display())?;
            folders.push(folder.to_owned());
        }
        match &file.body {
            Body::Bytes(content) => {
                fs::write(&path, content).context("write", path.display())?;
                set_mode(&path, file.mode)?;
            }
            Body::Link(to) => symlink(to, &path).context("link", path.display())?,
        }
        set_time(&path, time)?;
    }
    // Last, for a folder's time changes with what is put into it; and the umask may have closed it.
    for folder in folders.iter().rev() {
        set_mode(folder, 0o755)?;
        set_time(folder, time)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).context("set the mode of", path.display())
}

fn set_time(path: &Path, time: i64) -> Result<()> {
    let time = TimeSpec::new(time, 0);
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .context("set the time of", path.display())
}
