//! Connections to model providers: TLS with the public authorities, and nothing else. Tests give other addresses and one more
//! authority by the host's configuration file, which no guest can write.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use fireclaw_core::{
    broker::Provider,
    egress::HostName,
    error::{Error, Result},
};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Sidecar, dial,
    forward::{self, Idle, Up},
};

/// The error is for the log of refusals.
type Told<T> = std::result::Result<T, String>;

const HANDSHAKE: Duration = Duration::from_secs(10);
const PORT: u16 = 443;

/// Where providers are, when not at their public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// `HOST:PORT` in place of a provider's.
    pub authorities: BTreeMap<Provider, String>,
    /// An authority more, as PEM.
    pub ca: Option<PathBuf>,
}

pub(super) struct Upstream {
    others: Upstreams,
    ca: Vec<CertificateDer<'static>>,
    tls: RefCell<Option<Arc<ClientConfig>>>,
    idle: RefCell<BTreeMap<Provider, Idle>>,
}

impl Upstream {
    /// Reads the authority while the process may: the file can be root's.
    pub(super) fn new(others: Upstreams) -> Result<Self> {
        let mut ca = Vec::new();
        if let Some(path) = &others.ca {
            let read = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
            ca = read.map_err(|error| {
                Error::new("read", format!("the certificate authority in {}", path.display()))
                    .source(error)
                    .hint("`provider_ca` of the configuration file names it: one or more certificates as PEM")
            })?;
        }
        Ok(Self { ca, others, tls: RefCell::default(), idle: RefCell::default() })
    }

    /// New keys are for new connections.
    pub(super) fn forget(&self) {
        self.idle.borrow_mut().clear();
    }

    /// The Host of a provider.
    pub(super) fn authority(&self, provider: Provider) -> &str {
        self.others.authorities.get(&provider).map_or(provider.authority(), String::as_str)
    }

    pub(super) fn idle(&self, provider: Provider) -> Idle {
        self.idle.borrow_mut().entry(provider).or_default().clone()
    }

    /// Made at the first use: who brokers no keys pays nothing for the authorities.
    fn tls(&self) -> Told<Arc<ClientConfig>> {
        if let Some(config) = &*self.tls.borrow() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        roots.add_parsable_certificates(self.ca.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        *self.tls.borrow_mut() = Some(Arc::clone(&config));
        Ok(config)
    }
}

/// A new connection to a provider.
pub(super) async fn connect(sidecar: &Rc<Sidecar>, provider: Provider) -> Told<SendRequest<Up>> {
    let upstream = &sidecar.upstream;
    let authority = upstream.authority(provider);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| "a port that is none".to_owned())?),
        None => (authority, PORT),
    };
    let stream = if upstream.others.authorities.contains_key(&provider) {
        elsewhere(sidecar, host, port).await?
    } else {
        let name = HostName::from_wire(host).ok_or("a host that is no name")?;
        dial::connect(sidecar, &sidecar.resolver.lookup(&name).await?, port).await?
    };
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connecting = TlsConnector::from(upstream.tls()?).connect(name, stream);
    let stream = timeout(HANDSHAKE, connecting)
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|error| format!("TLS: {error}"))?;
    forward::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
}

/// Where the host's administrator says, be it private.
async fn elsewhere(sidecar: &Sidecar, host: &str, port: u16) -> Told<TcpStream> {
    let ip = if let Ok(ip) = host.parse::<IpAddr>() {
        ip
    } else {
        let name = HostName::from_wire(host).ok_or("a host that is no name")?;
        let found = sidecar.resolver.lookup(&name).await?;
        IpAddr::V4(*found.first().ok_or("the name has no address")?)
    };
    let connecting = TcpStream::connect(SocketAddr::new(ip, port));
    let stream = timeout(HANDSHAKE, connecting).await.map_err(|_| "no answer".to_owned())?;
    stream.map_err(|error| format!("no connection: {error}"))
}
