//! The bridge: whose it is, whether its subnet is free, and making it so. Changes one link by `link`.

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::{BridgeName, MacAddr},
    spec::NetworkSpec,
};
use ipnet::Ipv4Net;

use super::BRIDGE_ALIAS;
use crate::link::{Link, LinkKind, Netlink, Route, sysctl};

/// A route to more than a /8 is a way to the whole internet in parts (as VPN clients set), not to a network of its own.
const WIDEST_NETWORK: u8 = 8;

pub(super) fn ensure(netlink: &Netlink, network: &NetworkSpec) -> Result<()> {
    let name = network.bridge.as_str();
    let links = netlink.links()?;
    let addresses = netlink.addresses()?;
    let present = links.iter().find(|link| link.name == name);
    if let Some(link) = present {
        check_ours(link, network, &addresses)?;
    }
    check_free(network, present, &links, &addresses, &netlink.routes()?)?;

    let mac = MacAddr::for_ip(network.gateway_ip());
    if let Some(link) = present {
        netlink.configure_bridge(name)?;
        // Guests remember the gateway's MAC: it changes only while there is none. The Bash fireclaw's followed its ports
        // until it is set, be it to what it is.
        let wanted = if has_ports(link, &links) { link.mac.clone() } else { mac.octets().to_vec() };
        if wanted != link.mac || !is_marked(link) {
            netlink.set_mac(link, &wanted)?;
        }
    } else {
        netlink.make_bridge(name, mac)?;
    }
    let link = netlink.find(name)?.ok_or_else(|| gone(name))?;
    netlink.set_alias(link.index, name, BRIDGE_ALIAS)?;
    sysctl::quieten(name)?;
    set_address(netlink, network, &link, has_ports(&link, &links), &addresses)?;
    netlink.set_up(link.index, name)?;
    sysctl::enable_forwarding()
}

pub(super) fn remove(netlink: &Netlink, name: &BridgeName) -> Result<()> {
    let links = netlink.links()?;
    let Some(link) = links.iter().find(|link| link.name == name.as_str()) else {
        return Ok(());
    };
    if link.kind == LinkKind::Bridge && (is_marked(link) || is_half_made(link)) && !has_ports(link, &links) {
        netlink.delete(link)?;
    }
    Ok(())
}

/// The bridge that ports are added to: there and ours.
pub(super) fn find_ours<'a>(links: &'a [Link], name: &BridgeName) -> Result<&'a Link> {
    links
        .iter()
        .find(|link| link.name == name.as_str() && link.kind == LinkKind::Bridge && is_marked(link))
        .ok_or_else(|| gone(name.as_str()))
}

fn gone(name: &str) -> Error {
    Error::new("find", format!("bridge {name}"))
        .because("it is not there, or not fireclaw's")
        .hint("`fireclaw start` makes it; see whether another program removes it")
}

fn is_marked(link: &Link) -> bool {
    link.alias.as_deref() == Some(BRIDGE_ALIAS)
}

/// The kernel takes no alias at creation, so a crash can leave a bridge of ours with its MAC only.
fn is_half_made(link: &Link) -> bool {
    let ours = MacAddr::for_ip(std::net::Ipv4Addr::UNSPECIFIED).octets();
    link.alias.is_none() && link.mac.len() == ours.len() && link.mac.starts_with(&ours[..4])
}

/// The Bash fireclaw's bridge has the default name, the address that is asked for, and no mark.
fn is_bash_made(link: &Link, network: &NetworkSpec, addresses: &[(u32, Ipv4Net)]) -> bool {
    link.alias.is_none()
        && link.name == NetworkSpec::BRIDGE
        && addresses.contains(&(link.index, network.gateway))
}

fn has_ports(bridge: &Link, links: &[Link]) -> bool {
    links.iter().any(|link| link.master == Some(bridge.index))
}

fn check_ours(link: &Link, network: &NetworkSpec, addresses: &[(u32, Ipv4Net)]) -> Result<()> {
    let refuse = |why: &str, hint: String| {
        Err(Error::new("use", format!("link {} as the bridge", link.name))
            .kind(Kind::HostNotReady)
            .because(why)
            .hint(hint))
    };
    if link.kind != LinkKind::Bridge {
        return refuse("it is not a bridge", "set BRIDGE_NAME to a name that is free".to_owned());
    }
    if is_marked(link) || is_half_made(link) || is_bash_made(link, network, addresses) {
        return Ok(());
    }
    refuse(
        "it was not made by fireclaw",
        format!(
            "set BRIDGE_NAME to a name that is free, or, when an older fireclaw made it, mark it: \
             `ip link set dev {} alias {BRIDGE_ALIAS}`",
            link.name
        ),
    )
}

