//! The network that VMs live in: a bridge, its address, a subnet. Touches nothing.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    id::BridgeName,
};

/// One bridge with its subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// `BRIDGE_NAME`
    pub bridge: BridgeName,
    /// `BRIDGE_ADDR`: the gateway's address with its prefix.
    pub gateway: Ipv4Net,
    /// `SUBNET_CIDR`: the addresses that VMs get.
    pub subnet: Ipv4Net,
}

impl NetworkSpec {
    /// The default bridge.
    pub const BRIDGE: &str = "fc-br0";
    /// The default bridge address.
    pub const GATEWAY: &str = "172.16.0.1/24";
    /// The default subnet.
    pub const SUBNET: &str = "172.16.0.0/24";

    /// Checks the three values against each other.
    pub fn new(bridge: &str, gateway: &str, subnet: &str) -> Result<Self> {
        let gateway_net: Ipv4Net = gateway
            .parse()
            .map_err(|_| Error::refused("BRIDGE_ADDR", gateway, "is not an address such as 172.16.0.1/24"))?;
        let subnet_net: Ipv4Net = subnet
            .parse()
            .map_err(|_| Error::refused("SUBNET_CIDR", subnet, "is not a network such as 172.16.0.0/24"))?;
        if !(16..=29).contains(&subnet_net.prefix_len()) {
            return Err(Error::refused("SUBNET_CIDR", subnet, "is not between /16 and /29"));
        }
        if subnet_net.trunc() != subnet_net {
            return Err(Error::refused("SUBNET_CIDR", subnet, "has bits set behind its prefix")
                .hint(format!("did you mean {}?", subnet_net.trunc())));
        }
        let address = gateway_net.addr();
        if !subnet_net.contains(&address) {
            return Err(Error::refused(
                "BRIDGE_ADDR",
                gateway,
                format!("is not inside SUBNET_CIDR {subnet_net}"),
            ));
        }
        if address == subnet_net.network() || address == subnet_net.broadcast() {
            return Err(Error::refused(
                "BRIDGE_ADDR",
                gateway,
                "is the network's own or its broadcast address",
            ));
        }
        if gateway_net.prefix_len() != subnet_net.prefix_len() {
            return Err(Error::refused(
                "BRIDGE_ADDR",
                gateway,
                format!("has another prefix than SUBNET_CIDR {subnet_net}"),
            ));
        }
        Ok(Self { bridge: bridge.parse()?, gateway: gateway_net, subnet: subnet_net })
    }

    /// The address that VMs route through.
    pub fn gateway_ip(&self) -> Ipv4Addr {
        self.gateway.addr()
    }
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self::new(Self::BRIDGE, Self::GATEWAY, Self::SUBNET).expect("the defaults are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_must_fit_each_other() {
        for (gateway, subnet, why) in [
            ("10.0.0.1/24", "172.16.0.0/24", "not inside"),
            ("172.16.0.0/24", "172.16.0.0/24", "network's own"),
            ("172.16.0.255/24", "172.16.0.0/24", "broadcast"),
            ("172.16.0.1/16", "172.16.0.0/24", "another prefix"),
            ("172.16.0.1/30", "172.16.0.0/30", "between /16 and /29"),
            ("10.0.0.1/8", "10.0.0.0/8", "between /16 and /29"),
            ("172.16.0.1/24", "172.16.0.5/24", "bits set"),
            ("x", "172.16.0.0/24", "not an address"),
            ("172.16.0.1/24", "x", "not a network"),
        ] {
            let error = NetworkSpec::new("br0", gateway, subnet).unwrap_err().one_line();
            assert!(error.contains(why), "{gateway} {subnet}: {error}");
        }
        assert!(NetworkSpec::new("a-name-too-long-for-a-link", "172.16.0.1/24", "172.16.0.0/24").is_err());
    }
}
