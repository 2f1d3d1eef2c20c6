//! Links, addresses, routes and bridge ports over netlink. Talks to the kernel's rtnetlink, nothing else; what belongs to
//! whom and what is refused is decided in `network`.
//!
//! The library is asynchronous and its types change with every release: both stay inside this module. Each [`Netlink`]
//! lives in the network namespace of the thread that opened it.

mod shape;
pub mod sysctl;

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::MacAddr,
};
use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_core::Nla,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{
            BridgeStpState, InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        },
        neighbour::{NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use tokio::runtime::{Builder, Runtime};

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A tun or tap device with the uid that may open it, when there is one.
    Tap(Option<u32>),
    /// Anything else.
    Other,
}

/// One link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// A note that anybody may leave on it; ours says whose it is.
    pub alias: Option<String>,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Its MAC.
    pub mac: Vec<u8>,
    /// Whether it is up.
    pub up: bool,
}

/// A route of this host to somewhere else than itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// By which link, when it is one.
    pub link: Option<u32>,
}

/// `IFLA_TUN_OWNER` of `linux/if_link.h`, which the library hands over undecoded.
const IFLA_TUN_OWNER: u16 = 1;

/// The bit of 01:80:c2:00:00:0e among a bridge's group addresses. Frames to it go from the port to the host past every
/// hook of a firewall, unless the bridge is told to forward them; then they are frames like others.
const LLDP: u16 = 1 << 0x0e;