/// Refuses a subnet that another link of this host has or that a route leads elsewhere.
fn check_free(
    network: &NetworkSpec,
    bridge: Option<&Link>,
    links: &[Link],
    addresses: &[(u32, Ipv4Net)],
    routes: &[Route],
) -> Result<()> {
    let own = bridge.map(|link| link.index);
    let name_of = |index: u32| {
        links.iter().find(|link| link.index == index).map_or("another link", |link| link.name.as_str())
    };
    let by_address = addresses
        .iter()
        .find(|(index, net)| Some(*index) != own && overlap(network.subnet, *net))
        .map(|(index, net)| format!("{} has the address {net}", name_of(*index)));
    let by_route = || {
        routes
            .iter()
            .find(|route| {
                (route.link.is_none() || route.link != own)
                    && route.destination.prefix_len() >= WIDEST_NETWORK
                    && overlap(network.subnet, route.destination)
            })
            .map(|route| {
                format!("{} is routed to {}", route.destination, route.link.map_or("another link", name_of))
            })
    };
    let Some(why) = by_address.or_else(by_route) else {
        return Ok(());
    };
    Err(Error::new("use", format!("subnet {}", network.subnet)).kind(Kind::HostNotReady).because(why).hint(
        "set SUBNET_CIDR and BRIDGE_ADDR to a network that is free, such as 10.213.0.0/24 and 10.213.0.1/24",
    ))
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn set_address(
    netlink: &Netlink,
    network: &NetworkSpec,
    link: &Link,
    has_ports: bool,
    addresses: &[(u32, Ipv4Net)],
) -> Result<()> {
    let (wanted, others): (Vec<Ipv4Net>, Vec<Ipv4Net>) = addresses
        .iter()
        .filter(|(index, _)| *index == link.index)
        .map(|(_, net)| *net)
        .partition(|net| *net == network.gateway);
    if let Some(other) = others.first().filter(|_| has_ports) {
        return Err(Error::new("move", format!("bridge {} to {}", link.name, network.gateway))
            .kind(Kind::HostNotReady)
            .because(format!("it has the address {other} and instances on it"))
            .hint(format!("set BRIDGE_ADDR to {other} again, or stop and destroy these instances first")));
    }
    for other in others {
        netlink.remove_address(link.index, &link.name, other)?;
    }
    if wanted.is_empty() {
        netlink.add_address(link.index, &link.name, network.gateway)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        let mac = vec![2, 0, 0, 0, 0, 1];
        Link { index, name: name.into(), kind: LinkKind::Other, alias: None, master: None, mac, up: true }
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn conflict(address: Option<&str>, route: Option<&str>) -> Option<String> {
        let bridge = Link { kind: LinkKind::Bridge, ..link(3, "fc-br0") };
        let links = [link(2, "eth0"), bridge.clone()];
        let mut addresses = vec![(3, net("172.16.0.1/24"))];
        addresses.extend(address.map(|text| (2, net(text))));
        let mut routes = vec![Route { destination: net("172.16.0.0/24"), link: Some(3) }];
        routes.extend(route.map(|text| Route { destination: net(text), link: Some(2) }));
        check_free(&NetworkSpec::default(), Some(&bridge), &links, &addresses, &routes)
            .err()
            .map(|error| error.causes().join(": "))
    }

    #[test]
    fn a_subnet_that_is_in_use_is_refused_with_who_uses_it() {
        assert_eq!(conflict(Some("172.16.5.9/16"), None).unwrap(), "eth0 has the address 172.16.5.9/16");
        assert_eq!(conflict(Some("172.16.0.77/32"), None).unwrap(), "eth0 has the address 172.16.0.77/32");
        assert_eq!(conflict(None, Some("172.16.0.128/25")).unwrap(), "172.16.0.128/25 is routed to eth0");
        assert_eq!(conflict(None, Some("172.16.0.0/12")).unwrap(), "172.16.0.0/12 is routed to eth0");
    }

    #[test]
    fn neighbours_and_default_routes_are_no_conflict() {
        for (address, route) in [
            (None, None),
            (Some("172.16.1.1/24"), Some("172.16.1.0/24")),
            (None, Some("0.0.0.0/0")),
            (None, Some("128.0.0.0/1")),
        ] {
            assert_eq!(conflict(address, route), None);
        }
    }

    #[test]
    fn only_a_bridge_that_is_known_is_taken() {
        let network = NetworkSpec::default();
        let here = [(3, network.gateway)];
        let bridge = Link { kind: LinkKind::Bridge, ..link(3, "fc-br0") };
        let refused =
            |link: &Link, addresses: &[(u32, Ipv4Net)]| check_ours(link, &network, addresses).is_err();

        assert!(refused(&bridge, &[]), "a bridge of that name without our address");
        assert!(!refused(&bridge, &here), "the Bash fireclaw's");
        let marked = Link { alias: Some("fireclaw".into()), ..bridge.clone() };
        assert!(!refused(&marked, &[]));
        let half_made = Link { mac: vec![0x06, 0xfc, 0, 0x10, 0, 1], ..bridge.clone() };
        assert!(!refused(&half_made, &[]));
        let named = Link { alias: Some("lab".into()), ..bridge.clone() };
        assert!(refused(&named, &here), "a bridge that another marked");
        let veth = Link { kind: LinkKind::Other, alias: Some("fireclaw".into()), ..bridge };
        assert!(refused(&veth, &here), "no bridge");
    }
}
