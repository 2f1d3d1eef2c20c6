//! The host's network as the engine sees it: one trait over bridge, taps and firewall. The real one is put together from
//! `link`, `tap` and `nft`.
//!
//! A link is ours when its alias says so: `fireclaw` on the bridge, `fireclaw:ID` on a tap. Nothing else is changed or
//! removed, with one exception: the Bash fireclaw left no alias, so its bridge and taps are known by name, kind and
//! place, and marked when they are met.

mod bridge;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
mod port;
mod sockets;
mod system;

use std::{collections::BTreeSet, net::Ipv4Addr};

use fireclaw_core::{
    error::Result,
    id::{BridgeName, InstanceId, MacAddr, TapName},
    spec::NetworkSpec,
};
use serde::{Deserialize, Serialize};
pub use system::SystemNetwork;

use crate::nft::Rules;

/// The alias of a bridge of ours.
pub const BRIDGE_ALIAS: &str = "fireclaw";

/// The alias of an instance's tap.
pub fn tap_alias(instance: &InstanceId) -> String {
    format!("{BRIDGE_ALIAS}:{instance}")
}

/// What a VM's card hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Whose it is; becomes the link's alias, by which a tap of ours is known.
    pub instance: InstanceId,
    /// The tap.
    pub tap: TapName,
    /// The address of the guest's card.
    pub mac: MacAddr,
    /// The guest's address.
    pub ip: Ipv4Addr,
    /// The user that may open the tap (the VMM's).
    pub owner_uid: u32,
}

/// Bridge, taps and firewall of this host.
pub trait Network: Send + Sync {
    /// The names of all links.
    fn links(&self) -> Result<BTreeSet<String>>;

    /// The TCP ports on which anything listens, on any address.
    fn listening_ports(&self) -> Result<BTreeSet<u16>>;

    /// The host's own IPv4 addresses. What listens on one is out of a guest's reach.
    fn own_addresses(&self) -> Result<BTreeSet<Ipv4Addr>>;

    /// Makes the bridge with its address, up, with IPv4 forwarding on. A bridge of that name that is not ours, or an
    /// address that another link has, is refused with a hint. Idempotent.
    fn ensure_bridge(&self, network: &NetworkSpec) -> Result<()>;

    /// Removes the bridge when it is ours and has no port left.
    fn remove_bridge(&self, bridge: &BridgeName) -> Result<()>;

    /// Makes the VM's tap, persistent, owned by its user, an isolated port of the bridge, up. Idempotent. A link of that
    /// name that is not this instance's is refused. Frames pass from here on: a ruleset with the VM in it comes first,
    /// and at the end [`Network::detach`] comes before the ruleset without it.
    fn attach(&self, network: &NetworkSpec, port: &Port) -> Result<()>;

    /// Removes the VM's tap. One that is not there is fine; one that is not this instance's is left alone.
    fn detach(&self, instance: &InstanceId, tap: &TapName) -> Result<()>;

    /// Lets so many bytes a second go to the VM, or as many as its tap takes. Idempotent. A tap that is not there, or is not
    /// this instance's, is left alone. What comes from the VM is in the ruleset.
    fn limit(&self, instance: &InstanceId, tap: &TapName, bytes_per_second: Option<u64>) -> Result<()>;

    /// Tells the host at which address of the bridge the guest's card is, so that what waits to be sent to a guest that has
    /// just woken goes out now and not with the next question for it, up to a second later.
    fn learn(&self, network: &NetworkSpec, mac: MacAddr, ip: Ipv4Addr) -> Result<()>;

    /// Puts a whole ruleset of ours into force in one transaction.
    fn install_firewall(&self, ruleset: &str) -> Result<()>;

    /// Removes our tables. Tables that are not there are fine.
    fn remove_firewall(&self) -> Result<()>;

    /// Whether our tables are in force.
    fn has_firewall(&self) -> Result<bool>;

    /// How what is in force stands to this ruleset. Changes nothing.
    fn rules(&self, ruleset: &str) -> Result<Rules>;
}
