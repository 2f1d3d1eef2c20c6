//! The npm package: the program under its three names, its manual, and nothing that is run at installation. Writes a folder
//! and has npm pack it.

use std::path::{Path, PathBuf};

use fireclaw_core::{
    error::{Context, Error, Result},
    spec::Arch,
};
use fireclaw_host::exec::{Cmd, Exec as _, SystemExec};
use serde_json::{Value, json};

use super::{
    Input,
    content::{self, File},
    deb::OLDER_NAMES,
};

/// Where the program is in the package.
pub const PROGRAM: &str = "bin/fireclaw";

/// Packs it into a folder.
pub fn make(input: &Input, out: &Path) -> Result<PathBuf> {
    let stage = tempfile::tempdir().context("make", "a temporary folder")?;
    let root = stage.path().join("package");
    std::fs::create_dir(&root).context("create folder", root.display())?;
    content::write(&files(input)?, &root, input.time)?;
    let out = out.canonicalize().context("find", out.display())?;
    let said =
        npm(stage.path(), &["pack", "--json", "--ignore-scripts", "--pack-destination"], &[&out], &root)?;
    let answer: Value = serde_json::from_str(&said).context("read", "npm's answer")?;
    let name = answer[0]["filename"]
        .as_str()
        .ok_or_else(|| Error::new("read", "npm's answer").because(said.clone()))?;
    Ok(out.join(name))
}

/// Runs npm with a cache and a configuration of its own: what the machine's user prefers must not change a package.
pub fn npm(home: &Path, args: &[&str], paths: &[&Path], cwd: &Path) -> Result<String> {
    let mut cmd = Cmd::new("npm").env("HOME", home).env("npm_config_update_notifier", "false");
    cmd = cmd.args(["--cache"]).arg(home.join("cache")).args(["--offline", "--no-audit", "--no-fund"]);
    Ok(SystemExec::default().check(cmd.args(args).args(paths).cwd(cwd).about(args[0]))?.text())
}

/// What is in it.
pub fn files(input: &Input) -> Result<Vec<File>> {
    let pages = content::man_pages()?;
    let manual: Vec<String> = pages.iter().map(|(name, _)| format!("man/{name}")).collect();
    let mut bin = serde_json::Map::new();
    for name in ["fireclaw"].into_iter().chain(OLDER_NAMES) {
        bin.insert(name.to_owned(), PROGRAM.into());
    }
    let package = json!({
        "name": "fireclaw",
        "version": input.version,
        "description": "OpenClaw gateways, each in its own microVM.",
        "keywords": ["openclaw", "firecracker", "microvm", "sandbox", "agent"],
        "license": "MIT",
        "os": ["linux"],
        "cpu": [match input.arch {
            Arch::X86_64 => "x64",
            Arch::Aarch64 => "arm64",
        }],
        "bin": bin,
        "man": manual,
        "files": ["bin", "man", "skills"],
    });
    let text = serde_json::to_string_pretty(&package).context("write", "package.json")?;
    let mut files = vec![
        File::data("package.json", format!("{text}\n")),
        File::data("LICENSE", include_str!("../../../LICENSE")),
        File::data("README.md", include_str!("../../../README.md")),
        File::data("skills/fireclaw/SKILL.md", include_str!("../../../.agents/skills/fireclaw/SKILL.md")),
        File::program(PROGRAM, input.program.clone()),
    ];
    files.extend(pages.into_iter().map(|(name, page)| File::data(format!("man/{name}"), page)));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{content::Body, tests::input};

    #[test]
    fn the_description_names_machine_and_programs_and_runs_nothing() {
        let files = files(&input()).unwrap();
        let Body::Bytes(text) = &files[0].body else { panic!("a link") };
        let package: Value = serde_json::from_slice(text).unwrap();
        assert_eq!((&package["os"], &package["cpu"]), (&json!(["linux"]), &json!(["x64"])));
        assert_eq!(package["bin"], json!({"fireclaw": PROGRAM, "vm-setup": PROGRAM, "vm-ctl": PROGRAM}));
        assert!(package.get("scripts").is_none() && package.get("dependencies").is_none());
    }
}