/// A netlink socket with the little runtime that drives it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_io().build().context("open", "a netlink socket")?;
        let (connection, handle) = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().context("open", "a netlink socket")?;
            (connection, handle)
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn wait<T>(
        &self,
        operation: &'static str,
        object: &str,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T> {
        self.runtime.block_on(answer).map_err(|error| {
            let made = Error::new(operation, object);
            match error {
                rtnetlink::Error::NetlinkError(message) => {
                    let source = message.to_io();
                    let made = if source.kind() == io::ErrorKind::PermissionDenied {
                        made.hint("links are changed by root only")
                    } else {
                        made
                    };
                    made.source(source)
                }
                other => made.source(other),
            }
        })
    }

    /// All links.
    pub fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.wait("list", "links", self.handle.link().get().execute().try_collect())?;
        Ok(messages.into_iter().filter_map(link).collect())
    }

    /// The link of this name.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        // A look-up by name fails on one that is not there; a list tells that apart from other failures.
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// All IPv4 addresses with the links that have them.
    pub fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>> {
        let messages: Vec<_> =
            self.wait("list", "addresses", self.handle.address().get().execute().try_collect())?;
        let mut addresses = Vec::new();
        for message in messages {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            let net = local.and_then(|address| Ipv4Net::new(address, message.header.prefix_len).ok());
            if let Some(net) = net {
                addresses.push((message.header.index, net));
            }
        }
        Ok(addresses)
    }

    /// All IPv4 routes to other hosts, of every table.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> =
            self.wait("list", "routes", self.handle.route().get(query).execute().try_collect())?;
        Ok(messages.into_iter().filter_map(|message| route(&message)).collect())
    }

    /// Makes a bridge with a MAC of its own, so that the MAC does not follow the ports that come and go. It is down.
    pub fn make_bridge(&self, name: &str, mac: MacAddr) -> Result<()> {
        let message = bridge_options(name).address(mac.octets().to_vec()).build();
        self.wait("create", &format!("bridge {name}"), self.handle.link().add(message).execute())
    }

    /// Sets the options of a bridge that is there, as [`Netlink::make_bridge`] does for a new one.
    pub fn configure_bridge(&self, name: &str) -> Result<()> {
        let message = bridge_options(name).build();
        self.wait("configure", &format!("bridge {name}"), self.handle.link().change(message).execute())
    }

    /// Gives a link a MAC that stays.
    pub fn set_mac(&self, link: &Link, mac: &[u8]) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).address(mac.to_vec()).build();
        self.wait("set the MAC of", &link.name, self.handle.link().change(message).execute())
    }

    /// Leaves a note on a link.
    pub fn set_alias(&self, index: u32, name: &str, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.wait("mark", &format!("link {name}"), self.handle.link().change(message).execute())
    }

    /// Sets a link up.
    pub fn set_up(&self, index: u32, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.wait("set up", &format!("link {name}"), self.handle.link().change(message).execute())
    }

    /// Gives a link an address and with it the route to the address's network.
    pub fn add_address(&self, index: u32, name: &str, address: Ipv4Net) -> Result<()> {
        let request = self.handle.address().add(index, address.addr().into(), address.prefix_len());
        self.wait("add", &format!("address {address} to {name}"), request.replace().execute())
    }

    /// Takes an address away from a link.
    pub fn remove_address(&self, index: u32, name: &str, address: Ipv4Net) -> Result<()> {
        let message = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address.addr(), address.prefix_len())
            .build();
        let request = self.handle.address().del(message);
        self.wait("remove", &format!("address {address} from {name}"), request.execute())
    }

    /// Makes a link a port of a bridge, closed as far as a bridge can close one: it exchanges frames with the bridge
    /// itself only (`isolated`), gets no frames for unknown or multicast addresses, and the bridge learns no address
    /// from it. Broadcasts stay, for ARP.
    pub fn join(&self, port: &Link, bridge: &Link) -> Result<()> {
        let object = format!("{} as a port of {}", port.name, bridge.name);
        if port.master != Some(bridge.index) {
            let message = LinkUnspec::new_with_index(port.index).controller(bridge.index).build();
            self.wait("add", &object, self.handle.link().change(message).execute())?;
        }
        let message = LinkBridgePort::new(port.index)
            .isolated(true)
            .hairpin(false)
            .learning(false)
            .flood(false)
            .mcast_flood(false)
            .bcast_flood(true)
            .group_fwd_mask(LLDP)
            .build();
        self.wait("close", &object, self.handle.link().set_port(message).execute())
    }

    /// Tells the bridge of `port` which MAC is behind it, as it does not learn that by itself.
    pub fn pin_mac(&self, port: &Link, mac: MacAddr) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(port.index, &mac.octets())
            .state(NeighbourState::Noarp)
            .flags(NeighbourFlags::Controller)
            .replace();
        self.wait("pin", &format!("{mac} to {}", port.name), request.execute())
    }

    /// Puts a neighbour's address into the host's table for a while, as an answer of its own would.
    pub fn learn(&self, link: &Link, mac: MacAddr, ip: Ipv4Addr) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add(link.index, ip.into())
            .link_layer_address(&mac.octets())
            .state(NeighbourState::Reachable)
            .replace();
        self.wait("tell", &format!("{} of {ip}", link.name), request.execute())
    }

    /// Deletes a link. One that has just gone is fine.
    pub fn delete(&self, link: &Link) -> Result<()> {
        let request = self.handle.link().del(link.index);
        let deleted = self.runtime.block_on(request.execute());
        match deleted {
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -nix::libc::ENODEV => {
                Ok(())
            }
            other => self.wait("delete", &format!("link {}", link.name), std::future::ready(other)),
        }
    }
}

/// No spanning tree: the bridge has no second way anywhere. No multicast snooping: no multicast passes it.
fn bridge_options(name: &str) -> LinkMessageBuilder<LinkBridge> {
    LinkMessageBuilder::<LinkBridge>::new(name)
        .stp_state(BridgeStpState::Disabled)
        .mcast_snooping(false)
        .group_fwd_mask(0)
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        alias: None,
        master: None,
        mac: Vec::new(),
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::LinkInfo(infos) => link.kind = kind(&infos),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let mut kind = LinkKind::Other;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => kind = LinkKind::Bridge,
            LinkInfo::Kind(InfoKind::Tun) if kind == LinkKind::Other => kind = LinkKind::Tap(None),
            LinkInfo::Data(InfoData::Tun(data)) => kind = LinkKind::Tap(owner(data)),
            _ => {}
        }
    }
    kind
}

fn owner(data: &[InfoTun]) -> Option<u32> {
    let attribute = data.iter().find(|attribute| attribute.kind() == IFLA_TUN_OWNER)?;
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.address_family != AddressFamily::Inet {
        return None;
    }
    let (mut destination, mut link) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some(Route { destination: Ipv4Net::new(destination, header.destination_prefix_length).ok()?, link })
}
