//! Packages of the npm registry without npm on the host: the registry's document, the tarball, its checksum. Starts curl and tar.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::Engine as _;
use fireclaw_core::error::{Context, Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::exec::{Cmd, Exec};

/// npm's own registry.
const REGISTRY: &str = "https://registry.npmjs.org/";

/// A package as it was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its folder, unpacked.
    pub dir: PathBuf,
    /// `sha512-…`, as the registry states it and as it was checked.
    pub integrity: String,
}

#[derive(Deserialize)]
struct Document {
    dist: Dist,
}

#[derive(Deserialize)]
struct Dist {
    tarball: String,
    integrity: String,
}

/// The registry that the user's environment names, else npm's own.
pub fn registry(env: &dyn Fn(&str) -> Option<String>) -> String {
    let named = ["npm_config_registry", "NPM_CONFIG_REGISTRY"]
        .iter()
        .find_map(|name| env(name))
        .filter(|url| !url.is_empty());
    let mut url = named.unwrap_or_else(|| REGISTRY.to_owned());
    if !url.ends_with('/') {
        url.push('/');
    }
    url
}

/// Fetches one version of a package, checks it and unpacks it into `into`.
pub fn fetch(exec: &dyn Exec, registry: &str, package: &str, version: &str, into: &Path) -> Result<Fetched> {
    let what = format!("npm package {package} {version}");
    crate::fs::remove_tree(into)?;
    fs::create_dir_all(into).context("create folder", into.display())?;
    let document = into.join("document.json");
    download(exec, &format!("{registry}{package}/{version}"), &document, &what)?;
    let text = fs::read(&document).context("read", document.display())?;
    let Document { dist } = serde_json::from_slice(&text)
        .map_err(|error| Error::new("read", format!("the registry's answer about {what}")).source(error))?;
    let tarball = into.join("package.tgz");
    download(exec, &dist.tarball, &tarball, &what)?;
    check(&fs::read(&tarball).context("read", tarball.display())?, &dist.integrity, &what)?;
    let unpack =
        Cmd::new("tar").args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"]);
    exec.check(unpack.arg(&tarball).arg("--directory").arg(into).about(&what))?;
    crate::fs::remove_file(&tarball)?;
    Ok(Fetched { dir: into.to_owned(), integrity: dist.integrity })
}

fn download(exec: &dyn Exec, url: &str, to: &Path, what: &str) -> Result<()> {
    // The user's environment may name a proxy and its certificates.
    let curl = Cmd::new("curl")
        .inherit_env()
        .args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--proto", "=https,http"])
        .args(["--connect-timeout", "20", "--output"])
        .arg(to)
        .arg(url)
        .deadline(Duration::from_mins(15))
        .about(what);
    exec.check(curl).map(drop).map_err(|error| {
        Error::new("fetch", what).source(error).hint(
            "check the way to the npm registry, then run the command again: it goes on where it stopped",
        )
    })
}

/// Compares a tarball with the registry's checksum.
fn check(tarball: &[u8], integrity: &str, what: &str) -> Result<()> {
    let failed = |why: &str| Error::new("trust", what.to_owned()).because(why.to_owned());
    let wanted = integrity.strip_prefix("sha512-").ok_or_else(|| failed("the registry states no sha512"))?;
    let seen = base64::engine::general_purpose::STANDARD.encode(Sha512::digest(tarball));
    if seen == wanted { Ok(()) } else { Err(failed("its checksum is not the one that the registry states")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Output, fake::FakeExec};

    fn registry_with(integrity: String) -> FakeExec {
        FakeExec::new(move |cmd| {
            let line = cmd.line();
            if line.starts_with("curl") {
                let mut words = line.split(' ').skip_while(|word| *word != "--output").skip(1);
                let (to, url) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
                if url.ends_with("/1.0.0") {
                    let text =
                        format!(r#"{{"dist":{{"tarball":"https://r/x.tgz","integrity":"{integrity}"}}}}"#);
                    fs::write(to, text).unwrap();
                } else {
                    fs::write(to, b"tarball").unwrap();
                }
            }
            Ok(Output::made(0, "", ""))
        })
    }

    #[test]
    fn a_right_checksum_is_taken_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let right = format!(
            "sha512-{}",
            base64::engine::general_purpose::STANDARD.encode(Sha512::digest(b"tarball"))
        );
        let exec = registry_with(right.clone());
        assert_eq!(fetch(&exec, "https://r/", "x", "1.0.0", &dir.path().join("a")).unwrap().integrity, right);
        assert!(exec.lines().iter().any(|line| line.starts_with("tar --extract")));
        for wrong in ["sha512-AAAA", "sha1-x", ""] {
            let exec = registry_with(wrong.to_owned());
            let error = fetch(&exec, "https://r/", "x", "1.0.0", &dir.path().join("b")).unwrap_err();
            assert!(error.to_string().contains("trust"), "{error}");
            assert!(!exec.lines().iter().any(|line| line.starts_with("tar")), "a bad tarball was unpacked");
        }
    }

    #[test]
    fn the_users_registry_is_honoured() {
        assert_eq!(registry(&|_| None), REGISTRY);
        assert_eq!(
            registry(&|name| (name == "npm_config_registry").then(|| "http://mirror/npm".into())),
            "http://mirror/npm/"
        );
    }
}
