//! The two programs out of a release's tarball or folder. Reads the one, writes the staged files.
//!
//! Nothing is unpacked by the name that a tarball gives: the two entries that are wanted are copied into files that are
//! open already. A tarball with an entry that would leave its folder is refused as a whole all the same: it is none of
//! Firecracker's.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Component, Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    spec::{
        Arch,
        release::{PROGRAMS, folder as release_folder, version_of},
    },
};
use tar::EntryType;

use super::PROGRAM_MAX;

/// Fills the staged files, in the order of [`PROGRAMS`], from a tarball. `what` names it in errors.
pub(super) fn tarball(path: &Path, what: &str, arch: Arch, staged: &[impl AsRef<Path>; 2]) -> Result<()> {
    let failed = |error: io::Error| {
        Error::new("unpack", what.to_owned()).because(match error.kind() {
            io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
            _ => error.to_string(),
        })
    };
    let refused = |why: String| Error::new("unpack", what.to_owned()).because(why);
    let file = File::open(path).context("open", path.display())?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(BufReader::new(file)));
    let mut found: [Option<String>; 2] = [None, None];
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let leaves = |path: &Path| {
            path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
        };
        if leaves(&name) {
            return Err(refused(format!("`{}` in it leads out of its folder", shown(&name))));
        }
        let Some((index, version)) = wanted(&name, arch) else { continue };
        if entry.header().entry_type() != EntryType::Regular {
            return Err(refused(format!("`{}` in it is not a regular file", shown(&name))));
        }
        if found[index].replace(version).is_some() {
            return Err(refused(format!("it has more than one {}", PROGRAMS[index])));
        }
        save(&mut entry, staged[index].as_ref()).map_err(failed)?;
    }
    // The checksum of the compression is at its very end, behind the last entry.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
    for (program, version) in PROGRAMS.iter().zip(&found) {
        if version.is_none() {
            return Err(refused(format!("it has no {program} for {}", arch.as_str())));
        }
    }
    if found[0] != found[1] {
        return Err(refused("its firecracker and its jailer are of two versions".to_owned()));
    }
    Ok(())
}

/// Which program an entry is, and of which version: `release-v1.16.1-x86_64/jailer-v1.16.1-x86_64`.
fn wanted(name: &Path, arch: Arch) -> Option<(usize, String)> {
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    let (folder, file) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let file = file.as_os_str().to_str()?;
    let (index, version) = PROGRAMS
        .iter()
        .enumerate()
        .find_map(|(index, program)| Some((index, version_of(file, program, arch)?)))?;
    (folder.as_os_str().to_str()? == release_folder(version, arch)).then(|| (index, version.to_owned()))
}

/// Fills the staged files from a folder: a release's as it is unpacked, the folder that holds it, or one with files that
/// are called `firecracker` and `jailer`.
pub(super) fn folder(path: &Path, arch: Arch, staged: &[impl AsRef<Path>; 2]) -> Result<()> {
    let inner = crate::fs::names(path)?
        .into_iter()
        .find(|name| name.starts_with("release-v") && name.ends_with(arch.as_str()))
        .map(|name| path.join(name));
    for folder in [Some(path.to_owned()), inner].into_iter().flatten() {
        let [Some(firecracker), Some(jailer)] = PROGRAMS.map(|program| program_in(&folder, program, arch))
        else {
            continue;
        };
        for (program, staged) in [firecracker, jailer].iter().zip(staged) {
            File::open(program)
                .and_then(|mut file| save(&mut file, staged.as_ref()))
                .context("copy", program.display())?;
        }
        return Ok(());
    }
    Err(Error::new("find", format!("firecracker and jailer in {}", path.display())).because(format!(
        "it has neither programs of these names nor those of a release for {}",
        arch.as_str()
    )))
}

fn program_in(folder: &Path, program: &str, arch: Arch) -> Option<PathBuf> {
    let plain = folder.join(program);
    if plain.is_file() {
        return Some(plain);
    }
    let named = crate::fs::names(folder).ok()?;
    let name = named.iter().find(|name| version_of(name, program, arch).is_some())?;
    Some(folder.join(name)).filter(|path| path.is_file())
}

/// Writes a program durably, at most as much as any could have.
fn save(from: &mut impl Read, to: &Path) -> io::Result<()> {
    let mut file = File::create(to)?;
    if io::copy(&mut from.take(PROGRAM_MAX + 1), &mut file)? > PROGRAM_MAX {
        return Err(io::Error::other("a program in it is larger than any of Firecracker's"));
    }
    file.flush()?;
    file.sync_all()
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}
