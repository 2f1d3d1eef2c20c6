//! The test that no document drifts from the program: every command and flag that the documents, the man pages and the
//! messages in the sources name is given to the definition of the command line. Reads the repository.
//!
//! A command is a line of a fenced block, or a span in backticks, that begins with one of our programs. In a block it must be
//! complete; a span may leave required things out. What stands for a value (`ID`, `FILE`, `<id>`, `{name}`) is filled in,
//! `a|b` is tried as both, `[x]` with and without. A span that begins with a flag must name one that some command has.

mod find;
mod judge;

use std::{fs, path::PathBuf};

use find::{Mention, in_markdown, in_roff, in_source};
use judge::Judge;

use crate::{dist, shell};

/// Flags that documents name and that belong to somebody else's program.
const FOREIGN: &[&str] = &["--config-file"];

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![shell::root().join(folder)];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &PathBuf) -> (String, String) {
    let shown = path.strip_prefix(shell::root()).unwrap().display().to_string();
    (shown, fs::read_to_string(path).unwrap())
}

/// Fails with every mention that the program would not take, and unless there are about as many as we know of: a finder
/// that finds nothing must not pass.
#[track_caller]
fn must_all_hold(mentions: &[(String, Mention)], at_least: usize) {
    let judge = Judge::new(FOREIGN);
    let wrong: Vec<String> = mentions
        .iter()
        .filter_map(|(place, mention)| {
            let why = judge.judge(mention).err()?;
            Some(format!("{place}:{}: `{}`: {why}", mention.line, mention.text))
        })
        .collect();
    assert!(wrong.is_empty(), "the program does not know this:\n{}", wrong.join("\n"));
    assert!(mentions.len() >= at_least, "only {} commands were found: {mentions:#?}", mentions.len());
}

fn documents() -> Vec<PathBuf> {
    let root = shell::root();
    let mut paths = files("docs", "md");
    for name in ["README.md", "CHANGELOG.md", "llms.txt", ".agents/skills/fireclaw/SKILL.md"] {
        paths.push(root.join(name));
    }
    paths
}

#[test]
fn documents_name_what_there_is() {
    let mut all = Vec::new();
    for path in documents() {
        let (shown, text) = read(&path);
        all.extend(in_markdown(&text).into_iter().map(|mention| (shown.clone(), mention)));
    }
    for (document, least) in [("README.md", 20), (".agents/skills/fireclaw/SKILL.md", 40), ("llms.txt", 8)] {
        let count = all.iter().filter(|(shown, _)| shown == document).count();
        assert!(count >= least, "{document} has {count} commands: has the finder gone blind?");
    }
    must_all_hold(&all, 80);
}

#[test]
fn man_pages_name_what_there_is() {
    let mut all = Vec::new();
    for (name, page) in dist::man_pages().unwrap() {
        let mentions = in_roff(&String::from_utf8(page).unwrap());
        all.extend(mentions.into_iter().map(|mention| (name.clone(), mention)));
    }
    must_all_hold(&all, 1);
}

#[test]
fn sources_name_what_there_is() {
    let mut all = Vec::new();
    for folder in ["crates/core/src", "crates/host/src", "crates/cli/src", "crates/testkit/src", "xtask/src"]
    {
        for path in files(folder, "rs") {
            let (shown, text) = read(&path);
            // These two are full of commands that are wrong on purpose.
            if shown.starts_with("xtask/src/documents") {
                continue;
            }
            all.extend(in_source(&text).into_iter().map(|mention| (shown.clone(), mention)));
        }
    }
    must_all_hold(&all, 60);
}

/// The skill's head is what an agent's program reads first: its name is that of its folder.
#[test]
fn the_skill_can_be_found() {
    let (_, text) = read(&shell::root().join(".agents/skills/fireclaw/SKILL.md"));
    let head = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0;
    let value = |key: &str| {
        head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).unwrap_or_default()
    };
    assert_eq!(value("name"), "fireclaw");
    assert!((80..1024).contains(&value("description").len()) && value("description").contains("Use when"));
}

/// Every file that llms.txt and the README link to is there.
#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for path in documents() {
        let (shown, text) = read(&path);
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let there = path.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(there.exists(), "{shown} links to {target}, which is not there");
            links += 1;
        }
    }
    assert!(links > 10, "only {links} links were found");
}
