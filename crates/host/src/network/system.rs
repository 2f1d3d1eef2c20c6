//! The real [`Network`]: this machine's, or the namespace's of the calling thread. Changes links, settings and firewall
//! through `link`, `tap` and `nft`.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf, sync::Arc};

use fireclaw_core::{
    error::Result,
    id::{BridgeName, InstanceId, MacAddr, TapName},
    spec::NetworkSpec,
};

use super::{Network, Port, bridge, port, sockets};
use crate::{
    exec::Exec,
    link::Netlink,
    nft::{self, Mark, Rules},
};

/// This machine's network.
#[derive(Clone)]
pub struct SystemNetwork {
    exec: Arc<dyn Exec>,
    mark: Option<PathBuf>,
}

impl SystemNetwork {
    /// `exec` runs `nft`; everything else is done by system calls.
    pub fn new(exec: Arc<dyn Exec>) -> Self {
        Self { exec, mark: None }
    }

    /// Remembers in this file which ruleset is in force, and leaves it alone while nobody has changed any rule since: what it
    /// has counted and refused stays.
    #[must_use]
    pub fn remembering(mut self, mark: PathBuf) -> Self {
        self.mark = Some(mark);
        self
    }
}

impl Network for SystemNetwork {
    fn links(&self) -> Result<BTreeSet<String>> {
        Ok(Netlink::open()?.links()?.into_iter().map(|link| link.name).collect())
    }

    fn listening_ports(&self) -> Result<BTreeSet<u16>> {
        sockets::listening()
    }

    fn own_addresses(&self) -> Result<BTreeSet<Ipv4Addr>> {
        Ok(Netlink::open()?.addresses()?.into_iter().map(|(_, net)| net.addr()).collect())
    }

    fn ensure_bridge(&self, network: &NetworkSpec) -> Result<()> {
        bridge::ensure(&Netlink::open()?, network)
    }

    fn remove_bridge(&self, name: &BridgeName) -> Result<()> {
        bridge::remove(&Netlink::open()?, name)
    }

    fn attach(&self, network: &NetworkSpec, port: &Port) -> Result<()> {
        port::attach(&Netlink::open()?, network, port)
    }

    fn detach(&self, instance: &InstanceId, tap: &TapName) -> Result<()> {
        port::detach(&Netlink::open()?, instance, tap)
    }

    fn limit(&self, instance: &InstanceId, tap: &TapName, bytes_per_second: Option<u64>) -> Result<()> {
        port::limit(&Netlink::open()?, instance, tap, bytes_per_second)
    }

    fn learn(&self, network: &NetworkSpec, mac: MacAddr, ip: Ipv4Addr) -> Result<()> {
        let netlink = Netlink::open()?;
        match netlink.find(network.bridge.as_str())? {
            Some(bridge) => netlink.learn(&bridge, mac, ip),
            None => Ok(()),
        }
    }

    fn install_firewall(&self, ruleset: &str) -> Result<()> {
        let Some(path) = &self.mark else { return nft::install(&*self.exec, ruleset) };
        Mark::at(path).keep(ruleset, || nft::install(&*self.exec, ruleset))
    }

    fn remove_firewall(&self) -> Result<()> {
        nft::remove(&*self.exec)
    }

    fn has_firewall(&self) -> Result<bool> {
        nft::is_installed(&*self.exec)
    }

    fn rules(&self, ruleset: &str) -> Result<Rules> {
        nft::compare(&*self.exec, ruleset)
    }
}
