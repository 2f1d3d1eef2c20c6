//! Steps on the host's network: the bridge, the firewall over all instances, the tap's end. Works through the network trait,
//! under its lock.

use std::time::Duration;

use fireclaw_core::{
    error::Result,
    id::InstanceId,
    render::nft::{self, VmRules},
    spec::{NetworkSpec, VmmKind},
    state::InstanceRecord,
};
use fireclaw_host::{lock, network::Port, nft::Rules};

use super::Steps;
use crate::{
    app::App,
    store::{Found, Store},
};

/// How long a change of bridge and firewall may take others.
const PATIENCE: Duration = Duration::from_mins(1);

impl Steps<'_> {
    pub(super) fn join_network(&self) -> Result<()> {
        join(self.app, self.known()?)
    }

    pub(super) fn leave_network(&self) -> Result<()> {
        let network = &self.app.host.network;
        let _lock = hold(self.app)?;
        // A record that cannot be read may still name its tap.
        let taps = match &self.record {
            Some(record) => vec![record.vm_tap.clone()],
            None => Store::new(&self.app.settings).taps_of(self.id.as_str()).into_iter().collect(),
        };
        for tap in &taps {
            network.detach(&self.id, tap)?;
        }
        self.leave_rules()
    }

    /// Carries `last` out, after which nothing tells of the instance any more, and takes it out of the rules once more:
    /// another instance that left at the same time still counted this one, and put it back.
    pub(super) fn leave_for_good(&self, last: impl FnOnce() -> Result<()>) -> Result<()> {
        let _lock = hold(self.app)?;
        last()?;
        if self.app.host.network.has_firewall()? { self.leave_rules() } else { Ok(()) }
    }

    /// Rules without this instance; without any, no rules and no bridge. Under the network's lock.
    fn leave_rules(&self) -> Result<()> {
        let network = &self.app.host.network;
        let (remaining, damaged) = others(self.app, &self.id)?;
        if remaining.is_empty() && !damaged {
            network.remove_firewall()?;
        } else {
            network.install_firewall(&render(&remaining))?;
        }
        self.remove_unused_bridge(&remaining, damaged)
    }

    fn remove_unused_bridge(&self, remaining: &[InstanceRecord], damaged: bool) -> Result<()> {
        let spec = self.record.as_ref().map_or(&self.app.settings.network, |record| &record.network);
        let shared = damaged || remaining.iter().any(|record| record.network.bridge == spec.bridge);
        if shared { Ok(()) } else { self.app.host.network.remove_bridge(&spec.bridge) }
    }
}

fn hold(app: &App) -> Result<lock::Lock> {
    lock::wait_for(&app.settings.layout.network_lock(), "the network", PATIENCE, &app.interrupt)
}

/// Bridge and rules for an instance, with those of all others.
pub fn join(app: &App, record: &InstanceRecord) -> Result<()> {
    let _lock = hold(app)?;
    app.host.network.ensure_bridge(&record.network)?;
    let (mut records, _) = others(app, &record.id)?;
    records.push(record.clone());
    records.sort_by(|a, b| a.id.cmp(&b.id));
    app.host.network.install_firewall(&render(&records))
}

/// How what is in force stands to what the records demand.
pub fn rules(app: &App) -> Result<Rules> {
    app.host.network.rules(&render(&app.store().records()?))
}

/// The rules of all instances anew, after somebody flushed them.
pub fn reinstall_firewall(app: &App) -> Result<()> {
    let _lock = hold(app)?;
    app.host.network.install_firewall(&render(&app.store().records()?))
}

/// Bridge, rules and tap: what a VM needs before its first packet.
pub fn attach(app: &App, record: &InstanceRecord) -> Result<()> {
    join(app, record)?;
    let port = Port {
        instance: record.id.clone(),
        tap: record.vm_tap.clone(),
        mac: record.vm_mac,
        ip: record.vm_ip,
        owner_uid: fireclaw_core::id::vmm_uid(record.vm_ip),
    };
    app.host.network.attach(&record.network, &port)
}

/// What goes to the VM. Firecracker keeps to the rate by itself; the tap may have been another VMM's before.
pub fn limit_network(app: &App, record: &InstanceRecord, vmm: VmmKind) -> Result<()> {
    let rate = record.rates.net_bytes().filter(|_| vmm == VmmKind::Qemu);
    app.host.network.limit(&record.id, &record.vm_tap, rate)
}

/// The readable instances but one, and whether there are damaged ones.
fn others(app: &App, but: &InstanceId) -> Result<(Vec<InstanceRecord>, bool)> {
    let mut records = Vec::new();
    let mut damaged = false;
    for found in app.store().all()? {
        match found {
            Found::Instance(record) if record.id != *but => records.push(*record),
            Found::Instance(_) => {}
            Found::Damaged { name, .. } => damaged |= name != but.as_str(),
        }
    }
    Ok((records, damaged))
}

/// The whole ruleset: each network with its VMs.
fn render(records: &[InstanceRecord]) -> String {
    let mut networks: Vec<(NetworkSpec, Vec<VmRules>)> = Vec::new();
    for record in records {
        let rules = VmRules {
            tap: record.vm_tap.clone(),
            mac: record.vm_mac,
            ip: record.vm_ip,
            resolvers: record.dns.clone(),
            egress: record.containment.egress.mode,
            sidecar: record
                .containment
                .needs_sidecar()
                .then(|| nft::Sidecar::of(record.host_port, &record.containment.egress)),
            // Firecracker keeps to it by itself.
            rate: record.rates.net_bytes().filter(|_| record.vmm == VmmKind::Qemu),
        };
        match networks.iter_mut().find(|(network, _)| *network == record.network) {
            Some((_, vms)) => vms.push(rules),
            None => networks.push((record.network.clone(), vec![rules])),
        }
    }
    nft::ruleset(&networks, &nft::Options::default())
}
