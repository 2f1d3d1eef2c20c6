//! The host's configuration file as the tests have it: the model provider is the stand-in, and the registry may speak plain HTTP.
//! Mounts over /etc, in the tests' own mount namespace.

use std::{fs, path::Path};

use fireclaw_core::error::{Context, Result};

use super::internet::{HOST, Internet, PROVIDER_TLS, REGISTRY};
use crate::shell;

/// A layer over /etc with one file more. It goes with the namespace.
pub fn install(root: &Path, internet: &Internet) -> Result<()> {
    let layer = root.join("etc");
    fireclaw_host::fs::remove_tree(&layer)?;
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    let folder = upper.join("fireclaw");
    for dir in [&folder, &work] {
        fs::create_dir_all(dir).context("create folder", dir.display())?;
    }
    let text = format!(
        "provider_anthropic = \"{HOST}:{PROVIDER_TLS}\"\nprovider_ca = \"{}\"\n\
         insecure_registries = [\"{HOST}:{REGISTRY}\"]\n",
        internet.authority().display()
    );
    let file = folder.join("config.toml");
    fs::write(&file, text).context("write", file.display())?;
    let layers = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    shell::must("mount", &["-t", "overlay", "-o", &layers, "overlay", "/etc"]).map(drop)
}
