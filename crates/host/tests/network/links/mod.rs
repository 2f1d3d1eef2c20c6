//! Bridge, taps and tables as `ip`, `bridge` and `nft` see them.

mod bridge;
mod tables;
mod taps;

use fireclaw_core::spec::NetworkSpec;
use serde_json::Value;

use crate::lab::json;

pub(crate) fn spec() -> NetworkSpec {
    NetworkSpec::default()
}

pub(crate) fn other_spec() -> NetworkSpec {
    NetworkSpec::new(NetworkSpec::BRIDGE, "10.213.0.1/24", "10.213.0.0/24").expect("a network")
}

pub(crate) fn link(name: &str) -> Value {
    json(&format!("ip -j -d address show {name}"))[0].clone()
}

pub(crate) fn names() -> Vec<String> {
    let links = json("ip -j link show");
    let names = links
        .as_array()
        .expect("a list")
        .iter()
        .map(|link| link["ifname"].as_str().expect("a name").to_owned());
    names.collect()
}

pub(crate) fn setting(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}")).expect(path).trim().to_owned()
}

/// Leaves out what changes by itself.
pub(crate) fn settled(mut link: Value) -> Value {
    let object = link.as_object_mut().expect("an object");
    object.retain(|key, _| !matches!(key.as_str(), "operstate" | "flags"));
    if let Some(data) = object.get_mut("linkinfo").and_then(|info| info.get_mut("info_data")) {
        data.as_object_mut().expect("an object").retain(|key, _| !key.ends_with("timer"));
    }
    link
}
