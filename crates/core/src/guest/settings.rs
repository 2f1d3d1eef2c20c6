//! A request as the keys of openclaw.json that fireclaw answers for. Every other key is the user's. Touches nothing.
//!
//! The keys and their meaning are OpenClaw's (2026.9): `openclaw config schema`. No secret is among them: tokens and keys reach
//! the gateway by its environment ([`super::environment`]), so the file can be shown and compared freely.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{GATEWAY_PORT, protocol::ProvisionRequest};
use crate::spec::value::Runtime;

/// One key that fireclaw answers for.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What; `None` is "not there".
    pub value: Option<Value>,
    /// How much it is insisted on.
    pub will: Will,
}

/// What happens to a value that the user changed by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Will {
    /// It is set back: without it the gateway does not start, or a changed secret would not be used.
    Insist,
    /// It stays until the request asks for something else than last time.
    Choose,
    /// As `Choose`, and a value that was there before fireclaw's first one stays too: nobody asked for ours.
    Suggest,
}

/// What the guest found out before it rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The browser that the gateway should drive, by its path where the gateway runs.
    pub browser: Option<Browser>,
    /// The gateway's token is another than last time, or it is the first time.
    pub gateway_token_changed: bool,
    /// The same of the bot's token.
    pub telegram_token_changed: bool,
}

/// A browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Browser {
    /// Its program; `None` where OpenClaw finds the image's own by itself.
    pub executable: Option<String>,
    /// Whether the kernel lets an ordinary user make the namespaces that its sandbox is made of.
    pub sandbox: bool,
}

/// In place of a key where a provider has another address: what listens there adds the real one, or needs none. OpenClaw does
/// not ask a provider for which it knows no key.
const NO_KEY: &str = "held-elsewhere";

/// `skills.allowBundled: []` means "all of them" to OpenClaw; a list with no skill's name in it means none.
const NO_SKILL: &str = "none";

/// The size at which OpenClaw rotates its log file. It keeps five old ones beside it.
const LOG_BYTES: u64 = 5 << 20;

/// The keys for a request. `base` is what was asked for last time ([`super::merge::base`]): a key that was and is no longer
/// is taken away again.
pub fn settings(
    request: &ProvisionRequest,
    facts: &Facts,
    base: Option<&BTreeMap<String, Option<Value>>>,
) -> Vec<Setting> {
    let mut all = Settings(Vec::new());
    gateway(&mut all, request, facts);
    all.choose("/agents/defaults/model/primary", Some(text(&request.model)));
    skills(&mut all, request);
    telegram(&mut all, request, facts);
    providers(&mut all, request);
    browser(&mut all, request, facts);
    all.suggest("/logging/file", Some(json!("~/.openclaw/logs/gateway.log")));
    all.suggest("/logging/maxFileBytes", Some(json!(LOG_BYTES)));
    for pointer in base.into_iter().flat_map(BTreeMap::keys) {
        if !all.0.iter().any(|setting| setting.pointer == *pointer) {
            all.choose(pointer, None);
        }
    }
    all.0
}

struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, pointer: &str, value: Option<Value>, will: Will) {
        self.0.push(Setting { pointer: pointer.to_owned(), value, will });
    }

    fn choose(&mut self, pointer: &str, value: Option<Value>) {
        self.add(pointer, value, Will::Choose);
    }

    /// A key that is chosen when there is something to choose. That it should not be there is nobody's wish: a value of an older
    /// tool or of a hand stays.
    fn maybe(&mut self, pointer: &str, value: Option<Value>) {
        let will = if value.is_some() { Will::Choose } else { Will::Suggest };
        self.add(pointer, value, will);
    }

    fn suggest(&mut self, pointer: &str, value: Option<Value>) {
        self.add(pointer, value, Will::Suggest);
    }

    /// A place where a secret could be written by hand or by an older tool, and would then hide the one in the environment.
    fn inline_secret(&mut self, pointer: &str, changed: bool) {
        self.add(pointer, None, if changed { Will::Insist } else { Will::Choose });
    }
}

