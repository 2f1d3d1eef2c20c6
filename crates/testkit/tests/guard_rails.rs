//! The rules of docs/ARCHITECTURE.md that no lint keeps: read from the sources and the documents.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use fireclaw_core::{error::Kind, layout::Layout};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every Rust file below a folder, with its text up to its own tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "tests" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                found.push((path, code));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The lines of code (no comments) that hold one of the words.
fn offences(files: &[(PathBuf, String)], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, code) in files {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if allowed.iter().any(|part| shown.contains(part)) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            let line = line.trim();
            if !line.starts_with("//") && words.iter().any(|word| line.contains(word)) {
                offences.push(format!("{shown}:{}: {line}", number + 1));
            }
        }
    }
    offences
}

#[test]
fn core_touches_nothing() {
    let words = [
        "std::fs",
        "std::process",
        "std::env",
        "std::net::Tcp",
        "std::net::Udp",
        "std::os",
        "SystemTime",
        "Instant::now",
        "unsafe ",
    ];
    let offences = offences(&sources("crates/core/src"), &words, &[]);
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn only_exec_starts_programs() {
    let files: Vec<_> = ["crates/host/src", "crates/cli/src", "xtask/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect();
    let offences = offences(
        &files,
        &["Command::new(", "process::Command", "libc::execv", "fork("],
        &["crates/host/src/exec/"],
    );
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn no_program_is_a_shell() {
    let files: Vec<_> =
        ["crates/host/src", "crates/cli/src"].iter().flat_map(|folder| sources(folder)).collect();
    let offences =
        offences(&files, &["Cmd::new(\"sh\")", "Cmd::new(\"bash\")", "Cmd::new(\"/bin/sh\")"], &[]);
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn only_id_names_things_and_only_layout_places_them() {
    let files: Vec<_> = ["crates/core/src", "crates/host/src", "crates/cli/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect();
    let names = ["\"firecracker-vmdemo", "\"vmdemo-proxy", "\"06:fc:"];
    let found = offences(&files, &names, &["core/src/id.rs"]);
    assert!(found.is_empty(), "{found:#?}");
    let paths = [
        "\".vm-",
        "\"/var/lib/fireclaw\"",
        "\"/srv/firecracker",
        "\"provision.vars\")",
        "\"/etc/systemd/system\".into()",
    ];
    let found = offences(
        &files,
        &paths,
        &["core/src/layout.rs", "core/src/spec/settings.rs", "core/src/guest/paths.rs"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_layout_is_documented_and_the_document_is_true() {
    let document = fs::read_to_string(root().join("docs/LAYOUT.md")).unwrap();
    let described = Layout::default().described(&"my-bot".parse().unwrap());
    for (name, path) in &described {
        let row = format!("| `{name}` | `{}` |", path.display());
        assert!(document.contains(&row), "docs/LAYOUT.md lacks {row}");
    }
    let rows = document.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, described.len(), "docs/LAYOUT.md has rows that the code does not know");
}

#[test]
fn the_exit_codes_are_documented() {
    let document = fs::read_to_string(root().join("docs/EXIT_CODES.md")).unwrap();
    for kind in Kind::ALL {
        let row = format!("| {} | `{kind:?}` |", kind.exit_code());
        assert!(document.contains(&row), "docs/EXIT_CODES.md lacks {row}");
    }
}

#[test]
fn every_module_says_its_job() {
    for folder in ["crates/core/src", "crates/host/src", "crates/cli/src", "crates/testkit/src", "xtask/src"]
    {
        for (path, code) in sources(folder) {
            assert!(code.starts_with("//!"), "{} does not begin with what it is for", path.display());
        }
    }
}
