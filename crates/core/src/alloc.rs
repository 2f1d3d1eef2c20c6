//! The next free port, address, MAC and tap: pure functions over what is taken. Touches nothing.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::{
    error::{Error, Kind, Result},
    id::{InstanceId, MacAddr, TapName},
    spec::NetworkSpec,
};

/// What instances have, readable or half-made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Host ports.
    pub ports: BTreeSet<u16>,
    /// Guest addresses.
    pub ips: BTreeSet<Ipv4Addr>,
    /// Tap names, those of other programs' links included.
    pub links: BTreeSet<String>,
    /// Ports on which something listens.
    pub listening: BTreeSet<u16>,
}

/// What one instance gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The proxy's port.
    pub host_port: u16,
    /// The guest's address.
    pub vm_ip: Ipv4Addr,
    /// The card's address.
    pub vm_mac: MacAddr,
    /// The tap.
    pub vm_tap: TapName,
}

/// Gives an instance the first free of everything. `wanted_port` is the user's `--host-port`.
pub fn allocate(
    id: &InstanceId,
    network: &NetworkSpec,
    base_port: u16,
    wanted_port: Option<u16>,
    taken: &Taken,
) -> Result<Allocation> {
    let host_port = match wanted_port {
        Some(port) => wanted(port, taken)?,
        None => first_port(base_port, taken)?,
    };
    let vm_ip =
        network.subnet.hosts().find(|ip| *ip != network.gateway_ip() && !taken.ips.contains(ip)).ok_or_else(
            || {
                Error::new("allocate", "an address")
                    .because(format!("all of SUBNET_CIDR {} are taken", network.subnet))
                    .hint("destroy an instance, or set a larger SUBNET_CIDR and BRIDGE_ADDR")
            },
        )?;
    let vm_tap =
        id.tap_candidates(vm_ip).into_iter().find(|tap| !taken.links.contains(tap.as_str())).ok_or_else(
            || {
                Error::new("allocate", "a tap name")
                    .because(format!("the names that `{id}` could have are taken by other links"))
                    .hint("choose another id; `ip link` shows the links")
            },
        )?;
    Ok(Allocation { host_port, vm_ip, vm_mac: MacAddr::for_ip(vm_ip), vm_tap })
}

fn wanted(port: u16, taken: &Taken) -> Result<u16> {
    let why = if taken.ports.contains(&port) {
        "belongs to another instance"
    } else if taken.listening.contains(&port) {
        "is in use: something listens on it"
    } else {
        return Ok(port);
    };
    Err(Error::refused("--host-port", port, why)
        .hint("choose another port, or leave the flag out to get the first free one"))
}

fn first_port(base_port: u16, taken: &Taken) -> Result<u16> {
    (base_port..=u16::MAX)
        .skip(1)
        .find(|port| !taken.ports.contains(port) && !taken.listening.contains(port))
        .ok_or_else(|| {
            Error::new("allocate", "a host port")
                .kind(Kind::Failed)
                .because(format!("none is free above BASE_PORT {base_port}"))
                .hint("set a lower BASE_PORT")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_instance_gets_what_the_contract_says() {
        let got = allocate(&id("my-bot"), &NetworkSpec::default(), 18890, None, &Taken::default()).unwrap();
        assert_eq!(got.host_port, 18891);
        assert_eq!(got.vm_ip, Ipv4Addr::new(172, 16, 0, 2));
        assert_eq!(got.vm_mac.to_string(), "06:fc:00:10:00:02");
        assert_eq!(got.vm_tap.as_str(), "tmybot2");
    }

    #[test]
    fn a_taken_or_listening_port_is_skipped_and_refused_when_asked_for() {
        let taken = Taken { ports: [18891].into(), listening: [18892].into(), ..Taken::default() };
        let network = NetworkSpec::default();
        assert_eq!(allocate(&id("a"), &network, 18890, None, &taken).unwrap().host_port, 18893);
        for port in [18891, 18892] {
            let error = allocate(&id("a"), &network, 18890, Some(port), &taken).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
        }
    }

    #[test]
    fn a_full_subnet_says_so() {
        let network = NetworkSpec::new("br", "10.0.0.6/29", "10.0.0.0/29").unwrap();
        let mut taken = Taken::default();
        for n in 0..5 {
            let got = allocate(&id(&format!("i{n}")), &network, 20000, None, &taken).unwrap();
            taken.ips.insert(got.vm_ip);
            taken.ports.insert(got.host_port);
        }
        let error = allocate(&id("more"), &network, 20000, None, &taken).unwrap_err();
        assert!(error.one_line().contains("10.0.0.0/29"), "{}", error.one_line());
    }

    #[test]
    fn an_alike_tap_name_falls_back() {
        let network = NetworkSpec::new("br", "172.16.0.1/16", "172.16.0.0/16").unwrap();
        let taken = Taken { links: ["tmybot2".to_owned()].into(), ..Taken::default() };
        assert_eq!(
            allocate(&id("my-bot"), &network, 18890, None, &taken).unwrap().vm_tap.as_str(),
            "tmybot0002"
        );
    }

    proptest::proptest! {
        #[test]
        fn allocations_never_collide(names in proptest::collection::btree_set("[a-z0-9_]{1,12}", 1..40), prefix in 22_u8..=26) {
            let network = NetworkSpec::new("br", &format!("10.1.0.1/{prefix}"), &format!("10.1.0.0/{prefix}")).unwrap();
            let mut taken = Taken::default();
            let mut macs = BTreeSet::new();
            for name in names {
                let got = allocate(&id(&name), &network, 18890, None, &taken).unwrap();
                proptest::prop_assert!(network.subnet.contains(&got.vm_ip));
                proptest::prop_assert!(got.vm_ip != network.gateway_ip());
                proptest::prop_assert!(got.vm_ip != network.subnet.network() && got.vm_ip != network.subnet.broadcast());
                proptest::prop_assert!(taken.ips.insert(got.vm_ip));
                proptest::prop_assert!(taken.ports.insert(got.host_port));
                proptest::prop_assert!(taken.links.insert(got.vm_tap.to_string()));
                proptest::prop_assert!(macs.insert(got.vm_mac));
            }
        }
    }
}