fn gateway(all: &mut Settings, request: &ProvisionRequest, facts: &Facts) {
    all.add("/gateway/mode", Some(json!("local")), Will::Insist);
    all.choose("/gateway/port", Some(json!(GATEWAY_PORT)));
    all.choose("/gateway/bind", Some(json!("lan")));
    all.choose("/gateway/auth/mode", Some(json!("token")));
    all.inline_secret("/gateway/auth/token", facts.gateway_token_changed);
    all.choose("/gateway/tailscale/mode", Some(json!("off")));
    let port = request.host_port;
    all.choose(
        "/gateway/controlUi/allowedOrigins",
        Some(json!([format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")])),
    );
}

fn skills(all: &mut Settings, request: &ProvisionRequest) {
    let mut allowed: Vec<Value> = request.skills.iter().map(|skill| text(skill)).collect();
    if allowed.is_empty() {
        allowed.push(json!(NO_SKILL));
    }
    all.choose("/skills/allowBundled", Some(Value::Array(allowed)));
    // This one is off by default: it runs other agents with the gateway's rights.
    let coding = request.skills.iter().any(|skill| skill == "coding-agent");
    all.maybe("/skills/entries/coding-agent/enabled", coding.then(|| json!(true)));
}

fn telegram(all: &mut Settings, request: &ProvisionRequest, facts: &Facts) {
    let on = request.telegram.as_ref();
    let when_on = |value: Value| on.map(|_| value);
    all.choose("/channels/telegram/enabled", Some(json!(on.is_some())));
    all.inline_secret("/channels/telegram/botToken", facts.telegram_token_changed);
    all.inline_secret("/channels/telegram/tokenFile", facts.telegram_token_changed);
    all.maybe("/channels/telegram/dmPolicy", when_on(json!("allowlist")));
    all.maybe("/channels/telegram/allowFrom", on.map(|telegram| json!(telegram.users)));
    all.maybe("/channels/telegram/groupPolicy", when_on(json!("disabled")));
    all.choose("/plugins/entries/telegram/enabled", Some(json!(on.is_some())));
}

fn providers(all: &mut Settings, request: &ProvisionRequest) {
    for (provider, url) in &request.providers {
        let at = format!("/models/providers/{}", escaped(provider));
        all.choose(&format!("{at}/baseUrl"), Some(text(url)));
        all.choose(&format!("{at}/apiKey"), (!request.keys.has(provider)).then(|| json!(NO_KEY)));
        all.choose(&format!("{at}/models"), Some(json!([])));
    }
}

fn browser(all: &mut Settings, request: &ProvisionRequest, facts: &Facts) {
    let browser = facts.browser.as_ref().filter(|_| request.browser);
    all.maybe(
        "/browser/executablePath",
        browser.and_then(|browser| browser.executable.as_deref()).map(|path| json!(path)),
    );
    all.maybe("/browser/headless", browser.map(|_| json!(true)));
    // In a container of Docker's the namespaces of a sandbox are forbidden whatever the kernel would allow.
    let bare = browser.map(|browser| !browser.sandbox || request.runtime == Runtime::Docker);
    all.maybe("/browser/noSandbox", bare.map(|bare| json!(bare)));
}

/// A text as OpenClaw reads it back unchanged: it replaces `${NAME}` by a variable unless another `$` stands before it.
fn text(value: &str) -> Value {
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        if c == '$' && names_a_variable(&value[at + 1..]) {
            out.push('$');
        }
        out.push(c);
    }
    Value::String(out)
}

fn names_a_variable(after_dollar: &str) -> bool {
    let Some((name, _)) = after_dollar.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return false;
    };
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// One segment of a JSON pointer (RFC 6901).
pub(super) fn escaped(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
