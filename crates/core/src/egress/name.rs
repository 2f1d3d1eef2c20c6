//! Names of hosts in one form, and patterns of them. Touches nothing.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// The name of a host: lower case, ASCII (IDN as punycode), without the dot at its end, not an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name as it comes over the wire: in a question, a Host header, a `ClientHello`. ASCII only; `None` is not a name.
    pub fn from_wire(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let good =
            !text.is_empty() && text.len() <= 253 && text.split('.').all(is_label) && !is_address(text);
        good.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The same of a Host header, which may have a port behind it.
    pub fn from_host_header(text: &str) -> Option<(Self, Option<u16>)> {
        match text.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Some((Self::from_wire(name)?, Some(port.parse().ok()?)))
            }
            _ => Some((Self::from_wire(text)?, None)),
        }
    }

    fn is_below(&self, parent: &Self) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }

    pub(super) fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

/// Underscores are in names of services, and some hosts have them.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What a client could take for an address: the last label is a number in one of the forms of `inet_aton`.
fn is_address(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit())
        || (last.starts_with("0x") || last.starts_with("0X"))
            && last[2..].bytes().all(|b| b.is_ascii_hexdigit())
}

impl FromStr for HostName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::refused("host", text.escape_debug(), why).hint(EXAMPLES));
        if text.parse::<std::net::IpAddr>().is_ok() || is_address(text.trim_end_matches('.')) {
            return refused("is an address, and addresses are allowed as CIDR:PORT");
        }
        let ascii = if text.is_ascii() {
            text.to_owned()
        } else {
            match idna::domain_to_ascii(text) {
                Ok(ascii) => ascii,
                Err(_) => return refused("is not a name that IDN knows"),
            }
        };
        match Self::from_wire(&ascii) {
            Some(name) => Ok(name),
            None => refused("is not the name of a host"),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a refused rule could have been.
pub(super) const EXAMPLES: &str = "rules look like example.com, example.com:8443, '*.example.com', 10.1.0.0/16:5432, or a preset such as anthropic";

/// One host, or the hosts below a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// This host.
    Exact(HostName),
    /// `*.NAME`: every host below it, at any depth, and not itself.
    Below(HostName),
}

impl NamePattern {
    /// Whether a host is meant.
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(parent) => host.is_below(parent),
        }
    }

    /// Whether everything that another pattern means is meant by this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Below(mine), Self::Below(theirs)) => mine == theirs || theirs.is_below(mine),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

impl FromStr for NamePattern {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::refused("host", text.escape_debug(), why).hint(EXAMPLES));
        let Some(parent) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return refused("has a star elsewhere than in `*.` at its beginning");
            }
            return Ok(Self::Exact(text.parse()?));
        };
        let parent: HostName = parent.parse()?;
        if parent.labels() < 2 {
            return refused("is a whole top-level domain");
        }
        Ok(Self::Below(parent))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}
