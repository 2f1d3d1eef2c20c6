//! A VM's tap as a port of the bridge. Changes one link by `tap` and `link`.

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::{InstanceId, TapName},
    spec::NetworkSpec,
};

use super::{Port, bridge, tap_alias};
use crate::{
    link::{Link, LinkKind, Netlink, sysctl},
    tap::{self, NewTap},
};

pub(super) fn attach(netlink: &Netlink, network: &NetworkSpec, port: &Port) -> Result<()> {
    let links = netlink.links()?;
    let bridge = bridge::find_ours(&links, &network.bridge)?;
    let name = port.tap.as_str();
    match links.iter().find(|link| link.name == name) {
        None => make(netlink, port)?,
        // A tap without a mark is only known by hanging on our bridge.
        Some(link)
            if is_of(link, &port.instance) && (link.alias.is_some() || link.master == Some(bridge.index)) =>
        {
            adopt(netlink, link, port)?;
        }
        Some(link) => return Err(taken(link)),
    }
    let link = find(netlink, &port.tap)?;
    sysctl::quieten(name)?;
    netlink.join(&link, bridge)?;
    netlink.pin_mac(&link, port.mac)?;
    // Up comes last: until here no frame has passed.
    netlink.set_up(link.index, name)
}

pub(super) fn detach(netlink: &Netlink, instance: &InstanceId, tap: &TapName) -> Result<()> {
    match netlink.find(tap.as_str())? {
        Some(link) if is_of(&link, instance) => netlink.delete(&link),
        _ => Ok(()),
    }
}

pub(super) fn limit(
    netlink: &Netlink,
    instance: &InstanceId,
    tap: &TapName,
    bytes_per_second: Option<u64>,
) -> Result<()> {
    match netlink.find(tap.as_str())? {
        Some(link) if is_of(&link, instance) => netlink.shape(&link, bytes_per_second),
        _ => Ok(()),
    }
}

fn make(netlink: &Netlink, port: &Port) -> Result<()> {
    let new = NewTap::make(&port.tap)?;
    let link = find(netlink, &port.tap)?;
    netlink.set_alias(link.index, port.tap.as_str(), &tap_alias(&port.instance))?;
    new.keep(port.owner_uid)
}

fn adopt(netlink: &Netlink, link: &Link, port: &Port) -> Result<()> {
    if link.kind != LinkKind::Tap(Some(port.owner_uid)) {
        tap::hand_over(&port.tap, port.owner_uid)?;
    }
    netlink.set_alias(link.index, &link.name, &tap_alias(&port.instance))
}

/// Whether a link that has the instance's tap name is its tap. The Bash fireclaw's taps have no alias and hang on a
/// bridge.
fn is_of(link: &Link, instance: &InstanceId) -> bool {
    matches!(link.kind, LinkKind::Tap(_))
        && match &link.alias {
            Some(alias) => *alias == tap_alias(instance),
            None => link.master.is_some(),
        }
}

fn taken(link: &Link) -> Error {
    let whose = match &link.alias {
        Some(alias) => format!("a link of that name belongs to `{alias}`"),
        None => "a link of that name is not fireclaw's".to_owned(),
    };
    Error::new("create", format!("tap {}", link.name)).kind(Kind::HostNotReady).because(whose).hint(format!(
        "see `ip -details link show {}`, and rename or delete it when nobody needs it",
        link.name
    ))
}

fn find(netlink: &Netlink, tap: &TapName) -> Result<Link> {
    netlink.find(tap.as_str())?.ok_or_else(|| {
        Error::new("find", format!("tap {tap}")).because("it has gone while it was being attached")
    })
}
