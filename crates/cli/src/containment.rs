//! What keeps an instance in, from its record into force: the firewall, the sidecar, what the guest is told. Works through the
//! host's traits and the sidecar's socket.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use fireclaw_core::{
    broker::Provider,
    egress::EgressPolicy,
    error::{Error, Kind, Result},
    id::InstanceId,
    report::ContainmentReport,
    secret::Secret,
    sidecar::{Orders, Report, Usage},
    spec::{EgressMode, KeyMode, Rates, ServiceSpec, Settings, SupervisorKind},
    state::{InstanceRecord, ProviderKeys},
};
use fireclaw_host::{
    fs, keys,
    supervisor::{Service, State},
};

use crate::{
    app::App,
    fleet, setup_checks,
    sidecar::{self, Upstreams, client},
    steps,
};

/// A record that lacks nothing of its key mode. `by_default`: nobody said where the keys are to be.
pub fn completed(mut record: InstanceRecord, by_default: bool) -> Result<InstanceRecord> {
    if by_default && Provider::of_model(&record.model).is_some() {
        record.containment.keys = KeyMode::Broker;
    }
    if record.containment.keys == KeyMode::Broker && record.containment.broker_token.is_none() {
        // Not of a form that a provider's clients take for something special.
        let random = keys::random_token(&keys::SystemEntropy)?;
        record.containment.broker_token = Some(Secret::new(format!("fireclaw-{}", random.expose())));
    }
    Ok(record)
}

/// Says what does not follow from `--idle-after` alone.
pub fn warn_of_idle(app: &App, record: &InstanceRecord) {
    if record.idle.is_watched() && record.idle.sleeps_after(record.has_channel()).is_none() {
        app.ui.warn(&format!(
            "`{}` has a Telegram bot and is not put to sleep: it asks Telegram for messages, which nobody would do while it sleeps. \
             --idle-even-with-channels does it all the same",
            record.id
        ));
    }
}

/// What the guest is given in place of keys, or the keys, and the addresses of providers that are not their own.
pub fn guest_keys(record: &InstanceRecord) -> (ProviderKeys, BTreeMap<String, String>) {
    let containment = &record.containment;
    let token = containment.broker_token.as_ref().filter(|_| containment.keys == KeyMode::Broker);
    let Some(token) = token else { return (record.keys.clone(), BTreeMap::new()) };
    let origin = format!("http://{}", address_of(record));
    let mut keys = ProviderKeys::default();
    let mut providers = BTreeMap::new();
    for provider in Provider::ALL {
        if provider.key(&record.keys).is_some() || Provider::of_model(&record.model) == Some(provider) {
            provider.set_key(&mut keys, Some(token.clone()));
            providers.insert(provider.id().to_owned(), provider.base_url(&origin));
        }
    }
    (keys, providers)
}

/// Where an instance's sidecar listens.
fn address_of(record: &InstanceRecord) -> SocketAddrV4 {
    SocketAddrV4::new(record.network.gateway_ip(), record.host_port)
}

/// Where the sidecar of an instance takes orders, and where it keeps its counters.
fn sidecar_files(app: &App, record: &InstanceRecord) -> Result<(PathBuf, PathBuf)> {
    let paths = app.settings.layout.instance(&record.id)?;
    Ok(match app.supervised_by(record) {
        SupervisorKind::Systemd => (paths.sidecar_sock_of_unit, paths.usage_of_unit),
        SupervisorKind::Embedded => (paths.sidecar_sock, paths.usage),
    })
}

/// What the sidecar of an instance is started with.
pub fn sidecar_of(app: &App, record: &InstanceRecord) -> Result<(sidecar::Spec, Orders)> {
    let (socket, usage) = sidecar_files(app, record)?;
    let spec = sidecar::Spec {
        address: address_of(record),
        guest: record.vm_ip,
        resolvers: resolvers(record, &setup_checks::host_resolv_conf()),
        socket,
        usage,
        upstreams: upstreams(&app.settings),
    };
    Ok((spec, Orders::of(&record.containment, &record.keys)))
}

fn upstreams(settings: &Settings) -> Upstreams {
    Upstreams { authorities: settings.provider_authorities.clone(), ca: settings.provider_ca.clone() }
}

/// The instance's resolvers, else the host's, its own stub included.
fn resolvers(record: &InstanceRecord, resolv_conf: &str) -> Vec<SocketAddr> {
    let named =
        || resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    let mut servers: Vec<Ipv4Addr> =
        if record.dns.is_empty() { named().collect() } else { record.dns.clone() };
    if servers.is_empty() {
        servers.push(Ipv4Addr::new(1, 1, 1, 1));
    }
    servers.into_iter().map(|ip| (ip, 53).into()).collect()
}

