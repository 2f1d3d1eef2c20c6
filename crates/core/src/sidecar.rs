//! What the host says to a running sidecar and what it answers: one JSON line each way over its socket. Touches nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    broker::{Provider, Tokens},
    egress::EgressPolicy,
    error::Result,
    secret::{self, Secret},
    spec::KeyMode,
    state::{Containment, ProviderKeys},
};

/// One line of the host's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// From now on do this.
    Orders(Box<Orders>),
    /// Tell what was.
    Report,
}

/// What a sidecar is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Which names are answered and connected to.
    pub policy: EgressPolicy,
    /// The key broker, when the keys are on the host.
    pub broker: Option<BrokerOrders>,
}

/// What the key broker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerOrders {
    /// What the guest must show.
    #[serde(serialize_with = "secret::exposed")]
    pub token: Secret,
    /// The keys that there are.
    pub keys: Vec<BrokerKey>,
    /// Requests an hour.
    pub budget: Option<u32>,
}

/// A provider's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerKey {
    /// Whose.
    pub provider: Provider,
    /// The key.
    #[serde(serialize_with = "secret::exposed")]
    pub key: Secret,
}

impl Orders {
    /// What a record asks for.
    pub fn of(containment: &Containment, keys: &ProviderKeys) -> Self {
        let token = containment.broker_token.clone().filter(|_| containment.keys == KeyMode::Broker);
        let broker = token.map(|token| BrokerOrders {
            token,
            keys: Provider::ALL
                .into_iter()
                .filter_map(|provider| Some(BrokerKey { provider, key: provider.key(keys)?.clone() }))
                .collect(),
            budget: containment.budget,
        });
        Self { policy: containment.egress.clone(), broker }
    }

    /// Whether anything is to be listened for on the bridge.
    pub fn listens(&self) -> bool {
        self.policy.is_by_name() || self.broker.is_some()
    }
}

/// What a sidecar says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The policy in force, in words.
    pub egress: String,
    /// Connections of the guest that are open now.
    pub open: u64,
    /// Names that were answered.
    pub answered: u64,
    /// Connections that were made for the guest.
    pub connected: u64,
    /// Everything that was refused.
    pub refused: u64,
    /// The same by what it was and why, the latest last.
    pub refusals: Vec<Refusal>,
    /// Use of the keys, by provider.
    pub usage: BTreeMap<Provider, Usage>,
    /// Requests in the last hour.
    pub last_hour: u32,
}

/// Something that was refused, once or often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `dns`, `http`, `tls`, `tcp`, `broker`, or by the firewall `tcp`, `udp`.
    pub via: String,
    /// The name or address, with the port where there is one.
    pub what: String,
    /// Why.
    pub why: String,
    /// How often.
    pub times: u64,
    /// Seconds since 1970 of the last time; 0 where nobody knows.
    pub last: u64,
}

/// Use of a provider's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests that were forwarded.
    pub requests: u64,
    /// Requests that the provider answered with an error, or not at all.
    pub failed: u64,
    /// Bytes of bodies to it.
    pub bytes_up: u64,
    /// Bytes of bodies from it.
    pub bytes_down: u64,
    /// Tokens, where its answers say them.
    pub tokens: Tokens,
}

/// The most kinds of refusals that are remembered.
pub const REFUSALS_MAX: usize = 500;

/// Refusals, the same ones together, the oldest forgotten.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    /// Remembers one. What a guest wrote is cut to what fits a line of a terminal and holds no control characters.
    pub fn note(&mut self, via: &str, what: &str, why: &str, now: u64) {
        let shown: String = what.chars().take(120).flat_map(char::escape_debug).collect();
        let known =
            self.0.iter().position(|known| known.via == via && known.what == shown && known.why == why);
        let mut refusal = match known {
            Some(at) => self.0.remove(at),
            None => Refusal { via: via.into(), what: shown, why: why.into(), times: 0, last: now },
        };
        refusal.times += 1;
        refusal.last = now;
        if self.0.len() >= REFUSALS_MAX {
            self.0.remove(0);
        }
        self.0.push(refusal);
    }

    /// All of them, the latest last.
    pub fn list(&self) -> &[Refusal] {
        &self.0
    }
}

/// Reads a line. An error never shows it: orders hold keys.
pub fn read_ask(line: &str) -> Result<Ask> {
    serde_json::from_str(line).map_err(|error| {
        crate::error::Error::new("read", "an order").because(format!("at column {}", error.column()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_through_and_show_no_secret() {
        let containment = Containment {
            keys: KeyMode::Broker,
            broker_token: Some(Secret::new("token-1")),
            budget: Some(5),
            ..Containment::default()
        };
        let keys = ProviderKeys { minimax: Some(Secret::new("key-1")), ..ProviderKeys::default() };
        let orders = Orders::of(&containment, &keys);
        let line = serde_json::to_string(&Ask::Orders(Box::new(orders.clone()))).unwrap();
        assert!(!line.contains('\n'));
        let Ask::Orders(read) = read_ask(&line).unwrap() else { panic!("orders") };
        assert_eq!(*read, orders);
        assert!(!format!("{read:?}").contains("key-1") && !format!("{read:?}").contains("token-1"));
        assert!(
            !read_ask("{\"ask\":\"orders\",\"key\":\"sk-secret\"")
                .unwrap_err()
                .one_line()
                .contains("sk-secret")
        );
        let guest = Containment { keys: KeyMode::Guest, ..containment };
        assert_eq!(Orders::of(&guest, &keys), Orders::default());
    }

    #[test]
    fn refusals_are_counted_bounded_and_harmless() {
        let mut all = Refusals::default();
        for round in 0..2000u64 {
            all.note("dns", &format!("n{round}.example"), "not on the list", round);
            all.note("tls", "evil\u{1b}[2J\n", "not on the list", round);
        }
        assert_eq!(all.list().len(), REFUSALS_MAX);
        let last = all.list().last().unwrap();
        assert_eq!((last.times, last.last), (2000, 1999));
        assert!(!last.what.contains(['\u{1b}', '\n']));
    }
}
