//! Whether the rules in force are those that a text would make: somebody may have flushed them, or a part. Runs `nft`, and makes
//! a network namespace that lasts as long as one look.
//!
//! What `nft` shows is not the text that it was given. So the text is loaded where nobody uses it, and both are listed by the
//! same program of the same kernel. Counters, handles and the order of a set's elements are left out: they change by themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use fireclaw_core::{
    error::{Context, Result},
    render::nft::{REFUSED, TABLE},
};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::{install, nft};
use crate::exec::Exec;

/// How the tables in force stand to a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// They are what it makes.
    InForce,
    /// These tables are gone, as `family name`.
    Gone(Vec<String>),
    /// These parts are missing, changed, or there and not in the text, as `family kind name`.
    Changed(Vec<String>),
    /// They are there; whether they are whole cannot be told, for this reason.
    Unsure(String),
}

const FAMILIES: [&str; 2] = ["inet", "bridge"];

/// Compares what is in force with what a ruleset of ours would make.
pub fn compare(exec: &dyn Exec, ruleset: &str) -> Result<Rules> {
    let mut gone = Vec::new();
    let mut there = Parts::new();
    for family in FAMILIES {
        match listed(exec, family)? {
            Some(parts) => there.extend(parts),
            None => gone.push(format!("{family} {TABLE}")),
        }
    }
    if !gone.is_empty() {
        return Ok(Rules::Gone(gone));
    }
    let wanted = match made(exec, ruleset) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Rules::Unsure(error.one_line())),
    };
    let changed = differences(&there, &wanted);
    Ok(if changed.is_empty() { Rules::InForce } else { Rules::Changed(changed) })
}

/// The parts of a table by name: itself, its sets, its chains with their rules.
type Parts = BTreeMap<String, Vec<Value>>;

/// A table of ours in force in the thread's namespace; `None` when it is not there.
fn listed(exec: &dyn Exec, family: &str) -> Result<Option<Parts>> {
    let output = exec.run(nft("our tables").args(["-j", "list", "table", family, TABLE]))?;
    if output.status.success() { parts(&output.stdout).map(Some) } else { Ok(None) }
}

/// What a text makes, in a namespace that ends with the thread in it.
fn made(exec: &dyn Exec, ruleset: &str) -> Result<Parts> {
    let look = || {
        unshare(CloneFlags::CLONE_NEWNET).context("make", "a network namespace to compare the rules in")?;
        install(exec, ruleset)?;
        let mut all = Parts::new();
        for family in FAMILIES {
            all.extend(listed(exec, family)?.unwrap_or_default());
        }
        Ok(all)
    };
    thread::scope(|scope| match scope.spawn(look).join() {
        Ok(made) => made,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn parts(json: &[u8]) -> Result<Parts> {
    let mut listed: Value =
        serde_json::from_slice(json).context("read the answer of", "nft -j list table")?;
    let mut parts = Parts::new();
    for object in listed["nftables"].as_array_mut().into_iter().flatten() {
        let Some((kind, body)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else {
            continue;
        };
        // A rule is part of its chain, in its order.
        let (what, name) =
            if kind == "rule" { ("chain", &body["chain"]) } else { (kind.as_str(), &body["name"]) };
        let (Some(family), Some(name)) = (body["family"].as_str(), name.as_str()) else { continue };
        let key = format!("{family} {what} {name}");
        if what == "set" && name == REFUSED {
            body["elem"] = Value::Null;
        }
        settle(body);
        parts.entry(key).or_default().push(body.take());
    }
    Ok(parts)
}

/// Takes out what changes by itself.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            for (name, field) in fields.iter_mut() {
                settle(field);
                match field {
                    Value::Object(_) if name == "counter" => *field = Value::Null,
                    Value::Array(elements) if matches!(name.as_str(), "elem" | "set") => {
                        elements.sort_by_cached_key(Value::to_string);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(settle),
        _ => {}
    }
}

fn differences(there: &Parts, wanted: &Parts) -> Vec<String> {
    let names: BTreeSet<&String> = there.keys().chain(wanted.keys()).collect();
    names.into_iter().filter(|name| there.get(*name) != wanted.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(packets: u32, elements: &str, rules: &str) -> Parts {
        let text = format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}},
            {{"table": {{"family": "inet", "name": "fireclaw", "handle": {packets}}}}},
            {{"set": {{"family": "inet", "name": "vms", "table": "fireclaw", "handle": 1, "elem": [{elements}]}}}},
            {{"set": {{"family": "inet", "name": "refused", "table": "fireclaw", "elem": ["{packets}"]}}}},
            {{"chain": {{"family": "inet", "name": "input", "table": "fireclaw", "handle": 3}}}}{rules}]}}"#
        );
        parts(text.as_bytes()).unwrap()
    }

    fn rule(packets: u32, verdict: &str) -> String {
        format!(
            r#",{{"rule": {{"family": "inet", "table": "fireclaw", "chain": "input", "handle": 9, "expr": [
            {{"counter": {{"packets": {packets}, "bytes": 1}}}}, {{"{verdict}": null}}]}}}}"#
        )
    }

    #[test]
    fn what_changes_by_itself_is_no_difference() {
        let one = listing(1, r#""10.0.0.1", "10.0.0.2""#, &rule(7, "drop"));
        let other = listing(2, r#""10.0.0.2", "10.0.0.1""#, &rule(0, "drop"));
        assert_eq!(differences(&one, &other), Vec::<String>::new());
    }

    #[test]
    fn everything_else_is_named() {
        let wanted = listing(1, r#""10.0.0.1""#, &rule(0, "drop"));
        for (there, what) in [
            (listing(1, r#""10.0.0.1""#, ""), "inet chain input"),
            (listing(1, r#""10.0.0.1""#, &rule(0, "accept")), "inet chain input"),
            (listing(1, r#""10.0.0.1""#, &(rule(0, "drop") + &rule(0, "drop"))), "inet chain input"),
            (listing(1, "", &rule(0, "drop")), "inet set vms"),
        ] {
            assert_eq!(differences(&there, &wanted), [what]);
            assert_eq!(differences(&wanted, &there), [what]);
        }
    }
}
