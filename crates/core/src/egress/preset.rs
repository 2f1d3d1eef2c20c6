//! Lists of hosts by the name of the service that needs them. Touches nothing.

use std::{fmt, str::FromStr};

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// Anthropic's API.
    Anthropic,
    /// `OpenAI`'s API.
    Openai,
    /// `MiniMax`'s API, both of its addresses.
    Minimax,
    /// Telegram's bot API.
    Telegram,
    /// GitHub: web, API, git over HTTPS, releases, its container registry.
    Github,
    /// The npm registry.
    Npm,
    /// The Python package index.
    Pypi,
    /// Debian's packages.
    Debian,
    /// Docker Hub and Docker's own packages.
    Docker,
}

impl Preset {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Anthropic,
        Self::Openai,
        Self::Minimax,
        Self::Telegram,
        Self::Github,
        Self::Npm,
        Self::Pypi,
        Self::Debian,
        Self::Docker,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Openai => "openai",
            Self::Minimax => "minimax",
            Self::Telegram => "telegram",
            Self::Github => "github",
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Debian => "debian",
            Self::Docker => "docker",
        }
    }

    /// The hosts, as patterns, each at ports 80 and 443.
    pub const fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::Anthropic => &["api.anthropic.com"],
            Self::Openai => &["api.openai.com"],
            Self::Minimax => &["api.minimax.io", "api.minimaxi.com"],
            Self::Telegram => &["api.telegram.org"],
            Self::Github => &[
                "github.com",
                "api.github.com",
                "codeload.github.com",
                "uploads.github.com",
                "*.githubusercontent.com",
                "ghcr.io",
            ],
            Self::Npm => &["registry.npmjs.org"],
            Self::Pypi => &["pypi.org", "files.pythonhosted.org"],
            Self::Debian => &["deb.debian.org", "security.debian.org"],
            // The last three hold the layers; which one is asked depends on the day.
            Self::Docker => &[
                "registry-1.docker.io",
                "auth.docker.io",
                "index.docker.io",
                "download.docker.com",
                "production.cloudflare.docker.com",
                "production.cloudfront.docker.com",
                "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com",
            ],
        }
    }
}

impl FromStr for Preset {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == text).ok_or(())
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
