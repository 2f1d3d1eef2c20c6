//! Installs Firecracker and its jailer from a release: fetched, compared with its published checksum, tried, and only then
//! put in place. Writes the folder of programs and a temporary one; starts curl and the two programs.
//!
//! ```text
//! can the folder be written? ─> fetch ─> checksum ─> unpack beside the old ones ─> ask both their version ─> rename
//! ```
//!
//! Whatever fails before the renames leaves the folder as it was. A VM that runs keeps its own copy of the program, in
//! its jail, and notices nothing.

mod unpack;

use std::{
    fs::{File, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    spec::{
        Arch,
        release::{CHECKSUM_SUFFIX, PROGRAMS, Source, published_sha256},
    },
};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::Version;
use crate::{
    download::download,
    exec::{Cmd, Exec},
};

/// How long a program may take to print its version, on a host that is busy.
const ANSWER: Duration = Duration::from_secs(20);

/// No program of a release is as large as this.
const PROGRAM_MAX: u64 = 256 << 20;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The version that is installed now.
    pub version: Version,
    /// False when the very same files were there already.
    pub changed: bool,
    /// Whether a published checksum was compared. A file that the user brings may have none beside it.
    pub checked: bool,
}

/// Installs both programs into a folder. `say` hears what is done.
pub fn install(
    exec: &dyn Exec,
    source: &Source,
    arch: Arch,
    into: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Done> {
    let failed = |error: Error| {
        let error = Error::new("install", "firecracker and jailer").source(error);
        if error.get_hint().is_some() {
            return error;
        }
        error.hint(
            "bring a release's tarball yourself: `fireclaw doctor --fix --firecracker-from FILE`; \
             `--vmm qemu` does without",
        )
    };
    let staged = [stage(into)?, stage(into)?];
    let checked = fill(exec, source, arch, &staged, say).map_err(failed)?;
    let version = try_out(exec, &staged, source).map_err(failed)?;
    let targets: Vec<PathBuf> = PROGRAMS.iter().map(|program| into.join(program)).collect();
    let mut same = true;
    for (new, old) in staged.iter().zip(&targets) {
        same &= old.is_file() && digest(new)? == digest(old)?;
    }
    if same {
        return Ok(Done { version, changed: false, checked });
    }
    // The jailer first: whoever looks between the two renames finds two versions, and says so.
    for (new, target) in staged.into_iter().zip(&targets).rev() {
        new.persist(target)
            .map_err(|error| Error::new("install", target.display().to_string()).source(error.error))?;
    }
    crate::fs::sync_dir(into)?;
    Ok(Done { version, changed: true, checked })
}

/// An empty file on the filesystem of the target, which disappears unless it is put in place. This is also the look
/// whether the folder can be written, before anything is fetched.
fn stage(into: &Path) -> Result<TempPath> {
    let made = std::fs::create_dir_all(into).and_then(|()| {
        tempfile::Builder::new()
            .prefix(".new-firecracker-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(into)
    });
    match made {
        Ok(file) => Ok(file.into_temp_path()),
        Err(error) => Err(Error::new("install", format!("firecracker into {}", into.display()))
            .source(error)
            .hint(format!(
                "{} must be writable: run as root, on a filesystem that is not read-only",
                into.display()
            ))),
    }
}

/// Fills the staged files from the source. Says whether a published checksum was compared.
fn fill(
    exec: &dyn Exec,
    source: &Source,
    arch: Arch,
    staged: &[TempPath; 2],
    say: &mut dyn FnMut(&str),
) -> Result<bool> {
    match source {
        Source::Url(url) => {
            let dir = tempfile::tempdir().context("make", "a temporary folder")?;
            let name = url.rsplit('/').next().unwrap_or_default();
            let (tarball, sums) = (dir.path().join("release.tgz"), dir.path().join("sums"));
            say(&format!("fetching {url}"));
            let published = format!("{url}{CHECKSUM_SUFFIX}");
            download(exec, &published, &sums, None, &published)?;
            download(exec, url, &tarball, None, url)?;
            let text = std::fs::read(&sums).context("read", sums.display())?;
            compare(&tarball, name, &String::from_utf8_lossy(&text))?;
            unpack::tarball(&tarball, url, arch, staged)?;
            Ok(true)
        }
        Source::Path(path) if path.is_dir() => {
            say(&format!("copying from {}", path.display()));
            unpack::folder(path, arch, staged)?;
            Ok(false)
        }
        Source::Path(path) => {
            if !path.is_file() {
                return Err(Error::new("find", path.display().to_string())
                    .kind(Kind::Refused)
                    .because("it is neither a release's tarball nor a folder"));
            }
            say(&format!("unpacking {}", path.display()));
            let mut beside = path.clone().into_os_string();
            beside.push(CHECKSUM_SUFFIX);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let published = crate::fs::read_if_there(Path::new(&beside))?;
            if let Some(text) = &published {
                compare(path, &name, text)?;
            }
            unpack::tarball(path, &path.display().to_string(), arch, staged)?;
            Ok(published.is_some())
        }
    }
}

fn compare(tarball: &Path, name: &str, published: &str) -> Result<()> {
    let failed = |why: String| Error::new("trust", name.to_owned()).because(why);
    let Some(wanted) = published_sha256(published, name) else {
        return Err(failed(format!("{name}{CHECKSUM_SUFFIX} states no sha256 for it")));
    };
    let seen = digest(tarball)?;
    if seen == wanted {
        return Ok(());
    }
    Err(failed(format!("its sha256 is {seen} and the published one is {wanted}"))
        .hint("it was damaged or changed on its way: fetch it again, and install nothing if it stays so"))
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).context("read", path.display())?;
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).context("read", path.display())? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&chunk[..read]),
        }
    }
}

/// Asks both staged programs for their version: they run here, and they belong together.
fn try_out(exec: &dyn Exec, staged: &[TempPath; 2], source: &Source) -> Result<Version> {
    let mut versions = Vec::new();
    for (file, program) in staged.iter().zip(PROGRAMS) {
        std::fs::set_permissions(file, Permissions::from_mode(0o755))
            .context("set the mode of", file.display())?;
        let about = format!("{program} of {source}");
        let said = exec.check(Cmd::new(file).arg("--version").deadline(ANSWER).about(&about))?.text();
        versions.push(
            Version::in_text(&said).ok_or_else(|| {
                Error::new("read the version of", about).because(format!("it says {said:?}"))
            })?,
        );
    }
    if versions[0] != versions[1] {
        return Err(Error::new("use", source.to_string())
            .because(format!("its firecracker is {} and its jailer {}", versions[0], versions[1])));
    }
    Ok(versions[0])
}