/// Puts what a saved record says into force, without a restart of the guest.
pub fn apply(app: &App, record: &InstanceRecord) -> Result<()> {
    let supervisor = app.supervisor_of(record);
    // Its next start is to find the keys where they now are.
    supervisor.install(&record.id, &ServiceSpec::of(record, &app.settings))?;
    // Also where somebody flushed them while the VM runs.
    let network = &app.host.network;
    if network.has_firewall()? || network.links()?.contains(record.vm_tap.as_str()) {
        steps::reinstall_firewall(app)?;
    }
    let orders = Orders::of(&record.containment, &record.keys);
    if client::order(&sidecar_files(app, record)?.0, orders)?.is_some() {
        return Ok(());
    }
    // A proxy of before this was there takes no orders; the next one does.
    if fleet::service_status(app, record, Service::Proxy).state == State::Active {
        supervisor.stop(&record.id, Service::Proxy, Duration::from_secs(5))?;
        supervisor.start(&record.id, Service::Proxy)?;
    }
    Ok(())
}

/// What the sidecar says of itself; `None` when none runs.
pub fn ask(app: &App, record: &InstanceRecord) -> Option<Report> {
    let (socket, _) = sidecar_files(app, record).ok()?;
    client::report(&socket).ok().flatten()
}

/// For `status`.
pub fn report(app: &App, record: &InstanceRecord) -> Result<ContainmentReport> {
    let containment = &record.containment;
    let live = ask(app, record);
    let usage: BTreeMap<Provider, Usage> = if let Some(report) = &live {
        report.usage.clone()
    } else {
        let text = fs::read_if_there(&sidecar_files(app, record)?.1).ok().flatten();
        text.and_then(|text| serde_json::from_str(text.trim()).ok()).unwrap_or_default()
    };
    Ok(ContainmentReport {
        egress: containment.egress.mode.to_string(),
        allow: containment.egress.allow.iter().map(ToString::to_string).collect(),
        keys: containment.keys.to_string(),
        providers: Provider::ALL
            .into_iter()
            .filter(|provider| provider.key(&record.keys).is_some())
            .map(|provider| provider.to_string())
            .collect(),
        budget_requests_per_hour: containment.budget,
        requests_last_hour: live.as_ref().map(|report| report.last_hour),
        refused: live.as_ref().map(|report| report.refused),
        usage: usage.into_iter().map(|(provider, usage)| (provider.to_string(), usage)).collect(),
    })
}

/// Tells of what a policy leaves out that the instance is going to need.
pub fn warn(app: &App, record: &InstanceRecord) {
    let policy = &record.containment.egress;
    if policy.mode != EgressMode::Allow {
        return;
    }
    let mut needed = Vec::new();
    if record.containment.keys == KeyMode::Guest {
        needed
            .extend(Provider::of_model(&record.model).map(|provider| (provider.id(), provider.authority())));
    }
    if record.telegram_token.is_some() {
        needed.push(("telegram", "api.telegram.org"));
    }
    for (preset, host) in needed {
        let host = fireclaw_core::egress::HostName::from_wire(host);
        if host.is_some_and(|host| !policy.allows(&host, 443)) {
            app.ui.warn(&format!("the list leaves {preset} out: add it with --allow {preset}"));
        }
    }
}

/// Tells what a change of the key mode does not undo.
pub fn warn_of_change(app: &App, before: &InstanceRecord, after: &InstanceRecord) {
    if (before.containment.keys, after.containment.keys) == (KeyMode::Guest, KeyMode::Broker)
        && before.provisioned
    {
        app.ui.warn(
            "the keys of before were in the guest, and traces of them may be: make new ones at the provider, then `fireclaw keys ID rotate`",
        );
    }
}

/// Whether a record asks for what the Bash fireclaw's services do not do.
pub fn needs_own_services(record: &InstanceRecord) -> bool {
    record.containment.keys == KeyMode::Broker
        || record.containment.egress != EgressPolicy::default()
        || record.idle.is_watched()
        || record.rates != Rates::default()
}

/// Refuses what only services of ours do, for an instance that still runs in the Bash fireclaw's: a socat has no sidecar, and
/// a plain Firecracker no jail to keep a memory in.
pub fn need_own_services(app: &App, id: &InstanceId, verb: &'static str, object: String) -> Result<()> {
    let record = app.store().load(id)?;
    if !app.supervisor_of(&record).has_older_services(id)? {
        return Ok(());
    }
    Err(Error::new(verb, object)
        .kind(Kind::Refused)
        .because(format!(
            "`{id}` still runs in the services that the Bash fireclaw made; nothing was changed"
        ))
        .hint(format!("`fireclaw restart {id}` moves it to ours; then say it again")))
}

/// Refuses what needs the broker for an instance whose keys are in its guest.
pub fn need_broker(record: &InstanceRecord) -> Result<()> {
    if record.containment.keys == KeyMode::Broker {
        return Ok(());
    }
    Err(Error::refused("instance", &record.id, "keeps its keys in the guest").hint(format!(
        "`fireclaw provision {0} --keys broker` takes them out; `fireclaw provision {0} --anthropic-api-key-file FILE` changes one in the guest",
        record.id
    )))
}
