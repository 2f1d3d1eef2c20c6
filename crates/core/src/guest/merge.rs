//! The three-way merge of openclaw.json: what it is now, what was asked for last time, what is asked for now.
//! Touches nothing.
//!
//! | asked for now | what is there now | result |
//! |---|---|---|
//! | something else than last time, or the first time | anything | what is asked for |
//! | the same as last time | the same | unchanged |
//! | the same as last time | something else: a hand made it | the hand's, reported as kept |
//! | `Insist` | anything | what is asked for |
//! | `Suggest`, the first time | something | what is there, reported as kept |
//!
//! Keys that fireclaw does not answer for are passed through as they are.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::settings::{Setting, Will};
use crate::error::{Context, Error, Kind, Result};

/// What was asked for, by JSON pointer; `None` for a key that should not be there.
pub type Base = BTreeMap<String, Option<Value>>;

/// The result of a merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The whole configuration.
    pub config: Value,
    /// Whether it differs from the one that is there.
    pub changed: bool,
    /// Pointers at which a hand's value was left.
    pub kept: Vec<String>,
}

/// Merges settings into the configuration that is there; `base` is [`base()`] of the last time.
pub fn merge(current: &Value, base: Option<&Base>, settings: &[Setting]) -> Merged {
    let mut config = current.clone();
    let mut kept = Vec::new();
    for setting in settings {
        let is = get(current, &setting.pointer);
        let wanted = setting.value.as_ref();
        if is == wanted {
            continue;
        }
        let asked_before = base.and_then(|base| base.get(&setting.pointer));
        let stays = match (setting.will, asked_before) {
            (Will::Insist, _) => false,
            (Will::Choose | Will::Suggest, Some(before)) => before.as_ref() == wanted,
            // A key that this version is the first to answer for: the user's value was there first.
            (Will::Choose, None) => base.is_some() && is.is_some(),
            (Will::Suggest, None) => is.is_some(),
        };
        if stays {
            kept.push(setting.pointer.clone());
            continue;
        }
        match wanted {
            Some(value) => set(&mut config, &setting.pointer, value.clone()),
            None => remove(&mut config, &setting.pointer),
        }
    }
    Merged { changed: config != *current, config, kept }
}

/// What the next merge takes as asked for last time.
pub fn base(settings: &[Setting]) -> Base {
    settings.iter().map(|setting| (setting.pointer.clone(), setting.value.clone())).collect()
}

/// Reads openclaw.json, which is JSON5 and an object.
pub fn parse_config(text: &str) -> Result<Value> {
    let value: Value = json5::from_str(text).context("read", "openclaw.json")?;
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::new("read", "openclaw.json").kind(Kind::Refused).because("it is not an object"))
}

/// The text of openclaw.json.
pub fn render_config(config: &Value) -> String {
    format!("{config:#}\n")
}

/// The segments of a pointer.
fn segments(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()
}

/// The value at a pointer. Only objects are walked through: no key of ours lies in an array.
fn get<'a>(config: &'a Value, pointer: &str) -> Option<&'a Value> {
    segments(pointer).iter().try_fold(config, |value, key| value.as_object()?.get(key))
}

/// Sets a value and makes the objects on the way, in place of whatever else is there.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for key in segments(pointer) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(map) = place else { return };
        place = map.entry(key).or_insert(Value::Null);
    }
    *place = value;
}

/// Removes a value and the objects that are empty without it.
fn remove(config: &mut Value, pointer: &str) {
    fn inner(value: &mut Value, keys: &[String]) {
        let (Value::Object(map), [key, rest @ ..]) = (value, keys) else { return };
        if rest.is_empty() {
            map.shift_remove(key);
            return;
        }
        let Some(child) = map.get_mut(key) else { return };
        inner(child, rest);
        if child.as_object().is_some_and(Map::is_empty) {
            map.shift_remove(key);
        }
    }
    inner(config, &segments(pointer));
}

#[cfg(test)]
mod tests;
