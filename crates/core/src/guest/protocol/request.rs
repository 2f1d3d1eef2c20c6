//! The request. Touches nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    id::InstanceId,
    secret::{self, Secret},
    spec::value::{self, Runtime},
};

/// The version of the request. A guest refuses a higher one.
pub const VERSION: u32 = 1;

/// What `fireclaw guest provision` reads: the whole of what the guest should be, not a change to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvisionRequest {
    /// [`VERSION`] of the host.
    pub version: u32,
    /// The instance; the gateway's unit is named after it.
    pub instance_id: InstanceId,
    /// How the gateway runs.
    pub runtime: Runtime,
    /// The port on the host's loopback through which a browser comes: the UI refuses an origin that it does not know.
    pub host_port: u16,
    /// The gateway's token.
    #[serde(serialize_with = "secret::exposed")]
    pub gateway_token: Secret,
    /// `provider/name`.
    pub model: String,
    /// The bundled skills that may be used; none when empty.
    #[serde(default)]
    pub skills: Vec<String>,
    /// The bot, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telegram: Option<Telegram>,
    /// Keys of model providers.
    #[serde(default)]
    pub keys: Keys,
    /// The container image of the Docker runtime; empty for the native one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub openclaw_image: String,
    /// Whether a browser is wanted: installed where it is missing, and configured.
    #[serde(default)]
    pub browser: bool,
    /// Base URLs of model providers, by provider id, in place of their public addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, String>,
    /// Registries (`host:port`) from which images are pulled without TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
}

/// A Telegram bot and who may talk to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Telegram {
    /// The bot's token.
    #[serde(serialize_with = "secret::exposed")]
    pub token: Secret,
    /// Numeric user ids, at least one.
    pub users: Vec<u64>,
}

/// Keys of model providers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    /// Anthropic's.
    #[serde(default, serialize_with = "secret::exposed_option", skip_serializing_if = "Option::is_none")]
    pub anthropic: Option<Secret>,
    /// `OpenAI`'s.
    #[serde(default, serialize_with = "secret::exposed_option", skip_serializing_if = "Option::is_none")]
    pub openai: Option<Secret>,
    /// `MiniMax`'s.
    #[serde(default, serialize_with = "secret::exposed_option", skip_serializing_if = "Option::is_none")]
    pub minimax: Option<Secret>,
}

impl Keys {
    /// Whether there is a key for a provider id.
    pub fn has(&self, provider: &str) -> bool {
        match provider {
            "anthropic" => self.anthropic.is_some(),
            "openai" => self.openai.is_some(),
            "minimax" => self.minimax.is_some(),
            _ => false,
        }
    }
}

impl ProvisionRequest {
    /// Reads a request. An error names the field and never its value: the text holds secrets.
    pub fn parse(text: &str) -> Result<Self> {
        let version: Versioned = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        if version.version > VERSION {
            return Err(Error::refused(
                "request version",
                version.version,
                format!("this guest knows up to {VERSION}"),
            )
            .hint("the host copies its own fireclaw into the guest; run `fireclaw provision` again"));
        }
        let request: Self = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        request.check()?;
        Ok(request)
    }

    /// Refuses, by name, what the files of the guest could not hold byte for byte. The host has checked the same when the user
    /// said it; this is for requests of other origins.
    pub fn check(&self) -> Result<()> {
        let token = self.gateway_token.expose();
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'+' | b'/' | b'=');
        if token.is_empty() || !token.bytes().all(plain) {
            return Err(Error::refused(
                "gateway_token",
                "<hidden>",
                "is empty or has characters other than A-Z, a-z, 0-9, - _ . ~ + / =",
            ));
        }
        value::model(&self.model)?;
        for skill in &self.skills {
            value::one_line("--skills", skill)?;
        }
        if let Some(telegram) = &self.telegram {
            value::telegram_token(telegram.token.expose())?;
            if telegram.users.is_empty() {
                return Err(Error::refused(
                    "--telegram-users",
                    "",
                    "names nobody: the bot would answer no one",
                ));
            }
        }
        let keys = [
            ("--anthropic-api-key", &self.keys.anthropic),
            ("--openai-api-key", &self.keys.openai),
            ("--minimax-api-key", &self.keys.minimax),
        ];
        for (flag, key) in keys {
            if let Some(key) = key {
                value::api_key(flag, key.expose())?;
            }
        }
        if self.runtime == Runtime::Docker {
            value::container_image(&self.openclaw_image)?;
        }
        for (provider, url) in &self.providers {
            check_provider(provider, url)?;
        }
        for registry in &self.insecure_registries {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
            if registry.is_empty() || !registry.bytes().all(good) {
                return Err(Error::refused("insecure registry", registry.escape_debug(), "is not host:port"));
            }
        }
        Ok(())
    }
}

fn check_provider(provider: &str, url: &str) -> Result<()> {
    let id = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if provider.is_empty() || !provider.bytes().all(id) {
        return Err(Error::refused("provider", provider.escape_debug(), "is not a provider id"));
    }
    let http = url.starts_with("http://") || url.starts_with("https://");
    if !http || !url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::refused("provider URL", url.escape_debug(), "is not an http or https address"));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// `serde_json` quotes a wrong value in its message ("invalid type: string \"…\""), and values here may be secret. Where it
/// went wrong is enough.
fn unreadable(error: &serde_json::Error) -> Error {
    Error::new("read", "the request").because(format!(
        "{} at line {} column {}",
        if error.is_data() { "a field is missing or has the wrong type" } else { "it is not JSON" },
        error.line(),
        error.column()
    ))
}
