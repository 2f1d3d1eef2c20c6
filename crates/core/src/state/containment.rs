//! What keeps an instance in, as its record holds it: egress policy, where keys are, the broker's token and budget. A record
//! without these lines is one of before: public egress, keys in the guest. Touches nothing.

use super::Lines;
use crate::{
    egress::EgressPolicy,
    error::Result,
    secret::Secret,
    spec::{KeyMode, value},
    state::ProviderKeys,
};

/// The part of a record that the sidecar and the firewall are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containment {
    /// `EGRESS`, `EGRESS_ALLOW`
    pub egress: EgressPolicy,
    /// `KEY_MODE`
    pub keys: KeyMode,
    /// `BROKER_TOKEN`: what the guest shows instead of a key. Kept when the keys go into the guest, for the way back.
    pub broker_token: Option<Secret>,
    /// `BUDGET_REQUESTS_PER_HOUR`; `None` is without end.
    pub budget: Option<u32>,
}

impl Default for Containment {
    fn default() -> Self {
        Self { egress: EgressPolicy::default(), keys: KeyMode::Guest, broker_token: None, budget: None }
    }
}

impl Containment {
    /// Whether the sidecar has anything to do but the proxy's work.
    pub fn needs_sidecar(&self) -> bool {
        self.egress.is_by_name() || self.keys == KeyMode::Broker
    }

    /// Takes its lines out of a record.
    pub fn take(lines: &mut Lines) -> Result<Self> {
        let text = |value: Option<String>| value.filter(|text| !text.is_empty());
        Ok(Self {
            egress: EgressPolicy::parse(
                lines.take("EGRESS").as_deref(),
                lines.take("EGRESS_ALLOW").as_deref(),
            )?,
            keys: text(lines.take("KEY_MODE")).map_or(Ok(KeyMode::Guest), |text| text.parse())?,
            broker_token: text(lines.take("BROKER_TOKEN")).map(Secret::new),
            budget: text(lines.take("BUDGET_REQUESTS_PER_HOUR"))
                .map(|text| value::budget(&text))
                .transpose()?
                .flatten(),
        })
    }

    /// Adds its lines; none for what is as before.
    pub fn push(&self, lines: &mut Lines) {
        if self.egress != EgressPolicy::default() {
            lines.push("EGRESS", self.egress.mode.as_str());
            lines.push("EGRESS_ALLOW", self.egress.render_allow());
        }
        if self.keys == KeyMode::Broker {
            lines.push("KEY_MODE", self.keys.as_str());
        }
        if let Some(token) = &self.broker_token {
            lines.push("BROKER_TOKEN", token.expose());
        }
        if let Some(budget) = self.budget {
            lines.push("BUDGET_REQUESTS_PER_HOUR", budget.to_string());
        }
    }
}

const KEYS: [&str; 3] = ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "MINIMAX_API_KEY"];

impl ProviderKeys {
    /// The text of the file that holds the keys where they stay on the host.
    pub fn render(&self) -> Result<String> {
        let mut lines = Lines::default();
        for (name, key) in KEYS.into_iter().zip([&self.anthropic, &self.openai, &self.minimax]) {
            lines.push(name, key.as_ref().map(Secret::expose).unwrap_or_default());
        }
        lines.render()
    }

    /// Reads that file. `what` names it in errors.
    pub fn parse(what: &str, text: &str) -> Result<Self> {
        let mut lines = Lines::parse(what, text)?;
        let mut key = |name| lines.take(name).filter(|text| !text.is_empty()).map(Secret::new);
        Ok(Self { anthropic: key(KEYS[0]), openai: key(KEYS[1]), minimax: key(KEYS[2]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_is_as_before_and_writes_nothing_new() {
        let mut lines = Lines::parse("x", "FIRECLAW_STATE_FORMAT=plain-v2\nMODEL=a/b\n").unwrap();
        let old = Containment::take(&mut lines).unwrap();
        assert_eq!(old, Containment::default());
        assert!(!old.needs_sidecar());
        let mut lines = Lines::default();
        old.push(&mut lines);
        assert_eq!(lines, Lines::default());
    }

    #[test]
    fn what_is_written_is_read() {
        let rules = ["anthropic".to_owned(), "*.example.com:8443".to_owned()];
        let new = Containment {
            egress: EgressPolicy::default().changed(None, &rules).unwrap(),
            keys: KeyMode::Broker,
            broker_token: Some(Secret::new("fc-1")),
            budget: Some(60),
        };
        let mut lines = Lines::default();
        new.push(&mut lines);
        let mut again = Lines::parse("x", &lines.render().unwrap()).unwrap();
        assert_eq!(Containment::take(&mut again).unwrap(), new);
        assert!(again.rest().is_empty());
        let keys = ProviderKeys { openai: Some(Secret::new("sk-\"$'=x")), ..ProviderKeys::default() };
        assert_eq!(ProviderKeys::parse("keys", &keys.render().unwrap()).unwrap(), keys);
    }
}
