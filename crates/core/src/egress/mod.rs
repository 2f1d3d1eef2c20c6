//! Where an instance may connect to, as a person says it and as the sidecar and the firewall ask. Touches nothing.

pub mod address;
pub mod hello;
mod name;
mod preset;
mod rule;

use std::{collections::BTreeSet, fmt};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::{
    name::{HostName, NamePattern},
    preset::Preset,
    rule::Rule,
};
use crate::{
    error::{Error, Result},
    spec::value::EgressMode,
};

/// The ports of a host that was allowed without one.
pub const WEB_PORTS: [u16; 2] = [80, 443];

/// The policy of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// What holds.
    pub mode: EgressMode,
    /// The list of `allow`. Kept, and without effect, in other modes.
    pub allow: Vec<Rule>,
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self { mode: EgressMode::Public, allow: Vec::new() }
    }
}

/// As many as a person still reads, and a bound for what the firewall and the sidecar hold.
const RULES_MAX: usize = 256;

impl EgressPolicy {
    /// The policy that `--egress` and `--allow` ask for, from the one that there is. A list means `allow`.
    pub fn changed(&self, mode: Option<EgressMode>, allow: &[String]) -> Result<Self> {
        if let Some(mode) = mode
            && mode != EgressMode::Allow
            && !allow.is_empty()
        {
            return Err(Error::refused("--allow", &allow[0], format!("contradicts --egress {mode}"))
                .hint("leave --egress out, or say --egress allow"));
        }
        let mut new = self.clone();
        if !allow.is_empty() {
            new = Self { mode: EgressMode::Allow, allow: Vec::new() }.with(allow)?;
        } else if let Some(mode) = mode {
            new.mode = mode;
        }
        Ok(new)
    }

    /// With more rules. One that is there already is fine.
    pub fn with(mut self, rules: &[String]) -> Result<Self> {
        for text in rules {
            let rule: Rule = text.parse()?;
            if !self.allow.contains(&rule) {
                self.allow.push(rule);
            }
        }
        if self.allow.len() > RULES_MAX {
            return Err(Error::refused(
                "--allow",
                self.allow.len(),
                format!("rules are more than {RULES_MAX}"),
            )
            .hint("use wildcards such as '*.example.com'"));
        }
        Ok(self)
    }

    /// With fewer rules. Each must be there, so that a slip of the pen leaves nothing open.
    pub fn without(mut self, rules: &[String]) -> Result<Self> {
        for text in rules {
            let rule: Rule = text.parse()?;
            let before = self.allow.len();
            self.allow.retain(|known| *known != rule);
            if self.allow.len() == before {
                let why = if self.allow.iter().any(|known| known.covers(&rule)) {
                    "is part of another rule of the list"
                } else {
                    "is not on the list"
                };
                return Err(
                    Error::refused("rule", rule, why).hint(format!("the list is: {}", list(&self.allow)))
                );
            }
        }
        Ok(self)
    }

    /// The list as one line of a record.
    pub fn render_allow(&self) -> String {
        self.allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The two lines of a record.
    pub fn parse(mode: Option<&str>, allow: Option<&str>) -> Result<Self> {
        let mode = mode.filter(|text| !text.is_empty()).map_or(Ok(EgressMode::Public), str::parse)?;
        let rules: Vec<String> =
            allow.unwrap_or_default().split(',').filter(|rule| !rule.is_empty()).map(str::to_owned).collect();
        Self { mode, allow: Vec::new() }.with(&rules)
    }

    /// Whether names are checked: the sidecar resolves and relays.
    pub fn is_by_name(&self) -> bool {
        self.mode == EgressMode::Allow
    }

    /// Whether a host may be connected to at a port.
    pub fn allows(&self, host: &HostName, port: u16) -> bool {
        self.is_by_name() && self.allow.iter().any(|rule| rule.allows(host, port))
    }

    /// Whether a name is answered at all.
    pub fn resolves(&self, host: &HostName) -> bool {
        self.is_by_name() && self.allow.iter().any(|rule| rule.names(host))
    }

    /// The TCP ports that the firewall turns to the sidecar.
    pub fn redirected_ports(&self) -> BTreeSet<u16> {
        if !self.is_by_name() {
            return BTreeSet::new();
        }
        // A refused web request is told by name, so these are turned whatever the list says.
        WEB_PORTS.into_iter().chain(self.allow.iter().filter_map(Rule::named_port)).collect()
    }

    /// The addresses and ports that are open without a name.
    pub fn networks(&self) -> Vec<(Ipv4Net, u16)> {
        if !self.is_by_name() {
            return Vec::new();
        }
        self.allow.iter().filter_map(Rule::network).collect()
    }

    /// Whether an address may be told to the guest: a public one, or one that it may reach by the list.
    pub fn may_learn(&self, ip: std::net::Ipv4Addr) -> bool {
        address::is_public(ip) || self.networks().iter().any(|(net, _)| net.contains(&ip))
    }
}

impl fmt::Display for EgressPolicy {
    /// `public`, or `allow: anthropic, example.com`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_by_name() { write!(f, "{}: {}", self.mode, list(&self.allow)) } else { self.mode.fmt(f) }
    }
}

fn list(rules: &[Rule]) -> String {
    if rules.is_empty() {
        return "nothing".to_owned();
    }
    rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
