//! A [`Network`] that is a value: in memory, or in a file that several processes share. Refuses what the real one
//! refuses. Touches only the folder it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::{BridgeName, InstanceId, MacAddr, TapName},
    spec::NetworkSpec,
};
use serde::{Deserialize, Serialize};

use super::{Network, Port};
use crate::{fs, nft::Rules};

/// A link of the fake host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FakeLink {
    /// A bridge of ours.
    Bridge(NetworkSpec),
    /// A tap of ours, a port of the bridge.
    Tap {
        /// The bridge that it hangs on.
        bridge: BridgeName,
        /// What it was attached as.
        port: Port,
        /// The bytes a second that go to it, where that is limited.
        rate: Option<u64>,
    },
    /// Somebody else's.
    Foreign,
}

/// Everything that there is on the fake host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Links by name.
    pub links: BTreeMap<String, FakeLink>,
    /// TCP ports that are listened on.
    pub listening: BTreeSet<u16>,
    /// The addresses of the host itself.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The ruleset in force.
    pub firewall: Option<String>,
    /// Whether IPv4 forwarding is on.
    pub forwarding: bool,
    /// Taps that were at any time attached while the ruleset in force did not name them. Must stay empty.
    pub unguarded: BTreeSet<String>,
    /// The methods that fail.
    pub failing: BTreeSet<String>,
    /// The methods that were called to change something, with their object, in order.
    pub calls: Vec<String>,
}

impl State {
    fn note_unguarded(&mut self) {
        let rules = self.firewall.as_deref().unwrap_or_default();
        for (name, link) in &self.links {
            if matches!(link, FakeLink::Tap { .. }) && !rules.contains(&format!("\"{name}\"")) {
                self.unguarded.insert(name.clone());
            }
        }
    }
}

/// A network without a kernel. Clones share their state.
#[derive(Debug, Clone)]
pub struct FakeNetwork(Store);

#[derive(Debug, Clone)]
enum Store {
    Memory(Arc<Mutex<State>>),
    Dir(PathBuf),
}

impl Default for FakeNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeNetwork {
    /// A host with a loopback and an uplink, in memory.
    pub fn new() -> Self {
        Self(Store::Memory(Arc::new(Mutex::new(fresh()))))
    }

    /// The same in `network.json` of a folder, for several processes on one fake host. A folder that has the file
    /// already keeps its state.
    pub fn in_dir(dir: impl AsRef<Path>) -> Self {
        Self(Store::Dir(dir.as_ref().to_owned()))
    }

    /// A copy of everything.
    pub fn state(&self) -> State {
        self.with(|state| Ok(state.clone())).expect("the fake host can be read")
    }

    /// Lets a method (`"attach"`, `"install_firewall"`, …) fail until [`FakeNetwork::heal`].
    pub fn fail_on(&self, method: &str) {
        self.change(|state| state.failing.extend([method.to_owned()]));
    }

    /// Lets everything succeed again.
    pub fn heal(&self) {
        self.change(|state| state.failing.clear());
    }

    /// Lets somebody listen on a port.
    pub fn listen(&self, port: u16) {
        self.change(|state| state.listening.extend([port]));
    }

    /// Puts somebody else's idea of our tables into force: none, or other rules.
    pub fn meddle(&self, rules: Option<&str>) {
        self.change(|state| state.firewall = rules.map(str::to_owned));
    }

    /// Adds a link that is not ours.
    pub fn occupy_link(&self, name: &str) {
        self.change(|state| state.links.extend([(name.to_owned(), FakeLink::Foreign)]));
    }

    /// The names of our taps.
    pub fn taps(&self) -> BTreeSet<String> {
        let links = self.state().links;
        links
            .into_iter()
            .filter(|(_, link)| matches!(link, FakeLink::Tap { .. }))
            .map(|(name, _)| name)
            .collect()
    }

    /// Whether nothing of ours is left.
    pub fn is_clean(&self) -> bool {
        let state = self.state();
        state.firewall.is_none() && state.links.values().all(|link| *link == FakeLink::Foreign)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.with(|state| {
            change(state);
            Ok(())
        })
        .expect("the fake host can be written");
    }

