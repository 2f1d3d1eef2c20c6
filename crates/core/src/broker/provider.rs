//! The model providers that the broker forwards to, and the paths by which a guest names them. Touches nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{secret::Secret, state::ProviderKeys};

/// A provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Anthropic.
    Anthropic,
    /// `OpenAI`.
    Openai,
    /// `MiniMax`.
    Minimax,
}

impl Provider {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Anthropic, Self::Openai, Self::Minimax];

    /// The id that OpenClaw knows it by, and the first segment of its paths at the broker.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
            Self::Minimax => "minimax",
        }
    }

    /// The provider of a model `provider/name`.
    pub fn of_model(model: &str) -> Option<Self> {
        let id = model.split('/').next()?;
        Self::ALL.into_iter().find(|provider| provider.id() == id)
    }

    /// Where its API is.
    pub const fn authority(self) -> &'static str {
        match self {
            Self::Anthropic => "api.anthropic.com",
            Self::Openai => "api.openai.com",
            Self::Minimax => "api.minimax.io",
        }
    }

    /// What stands between the authority and the calls, as OpenClaw's own base URL of the provider has it.
    const fn base_path(self) -> &'static str {
        match self {
            Self::Anthropic => "",
            Self::Openai => "/v1",
            Self::Minimax => "/anthropic",
        }
    }

    /// The base URL that a guest is given; `origin` is the broker's `http://ADDRESS:PORT`.
    pub fn base_url(self, origin: &str) -> String {
        format!("{origin}/{}{}", self.id(), self.base_path())
    }

    /// The header that carries the key, and its value.
    pub fn credential(self, key: &Secret) -> (&'static str, String) {
        match self {
            Self::Anthropic => ("x-api-key", key.expose().to_owned()),
            Self::Openai | Self::Minimax => ("authorization", format!("Bearer {}", key.expose())),
        }
    }

    /// Its key among those of an instance.
    pub const fn key(self, keys: &ProviderKeys) -> Option<&Secret> {
        match self {
            Self::Anthropic => keys.anthropic.as_ref(),
            Self::Openai => keys.openai.as_ref(),
            Self::Minimax => keys.minimax.as_ref(),
        }
    }

    /// Puts its key among those of an instance, or takes it out.
    pub fn set_key(self, keys: &mut ProviderKeys, key: Option<Secret>) {
        *match self {
            Self::Anthropic => &mut keys.anthropic,
            Self::Openai => &mut keys.openai,
            Self::Minimax => &mut keys.minimax,
        } = key;
    }

    /// The flag that brings its key.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Anthropic => "--anthropic-api-key",
            Self::Openai => "--openai-api-key",
            Self::Minimax => "--minimax-api-key",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// Why a request target is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No provider of that name.
    NoProvider,
    /// A path that could be read in two ways.
    Ambiguous,
}

/// The provider that a request's path and query mean, and what is asked of it. A path that a server could resolve to
/// something else than it says is refused: `..`, empty segments, escaped separators, backslashes.
pub fn route(target: &str) -> Result<(Provider, &str), Refused> {
    let rest = target.strip_prefix('/').ok_or(Refused::Ambiguous)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let provider = Provider::ALL.into_iter().find(|provider| provider.id() == &rest[..end]);
    let provider = provider.ok_or(Refused::NoProvider)?;
    let asked = &rest[end..];
    let path = asked.split('?').next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    let doubtful = !path.starts_with('/')
        || path.split('/').skip(1).any(|segment| matches!(segment, "." | ".."))
        || path.contains("//")
        || ["%2e", "%2f", "%5c", "%00", "\\", "#", "@"].iter().any(|bad| lower.contains(bad))
        || !asked.bytes().all(|b| b.is_ascii_graphic());
    if doubtful { Err(Refused::Ambiguous) } else { Ok((provider, asked)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_one_provider_or_none() {
        assert_eq!(
            route("/anthropic/v1/messages?beta=true"),
            Ok((Provider::Anthropic, "/v1/messages?beta=true"))
        );
        assert_eq!(route("/openai/v1/responses"), Ok((Provider::Openai, "/v1/responses")));
        assert_eq!(
            route("/minimax/anthropic/v1/messages"),
            Ok((Provider::Minimax, "/anthropic/v1/messages"))
        );
        for stranger in ["/", "/v1/messages", "/anthropic.evil/v1", "/Anthropic/v1", "/anthropic%2f/v1"] {
            assert_eq!(route(stranger), Err(Refused::NoProvider), "{stranger}");
        }
        for tricky in [
            "http://evil.example/anthropic/v1",
            "//evil.example/anthropic",
            "/anthropic",
            "/anthropic?x",
            "/anthropic/../openai/v1",
            "/anthropic/v1/..",
            "/anthropic//evil.example/v1",
            "/anthropic/%2E%2e/x",
            "/anthropic/v1%2f..%2f",
            "/anthropic/v1\\..",
            "/anthropic/@evil.example",
        ] {
            assert!(route(tricky).is_err(), "{tricky}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_forwarded_is_a_path_of_the_provider(target in "\\PC{0,60}") {
            if let Ok((_, asked)) = route(&target) {
                proptest::prop_assert!(asked.starts_with('/') && !asked.starts_with("//") && !asked.contains("/../"));
            }
        }
    }
}
