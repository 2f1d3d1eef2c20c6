//! Channels that a guest's own files configure: who reads strangers' messages in its name. Two gateways that poll with one token
//! take messages from each other, so a copy of an instance must not have them. Touches nothing.
//!
//! The keys are OpenClaw's (2026.9): `channels.NAME`, on unless `enabled` is false; `plugins.entries.NAME`; and tokens among the
//! variables of `~/.openclaw/.env`, of `env` and of `env.vars`, which turn a channel on by themselves.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Keys of `channels` that are settings of all channels and no channel.
const SHARED: [&str; 2] = ["defaults", "modelByChannel"];

/// How names of variables end that hold a channel's token, as those of Telegram, Discord and Slack do.
const TOKENS: [&str; 3] = ["_BOT_TOKEN", "_APP_TOKEN", "_CHANNEL_ACCESS_TOKEN"];

/// Channels whose secrets have other names too (`MATRIX_ACCESS_TOKEN`, `MSTEAMS_APP_PASSWORD`), by how those begin.
const PREFIXES: [&str; 12] = [
    "TELEGRAM_",
    "DISCORD_",
    "SLACK_",
    "WHATSAPP_",
    "SIGNAL_",
    "MATRIX_",
    "MATTERMOST_",
    "MSTEAMS_",
    "GOOGLECHAT_",
    "LINE_",
    "FEISHU_",
    "ZALO_",
];
/// How they end.
const SECRETS: [&str; 4] = ["TOKEN", "PASSWORD", "SECRET", "KEY"];

/// The channels that are on, by name. A token in `dotenv` counts by the name of its variable.
pub fn configured(config: &Value, dotenv: Option<&str>) -> BTreeSet<String> {
    let channels = config.get("channels").and_then(Value::as_object);
    let on = |entry: &Value| entry.get("enabled") != Some(&Value::Bool(false)) && !is_empty(entry);
    let mut found: BTreeSet<String> = channels
        .into_iter()
        .flatten()
        .filter(|(name, entry)| !SHARED.contains(&name.as_str()) && on(entry))
        .map(|(name, _)| shown(name))
        .collect();
    found.extend(dotenv.unwrap_or_default().lines().filter_map(token_of).map(shown));
    let variables = VARIABLES.iter().filter_map(|at| config.pointer(at)?.as_object()).flatten();
    let set = variables.filter(|(name, value)| is_token(name) && value.as_str() != Some(""));
    found.extend(set.map(|(name, _)| shown(name)));
    found
}

/// Where a configuration has variables of its own.
const VARIABLES: [&str; 2] = ["/env", "/env/vars"];

/// Whether a variable of this name holds a channel's token.
fn is_token(name: &str) -> bool {
    TOKENS.iter().any(|end| name.ends_with(end))
        || (PREFIXES.iter().any(|begin| name.starts_with(begin))
            && SECRETS.iter().any(|end| name.ends_with(end)))
}

