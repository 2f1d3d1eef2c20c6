//! Docker's `daemon.json`: what fireclaw needs in it, put beside what is there. Touches nothing.

use serde_json::{Map, Value, json};

use crate::error::{Context, Error, Result};

/// The configuration with these registries reachable without TLS, and without networks of its own where the kernel has no packet
/// filter; `None` when it is so already.
pub fn daemon_json(current: Option<&str>, insecure: &[String], no_netfilter: bool) -> Result<Option<String>> {
    let before: Value = match current.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).context("read", "/etc/docker/daemon.json")?,
        None => Value::Object(Map::new()),
    };
    let mut after = before.clone();
    let map = after
        .as_object_mut()
        .ok_or_else(|| Error::new("read", "/etc/docker/daemon.json").because("it is not an object"))?;
    for registry in insecure {
        let list = map.entry("insecure-registries").or_insert_with(|| json!([]));
        let list = list.as_array_mut().ok_or_else(|| {
            Error::new("read", "/etc/docker/daemon.json").because("insecure-registries is not a list")
        })?;
        if !list.iter().any(|known| known == registry.as_str()) {
            list.push(json!(registry));
        }
    }
    if no_netfilter {
        // The gateway's container uses the guest's own network; only containers that somebody else starts lose theirs.
        map.insert("iptables".to_owned(), json!(false));
        map.insert("bridge".to_owned(), json!("none"));
    }
    Ok((after != before).then(|| format!("{after:#}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_writes_nothing() {
        assert_eq!(daemon_json(None, &[], false).unwrap(), None);
        assert_eq!(daemon_json(Some(r#"{"debug":true}"#), &[], false).unwrap(), None);
    }

    #[test]
    fn what_is_there_stays_and_a_second_time_changes_nothing() {
        let registries = ["172.16.0.1:5000".to_owned()];
        let text =
            daemon_json(Some(r#"{"debug":true,"insecure-registries":["a:1"]}"#), &registries, true).unwrap();
        let text = text.unwrap();
        insta::assert_snapshot!(text);
        assert_eq!(daemon_json(Some(&text), &registries, true).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_its_own_is_an_error() {
        for bad in ["{", "[]", r#"{"insecure-registries":"x"}"#] {
            assert!(daemon_json(Some(bad), &["a:1".to_owned()], false).is_err(), "{bad}");
        }
    }
}
