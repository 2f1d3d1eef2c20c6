//! Firecracker's releases: what their files are called, which one is installed, and where else one may come from. Touches
//! nothing.
//!
//! A release of version 1.2.3 for `x86_64` is `firecracker-v1.2.3-x86_64.tgz` with `firecracker-v1.2.3-x86_64.tgz.sha256.txt`
//! beside it. The tarball holds one folder, `release-v1.2.3-x86_64`, and in it `firecracker-v1.2.3-x86_64` and
//! `jailer-v1.2.3-x86_64`. (From the project's releases on GitHub.)

use std::path::PathBuf;

use super::Arch;
use crate::error::{Error, Result};

/// The version that is installed when nobody names another.
pub const VERSION: &str = "1.16.1";

/// Where releases are published: a folder a tag.
const RELEASES: &str = "https://github.com/firecracker-microvm/firecracker/releases/download";

/// The programs of a release.
pub const PROGRAMS: [&str; 2] = ["firecracker", "jailer"];

/// What follows a tarball's name in the name of its checksum.
pub const CHECKSUM_SUFFIX: &str = ".sha256.txt";

/// Where Firecracker and its jailer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A tarball on a server, with its checksum beside it.
    Url(String),
    /// A file: a release's tarball, or a folder with the programs.
    Path(PathBuf),
}

impl Source {
    /// The release that fireclaw is made for.
    pub fn pinned(arch: Arch) -> Self {
        Self::Url(format!("{RELEASES}/v{VERSION}/{}", tarball(VERSION, arch)))
    }

    /// What `--firecracker-from` says. A relative path stays relative.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| Error::refused("--firecracker-from", text.escape_debug(), why);
        if !text.contains("://") {
            return match text {
                "" => Err(refused("names nothing")),
                _ => Ok(Self::Path(text.into())),
            };
        }
        let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
            return Err(refused("is neither an http nor an https address"));
        };
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused("has characters that do not belong into an address"));
        }
        // Arguments of a program can be read by every user of the host.
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err(refused("holds a password").hint("fetch the tarball yourself and name the file"));
        }
        if rest.contains(['?', '#']) || rest.strip_suffix(".tgz").is_none() {
            return Err(refused("is not the address of a release's tarball").hint(format!(
                "it ends like {}, and a server has {} beside it",
                tarball(VERSION, Arch::X86_64),
                CHECKSUM_SUFFIX
            )));
        }
        Ok(Self::Url(text.to_owned()))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// The name of a release's tarball.
pub fn tarball(version: &str, arch: Arch) -> String {
    format!("firecracker-v{version}-{}.tgz", arch.as_str())
}

/// The folder in a release's tarball.
pub fn folder(version: &str, arch: Arch) -> String {
    format!("release-v{version}-{}", arch.as_str())
}

/// The name of a program in a release.
pub fn file(program: &str, version: &str, arch: Arch) -> String {
    format!("{program}-v{version}-{}", arch.as_str())
}

/// The version in the name of a program of a release: `1.16.1` of `jailer-v1.16.1-x86_64`. Debug symbols and other
/// machines' programs have other names and no version here.
pub fn version_of<'a>(name: &'a str, program: &str, arch: Arch) -> Option<&'a str> {
    let version =
        name.strip_prefix(program)?.strip_prefix("-v")?.strip_suffix(arch.as_str())?.strip_suffix('-')?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    (version.starts_with(|first: char| first.is_ascii_digit()) && version.bytes().all(known))
        .then_some(version)
}

/// The sha256 that a checksum file states for a tarball, in lower case: lines of `HEX  NAME`, or one bare `HEX`.
pub fn published_sha256(text: &str, tarball: &str) -> Option<String> {
    let hex = |word: &str| {
        (word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| word.to_ascii_lowercase())
    };
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let sum = hex(words.next()?)?;
        match words.next() {
            // `sha256sum` marks binary mode with a star.
            Some(name) => (name.trim_start_matches('*') == tarball).then_some(sum),
            None => Some(sum),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_releases() {
        assert_eq!(
            Source::pinned(Arch::X86_64).to_string(),
            "https://github.com/firecracker-microvm/firecracker/releases/download/v1.16.1/firecracker-v1.16.1-x86_64.tgz"
        );
        assert_eq!(
            Source::parse(&Source::pinned(Arch::Aarch64).to_string()).unwrap(),
            Source::pinned(Arch::Aarch64)
        );
        assert_eq!(folder("1.16.1", Arch::Aarch64), "release-v1.16.1-aarch64");
        let version = |name| version_of(name, "jailer", Arch::X86_64);
        let ours = file("jailer", "1.16.1", Arch::X86_64);
        assert_eq!(version(&ours), Some("1.16.1"));
        assert_eq!(version("jailer-v1.17.0-dev-x86_64"), Some("1.17.0-dev"));
        for other in [
            "jailer-v1.16.1-x86_64.debug",
            "jailer-v1.16.1-aarch64",
            "firecracker-v1.16.1-x86_64",
            "jailer-v-x86_64",
            "jailer-v1/../..-x86_64",
            "jailer",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn a_source_is_an_address_or_a_path() {
        let path = |text: &str| Source::parse(text).unwrap() == Source::Path(text.into());
        assert!(path("/srv/release-v1.16.1-x86_64") && path("firecracker-v1.16.1-x86_64.tgz"));
        for (text, why) in [
            ("", "names nothing"),
            ("ftp://x/firecracker.tgz", "neither"),
            ("https://user:secret@x/firecracker.tgz", "password"),
            ("https://x/firecracker.tgz?token=1", "tarball"),
            ("https://x/releases", "tarball"),
            ("https://x/a b.tgz", "characters"),
        ] {
            let error = Source::parse(text).unwrap_err().one_line();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_tarball() {
        let (ours, other) = ("a".repeat(64), "B".repeat(64));
        let text =
            format!("{other}  firecracker-v1.0.0-aarch64.tgz\n{ours}  firecracker-v1.0.0-x86_64.tgz\n");
        assert_eq!(published_sha256(&text, "firecracker-v1.0.0-x86_64.tgz"), Some(ours.clone()));
        assert_eq!(published_sha256(&format!("{other}\n"), "x.tgz"), Some("b".repeat(64)));
        assert_eq!(published_sha256(&format!("{ours} *x.tgz"), "x.tgz"), Some(ours.clone()));
        for none in [String::new(), format!("{ours}  y.tgz"), "Not Found".into(), ours[1..].to_owned()] {
            assert_eq!(published_sha256(&none, "x.tgz"), None, "{none:?}");
        }
    }
}