/// A name as it may be printed: it comes from a file of the guest's.
fn shown(name: &str) -> String {
    name.chars().take(40).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn is_empty(entry: &Value) -> bool {
    entry.is_null() || entry.as_object().is_some_and(Map::is_empty)
}

/// The configuration without its channels: of their entries nothing stays but that they are off, so that no token is left in
/// the file, and their plugins are off too.
#[must_use]
pub fn without(config: &Value) -> Value {
    let mut config = config.clone();
    let mut names = Vec::new();
    match config.get_mut("channels") {
        Some(Value::Object(channels)) => {
            for (name, entry) in channels.iter_mut().filter(|(name, _)| !SHARED.contains(&name.as_str())) {
                names.push(name.clone());
                *entry = json!({"enabled": false});
            }
        }
        // Not what OpenClaw takes, and so nothing that anybody could miss.
        Some(other) => *other = json!({}),
        None => {}
    }
    let plugins = config.pointer_mut("/plugins/entries").and_then(Value::as_object_mut);
    if let Some(plugins) = plugins {
        for name in names {
            if let Some(Value::Object(plugin)) = plugins.get_mut(&name) {
                plugin.insert("enabled".to_owned(), Value::Bool(false));
            }
        }
    }
    for at in VARIABLES {
        if let Some(Value::Object(variables)) = config.pointer_mut(at) {
            variables.retain(|name, _| !is_token(name));
        }
    }
    config
}

/// The lines of `~/.openclaw/.env` without tokens of channels.
#[must_use]
pub fn without_tokens(dotenv: &str) -> String {
    dotenv
        .lines()
        .filter(|line| token_of(line).is_none())
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The name of the variable, when a line sets a token of a channel to something.
fn token_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let name = name.trim();
    let value = value.trim().trim_matches(['"', '\'']);
    (is_token(name) && !value.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &Value, dotenv: Option<&str>) -> Vec<String> {
        configured(config, dotenv).into_iter().collect()
    }

    #[test]
    fn a_channel_is_on_unless_it_is_switched_off() {
        let ours = json!({"channels": {"telegram": {"enabled": false}}});
        assert!(names(&ours, Some("OPENCLAW_GATEWAY_TOKEN=x\nDISCORD_BOT_TOKEN=\n")).is_empty());
        assert!(names(&json!({}), None).is_empty());
        let on = json!({"channels": {
            "defaults": {"groupPolicy": "open"}, "telegram": {"enabled": true}, "whatsapp": {"dmPolicy": "pairing"},
            "slack": {"enabled": false, "botToken": "x"}, "irc": {},
        }});
        assert_eq!(names(&on, None), ["telegram", "whatsapp"]);
        assert_eq!(names(&json!({}), Some("A=1\n export DISCORD_BOT_TOKEN=\"x\"\n")), ["DISCORD_BOT_TOKEN"]);
    }

    #[test]
    fn a_token_among_the_variables_turns_a_channel_on() {
        let config = json!({"env": {"DISCORD_BOT_TOKEN": "x", "A_KEY": "y", "vars": {
            "MATRIX_ACCESS_TOKEN": "x", "SLACK_APP_TOKEN": "", "MATRIX_HOMESERVER": "https://example.org"}}});
        assert_eq!(
            names(&config, Some("MSTEAMS_APP_PASSWORD=x\nANTHROPIC_API_KEY=y\n")),
            ["DISCORD_BOT_TOKEN", "MATRIX_ACCESS_TOKEN", "MSTEAMS_APP_PASSWORD"]
        );
        let without = without(&config);
        assert!(names(&without, None).is_empty());
        assert_eq!(
            without,
            json!({"env": {"A_KEY": "y", "vars": {"MATRIX_HOMESERVER": "https://example.org"}}})
        );
    }

    #[test]
    fn a_name_from_a_guest_moves_no_cursor() {
        let odd = json!({"channels": {"\u{1b}[2J": {"enabled": true}}});
        assert_eq!(names(&odd, None), ["?[2J"]);
    }

    #[test]
    fn without_leaves_no_token_and_nothing_on() {
        let config = json!({
            "channels": {"defaults": {"a": 1}, "telegram": {"botToken": "1:x"}, "slack": {"enabled": false, "appToken": "x"}},
            "plugins": {"entries": {"telegram": {"enabled": true, "config": {}}, "browser": {"enabled": true}}},
            "agents": {"x": 1},
        });
        let without = without(&config);
        assert_eq!(
            without,
            json!({
                "channels": {"defaults": {"a": 1}, "telegram": {"enabled": false}, "slack": {"enabled": false}},
                "plugins": {"entries": {"telegram": {"enabled": false, "config": {}}, "browser": {"enabled": true}}},
                "agents": {"x": 1},
            })
        );
        assert!(names(&without, None).is_empty());
        assert_eq!(without_tokens("A=1\nexport TELEGRAM_BOT_TOKEN=1:x\nB=2"), "A=1\nB=2\n");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_on_after_without(names in proptest::collection::btree_map("[a-z]{1,8}", proptest::option::of(proptest::bool::ANY), 0..6)) {
            let channels: Map<String, Value> =
                names.into_iter().map(|(name, on)| (name, json!({"enabled": on, "x": 1}))).collect();
            let config = json!({"channels": channels});
            proptest::prop_assert!(configured(&without(&config), None).is_empty());
        }
    }
}