    /// One method call: written down, and failed on request. A failing one has changed nothing.
    fn call<T>(&self, method: &str, object: &str, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.with(|state| {
            state.calls.push(format!("{method} {object}").trim_end().to_owned());
            if state.failing.contains(method) {
                return Err(Error::new("do", format!("{method} {object}")).because("the test made it fail"));
            }
            let result = change(state)?;
            state.note_unguarded();
            Ok(result)
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        match &self.0 {
            Store::Memory(state) => change(&mut state.lock().expect("no panic while held")),
            Store::Dir(dir) => {
                let _held = locked(dir)?;
                let path = dir.join("network.json");
                let before = fs::read_if_there(&path)?;
                let mut state = match &before {
                    Some(text) => serde_json::from_str(text).context("parse", path.display())?,
                    None => fresh(),
                };
                let result = change(&mut state);
                let after = serde_json::to_string_pretty(&state).context("render", path.display())?;
                if before.as_deref() != Some(after.as_str()) {
                    fs::write(&path, after.as_bytes(), 0o600)?;
                }
                result
            }
        }
    }
}

/// Waits for the folder's lock; the holder only ever reads and writes one file.
fn locked(dir: &Path) -> Result<File> {
    fs::make_private_dir(dir)?;
    let path = dir.join("network.lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).context("open", path.display())?;
    file.lock().context("lock", path.display())?;
    Ok(file)
}

fn fresh() -> State {
    let links = ["lo", "eth0"].map(|name| (name.to_owned(), FakeLink::Foreign)).into();
    State { links, ..State::default() }
}

impl Network for FakeNetwork {
    fn links(&self) -> Result<BTreeSet<String>> {
        self.with(|state| Ok(state.links.keys().cloned().collect()))
    }

    fn listening_ports(&self) -> Result<BTreeSet<u16>> {
        self.with(|state| Ok(state.listening.clone()))
    }

    fn own_addresses(&self) -> Result<BTreeSet<Ipv4Addr>> {
        self.with(|state| Ok(state.addresses.clone()))
    }

    fn ensure_bridge(&self, network: &NetworkSpec) -> Result<()> {
        let name = network.bridge.as_str();
        self.call("ensure_bridge", name, |state| {
            if matches!(state.links.get(name), Some(FakeLink::Tap { .. } | FakeLink::Foreign)) {
                return Err(Error::new("use", format!("link {name} as the bridge")).because("it is not ours"));
            }
            state.links.insert(name.to_owned(), FakeLink::Bridge(network.clone()));
            state.forwarding = true;
            Ok(())
        })
    }

    fn remove_bridge(&self, bridge: &BridgeName) -> Result<()> {
        self.call("remove_bridge", bridge.as_str(), |state| {
            let is_used = state
                .links
                .values()
                .any(|link| matches!(link, FakeLink::Tap { bridge: of, .. } if of == bridge));
            let is_ours = matches!(state.links.get(bridge.as_str()), Some(FakeLink::Bridge(_)));
            if is_ours && !is_used {
                state.links.remove(bridge.as_str());
            }
            Ok(())
        })
    }

    fn attach(&self, network: &NetworkSpec, port: &Port) -> Result<()> {
        let name = port.tap.as_str();
        self.call("attach", name, |state| {
            if !matches!(state.links.get(network.bridge.as_str()), Some(FakeLink::Bridge(_))) {
                return Err(
                    Error::new("find", format!("bridge {}", network.bridge)).because("it is not there")
                );
            }
            match state.links.get(name) {
                Some(FakeLink::Tap { port: present, .. }) if present.instance == port.instance => {}
                None => {}
                Some(_) => {
                    return Err(Error::new("create", format!("tap {name}"))
                        .because("a link of that name is not ours"));
                }
            }
            let rate = match state.links.get(name) {
                Some(FakeLink::Tap { rate, .. }) => *rate,
                _ => None,
            };
            let tap = FakeLink::Tap { bridge: network.bridge.clone(), port: port.clone(), rate };
            state.links.insert(name.to_owned(), tap);
            Ok(())
        })
    }

    fn detach(&self, instance: &InstanceId, tap: &TapName) -> Result<()> {
        self.call("detach", tap.as_str(), |state| {
            if matches!(state.links.get(tap.as_str()), Some(FakeLink::Tap { port, .. }) if port.instance == *instance)
            {
                state.links.remove(tap.as_str());
            }
            Ok(())
        })
    }

    fn limit(&self, instance: &InstanceId, tap: &TapName, bytes_per_second: Option<u64>) -> Result<()> {
        self.call("limit", tap.as_str(), |state| {
            if let Some(FakeLink::Tap { port, rate, .. }) = state.links.get_mut(tap.as_str())
                && port.instance == *instance
            {
                *rate = bytes_per_second;
            }
            Ok(())
        })
    }

    fn learn(&self, _: &NetworkSpec, _: MacAddr, ip: Ipv4Addr) -> Result<()> {
        self.call("learn", &ip.to_string(), |_| Ok(()))
    }

    fn install_firewall(&self, ruleset: &str) -> Result<()> {
        self.call("install_firewall", "", |state| {
            state.firewall = Some(ruleset.to_owned());
            Ok(())
        })
    }

    fn remove_firewall(&self) -> Result<()> {
        self.call("remove_firewall", "", |state| {
            state.firewall = None;
            Ok(())
        })
    }

    fn has_firewall(&self) -> Result<bool> {
        self.with(|state| Ok(state.firewall.is_some()))
    }

    fn rules(&self, ruleset: &str) -> Result<Rules> {
        self.with(|state| {
            Ok(match &state.firewall {
                None => Rules::Gone(["inet fireclaw", "bridge fireclaw"].map(str::to_owned).into()),
                Some(there) if there == ruleset => Rules::InForce,
                Some(_) => Rules::Changed(vec!["inet table fireclaw".to_owned()]),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use fireclaw_core::id::MacAddr;

    use super::*;

    fn port(id: &str) -> Port {
        let (instance, ip): (InstanceId, _) = (id.parse().unwrap(), Ipv4Addr::new(172, 16, 0, 2));
        let tap = instance.tap_candidates(ip).swap_remove(0);
        Port { instance, tap, mac: MacAddr::for_ip(ip), ip, owner_uid: 1000 }
    }

    fn a_life_in(network: &FakeNetwork, seen_by: &FakeNetwork) {
        let spec = NetworkSpec::default();
        assert!(network.attach(&spec, &port("a")).is_err(), "no bridge yet");
        network.ensure_bridge(&spec).unwrap();
        network.attach(&spec, &port("a")).unwrap();
        network.attach(&spec, &port("a")).unwrap();
        network.install_firewall("rules").unwrap();
        assert_eq!(seen_by.taps(), BTreeSet::from(["ta2".to_owned()]));
        assert!(seen_by.has_firewall().unwrap());
        seen_by.remove_bridge(&spec.bridge).unwrap();
        assert!(network.links().unwrap().contains("fc-br0"), "a bridge with a port stays");

        seen_by.fail_on("detach");
        assert!(network.detach(&port("a").instance, &port("a").tap).is_err());
        seen_by.heal();
        network.detach(&"other".parse().unwrap(), &port("a").tap).unwrap();
        assert!(!seen_by.taps().is_empty(), "another instance's tap is left alone");
        network.detach(&port("a").instance, &port("a").tap).unwrap();
        network.remove_bridge(&spec.bridge).unwrap();
        assert!(!seen_by.is_clean());
        network.remove_firewall().unwrap();
        assert!(seen_by.is_clean());
    }

    #[test]
    fn clones_share_one_host() {
        let network = FakeNetwork::new();
        a_life_in(&network, &network.clone());
    }

    #[test]
    fn two_on_one_folder_share_one_host() {
        let dir = tempfile::tempdir().unwrap();
        a_life_in(&FakeNetwork::in_dir(dir.path()), &FakeNetwork::in_dir(dir.path()));
    }

    #[test]
    fn a_tap_without_rules_is_noted_for_good() {
        let (network, spec) = (FakeNetwork::new(), NetworkSpec::default());
        network.ensure_bridge(&spec).unwrap();
        network.install_firewall("elements = { \"ta2\" }").unwrap();
        network.attach(&spec, &port("a")).unwrap();
        assert!(network.state().unguarded.is_empty());
        network.remove_firewall().unwrap();
        network.detach(&port("a").instance, &port("a").tap).unwrap();
        assert_eq!(network.state().unguarded, BTreeSet::from(["ta2".to_owned()]));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let network = FakeNetwork::new();
        network.occupy_link("fc-br0");
        assert!(network.ensure_bridge(&NetworkSpec::default()).is_err());
        let network = FakeNetwork::new();
        network.ensure_bridge(&NetworkSpec::default()).unwrap();
        network.occupy_link("ta2");
        assert!(network.attach(&NetworkSpec::default(), &port("a")).is_err());
    }
}
