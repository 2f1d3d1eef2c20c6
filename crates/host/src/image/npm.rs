//! Packages of the npm registry without npm on the host: the registry's document, the tarball, its checksum. Starts curl and tar.

use std::{
    fs,
    path::{Path, PathBuf},
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

/// Where packages come from, as npm itself would find it: the environment, else the user's `.npmrc`, else npm's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Its address, with a slash at the end.
    pub url: String,
    /// Certificates to trust for it instead of the machine's.
    pub cafile: Option<PathBuf>,
}

impl Registry {
    /// The registry of a user with this environment and this `.npmrc`.
    pub fn of(env: &dyn Fn(&str) -> Option<String>, npmrc: &str) -> Self {
        let setting = |key: &str| {
            let names = [format!("npm_config_{key}"), format!("NPM_CONFIG_{}", key.to_uppercase())];
            names
                .iter()
                .find_map(|name| env(name))
                .or_else(|| in_npmrc(npmrc, key))
                .filter(|value| !value.is_empty())
        };
        let mut url = setting("registry").unwrap_or_else(|| REGISTRY.to_owned());
        if !url.ends_with('/') {
            url.push('/');
        }
        Self { url, cafile: setting("cafile").map(PathBuf::from) }
    }

    /// A mirror hands the registry's documents out unchanged: what they say about npm's own address is true of the mirror.
    fn here(&self, tarball: &str) -> String {
        match tarball.strip_prefix(REGISTRY) {
            Some(path) => format!("{}{path}", self.url),
            None => tarball.to_owned(),
        }
    }
}

/// A value of the lines `key = value` of an `.npmrc`.
fn in_npmrc(npmrc: &str, key: &str) -> Option<String> {
    npmrc
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        .next_back()
}

/// Fetches one version of a package, checks it and unpacks it into `into`.
pub fn fetch(
    exec: &dyn Exec,
    registry: &Registry,
    package: &str,
    version: &str,
    into: &Path,
) -> Result<Fetched> {
    let what = format!("npm package {package} {version}");
    crate::fs::remove_tree(into)?;
    fs::create_dir_all(into).context("create folder", into.display())?;
    let document = into.join("document.json");
    download(exec, registry, &format!("{}{package}/{version}", registry.url), &document, &what)?;
    let text = fs::read(&document).context("read", document.display())?;
    let Document { dist } = serde_json::from_slice(&text)
        .map_err(|error| Error::new("read", format!("the registry's answer about {what}")).source(error))?;
    let tarball = into.join("package.tgz");
    download(exec, registry, &registry.here(&dist.tarball), &tarball, &what)?;
    check(&fs::read(&tarball).context("read", tarball.display())?, &dist.integrity, &what)?;
    let unpack =
        Cmd::new("tar").args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"]);
    exec.check(unpack.arg(&tarball).arg("--directory").arg(into).about(&what))?;
    crate::fs::remove_file(&tarball)?;
    Ok(Fetched { dir: into.to_owned(), integrity: dist.integrity })
}

fn download(exec: &dyn Exec, registry: &Registry, url: &str, to: &Path, what: &str) -> Result<()> {
    crate::download::download(exec, url, to, registry.cafile.as_deref(), what).map_err(|error| {
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
        let registry = Registry { url: "https://r/".into(), cafile: None };
        let dir = tempfile::tempdir().unwrap();
        let right = format!(
            "sha512-{}",
            base64::engine::general_purpose::STANDARD.encode(Sha512::digest(b"tarball"))
        );
        let exec = registry_with(right.clone());
        assert_eq!(fetch(&exec, &registry, "x", "1.0.0", &dir.path().join("a")).unwrap().integrity, right);
        assert!(exec.lines().iter().any(|line| line.starts_with("tar --extract")));
        for wrong in ["sha512-AAAA", "sha1-x", ""] {
            let exec = registry_with(wrong.to_owned());
            let error = fetch(&exec, &registry, "x", "1.0.0", &dir.path().join("b")).unwrap_err();
            assert!(error.to_string().contains("trust"), "{error}");
            assert!(!exec.lines().iter().any(|line| line.starts_with("tar")), "a bad tarball was unpacked");
        }
    }

    #[test]
    fn the_users_registry_is_honoured() {
        let own = Registry { url: REGISTRY.to_owned(), cafile: None };
        assert_eq!(Registry::of(&|_| None, "# nothing\nfund=false\n"), own);
        let mirror = |name: &str| (name == "npm_config_registry").then(|| "http://mirror/npm".to_owned());
        let npmrc = "registry = \"https://other/\"\ncafile=/etc/ca.pem\n//other/:_authToken=x\n";
        let by_environment = Registry::of(&mirror, npmrc);
        assert_eq!(by_environment.url, "http://mirror/npm/");
        assert_eq!(
            by_environment.here("https://registry.npmjs.org/npm/-/npm-1.tgz"),
            "http://mirror/npm/npm/-/npm-1.tgz"
        );
        assert_eq!(by_environment.here("https://cdn/x.tgz"), "https://cdn/x.tgz");
        let by_file = Registry::of(&|_| None, npmrc);
        assert_eq!(
            (by_file.url.as_str(), by_file.cafile.as_deref()),
            ("https://other/", Some(Path::new("/etc/ca.pem")))
        );
    }
}
