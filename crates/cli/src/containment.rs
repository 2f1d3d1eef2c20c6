//! What keeps an instance in, from its record into force: the firewall, the sidecar, what the guest is told. Works through the
//! host's traits and the sidecar's socket.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use fireclaw_core::{
    broker::Provider,
    error::{Error, Result},
    id::InstanceId,
    report::ContainmentReport,
    secret::Secret,
    sidecar::{Orders, Report, Usage},
    spec::{EgressMode, KeyMode, Settings},
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

/// What the sidecar of an instance is started with. Read as root: the keys are root's, or a unit hands them over in a folder.
pub fn sidecar_of(
    app: &App,
    record: &InstanceRecord,
    credentials: Option<&Path>,
) -> Result<(sidecar::Spec, Orders)> {
    let paths = app.settings.layout.instance(&record.id)?;
    let handed_over = match credentials.map(|folder| folder.join("keys")) {
        Some(path) => fs::read_if_there(&path)?.map(|text| (path, text)),
        None => None,
    };
    let keys = match handed_over {
        Some((path, text)) => ProviderKeys::parse(&path.display().to_string(), &text)?,
        None => record.keys.clone(),
    };
    let spec = sidecar::Spec {
        address: address_of(record),
        guest: record.vm_ip,
        resolvers: resolvers(record, &setup_checks::host_resolv_conf()),
        socket: paths.sidecar_sock,
        usage: paths.usage,
        upstreams: upstreams(&app.settings),
    };
    Ok((spec, Orders::of(&record.containment, &keys)))
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
    if app.host.network.has_firewall()? {
        steps::reinstall_firewall(app)?;
    }
    let paths = app.settings.layout.instance(&record.id)?;
    let orders = Orders::of(&record.containment, &record.keys);
    if client::order(&paths.sidecar_sock, orders)?.is_some() {
        return Ok(());
    }
    // A proxy of before this was there takes no orders; the next one does.
    if fleet::service_status(app, &record.id, Service::Proxy).state == State::Active {
        app.host.supervisor.stop(&record.id, Service::Proxy, Duration::from_secs(5))?;
        app.host.supervisor.start(&record.id, Service::Proxy)?;
    }
    Ok(())
}

/// What the sidecar says of itself; `None` when none runs.
pub fn ask(app: &App, id: &InstanceId) -> Option<Report> {
    let paths = app.settings.layout.instance(id).ok()?;
    client::report(&paths.sidecar_sock).ok().flatten()
}

/// For `status`.
pub fn report(app: &App, record: &InstanceRecord) -> Result<ContainmentReport> {
    let containment = &record.containment;
    let live = ask(app, &record.id);
    let usage: BTreeMap<Provider, Usage> = if let Some(report) = &live {
        report.usage.clone()
    } else {
        let path = app.settings.layout.instance(&record.id)?.usage;
        let text = fs::read_if_there(&path).ok().flatten();
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
