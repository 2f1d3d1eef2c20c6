//! One rule of an `allow` policy, between its text and its meaning. Touches nothing.

use std::{fmt, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{HostName, NamePattern, Preset, WEB_PORTS, address, name::EXAMPLES};
use crate::error::{Error, Result};

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    /// The hosts of a service.
    Preset(Preset),
    /// A host or the hosts below a name, at 80 and 443 or at one port.
    Host(NamePattern, Option<u16>),
    /// Addresses at a port, TCP and UDP, in whatever range.
    Network(Ipv4Net, u16),
}

impl Rule {
    pub(super) fn allows(&self, host: &HostName, port: u16) -> bool {
        match self {
            Self::Preset(_) => WEB_PORTS.contains(&port) && self.names(host),
            Self::Host(_, None) => WEB_PORTS.contains(&port) && self.names(host),
            Self::Host(_, Some(only)) => port == *only && self.names(host),
            Self::Network(..) => false,
        }
    }

    pub(super) fn names(&self, host: &HostName) -> bool {
        match self {
            Self::Preset(preset) => preset_patterns(*preset).any(|pattern| pattern.matches(host)),
            Self::Host(pattern, _) => pattern.matches(host),
            Self::Network(..) => false,
        }
    }

    pub(super) const fn named_port(&self) -> Option<u16> {
        match self {
            Self::Host(_, port) => *port,
            _ => None,
        }
    }

    pub(super) const fn network(&self) -> Option<(Ipv4Net, u16)> {
        match self {
            Self::Network(net, port) => Some((*net, *port)),
            _ => None,
        }
    }

    /// Whether all of another rule is allowed by this one, as far as names tell.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Preset(preset), Self::Host(theirs, None)) => {
                preset_patterns(*preset).any(|pattern| pattern.covers(theirs))
            }
            (Self::Host(mine, port), Self::Host(theirs, their_port)) => {
                port == their_port && mine.covers(theirs)
            }
            (Self::Network(mine, port), Self::Network(theirs, their_port)) => {
                port == their_port && mine.contains(theirs)
            }
            _ => false,
        }
    }
}

fn preset_patterns(preset: Preset) -> impl Iterator<Item = NamePattern> {
    preset.hosts().iter().map(|host| host.parse().expect("the presets are patterns"))
}

fn port(text: &str, whole: &str) -> Result<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(Error::refused(
            "--allow",
            whole.escape_debug(),
            "has no port from 1 to 65535 behind its colon",
        )
        .hint(EXAMPLES)),
    }
}

impl FromStr for Rule {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refused =
            |why: &str, hint: String| Err(Error::refused("--allow", text.escape_debug(), why).hint(hint));
        if let Ok(preset) = text.parse() {
            return Ok(Self::Preset(preset));
        }
        if text.contains("//") {
            return refused("is an address of a page", "give the host alone, such as example.com".to_owned());
        }
        if text.matches(':').count() > 1 || text.starts_with('[') {
            return refused("is IPv6, which VMs do not have", EXAMPLES.to_owned());
        }
        let (left, right) = match text.split_once(':') {
            Some((left, right)) => (left, Some(right)),
            None => (text, None),
        };
        let net = left
            .parse::<Ipv4Net>()
            .ok()
            .or_else(|| Some(Ipv4Net::from(left.parse::<std::net::Ipv4Addr>().ok()?)));
        let Some(net) = net else {
            if left.contains('/') {
                return refused("is neither a host nor a range of addresses", EXAMPLES.to_owned());
            }
            let presets = || {
                let presets: Vec<&str> = Preset::ALL.iter().map(|preset| preset.as_str()).collect();
                format!("presets: {}", presets.join(" "))
            };
            let no_name = || refused("is no preset and no full name of a host", presets());
            if right.is_none() && !left.contains('.') {
                return no_name();
            }
            let right = right.map(|right| port(right, text)).transpose()?;
            let host: NamePattern = left.parse()?;
            // A dot at the end, or one that IDN leaves out, makes no name of more labels: written without it, the rule would be
            // refused when it is read again, and the record with it.
            return match &host {
                NamePattern::Exact(name) if right.is_none() && name.labels() < 2 => no_name(),
                _ => Ok(Self::Host(host, right)),
            };
        };
        let Some(right) = right else {
            return refused("names addresses without a port", format!("for example {text}:443"));
        };
        if net.trunc() != net {
            return refused(
                "has bits set behind its prefix",
                format!("did you mean {}:{right}?", net.trunc()),
            );
        }
        if address::touches_never(net) {
            return refused(
                "reaches loopback, link-local, multicast or a metadata service, which no VM does",
                "name a smaller range".to_owned(),
            );
        }
        Ok(Self::Network(net, port(right, text)?))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(preset) => preset.fmt(f),
            Self::Host(pattern, None) => pattern.fmt(f),
            Self::Host(pattern, Some(port)) => write!(f, "{pattern}:{port}"),
            Self::Network(net, port) => write!(f, "{net}:{port}"),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}
