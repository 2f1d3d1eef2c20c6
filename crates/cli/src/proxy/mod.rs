//! The proxy: loopback's `PORT` to one address, the gateway in the guest. Listens, gives up root, copies.
//!
//! One thread. A connection that moves nothing owns no buffer: all share one, and only what a slow reader has not taken
//! is kept aside (docs/BENCHMARKS.md has the figures against `splice(2)`, which was no faster and needs four more
//! descriptors). Half-close is kept, a reset is passed on as a reset, and a quiet connection lives as long as both ends do.

mod confine;
mod listen;
mod reach;
pub(crate) mod relay;
mod rest;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    future::Future,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Context, Result},
    sidecar::Orders,
};
use fireclaw_host::memory;
use ipnet::Ipv4Net;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::{sleep, timeout},
};

pub use self::rest::Rest;
use self::{reach::Gateway, rest::Sleeper};
use crate::{
    crowd::Crowd,
    sidecar::{self, Prepared},
};

/// A guest that is up answers in microseconds; one that is down is noticed by the kernel after about three seconds.
const CONNECT: Duration = Duration::from_secs(10);
/// After SIGTERM a connection that is quiet for so long is taken as done…
const QUIET: Duration = Duration::from_millis(100);
/// …and the rest is cut after so long.
const GRACE: Duration = Duration::from_secs(2);
/// By then everything has begun.
const SETTLED: Duration = Duration::from_secs(2);
/// How long `accept` rests when the kernel has no descriptor or memory for another connection.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What a proxy does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySpec {
    /// The port on 127.0.0.1 and, where the host has IPv6, on `::1`.
    pub port: u16,
    /// The gateway.
    pub target: SocketAddr,
    /// The network that the gateway is in: nobody is talked to by another. `None` is any.
    pub network: Option<Ipv4Net>,
    /// More connections than these are closed as soon as they are accepted.
    pub max_connections: usize,
    /// A connection on which nothing moved for so long is closed. `None` keeps it: a WebSocket is quiet for hours, and
    /// keep-alive probes find the ends that are gone.
    pub idle: Option<Duration>,
    /// User and group to become once the port is bound.
    pub user: Option<(u32, u32)>,
}

impl ProxySpec {
    /// The defaults: 1,024 connections, any network, no idle limit, no change of user.
    pub const fn new(port: u16, target: SocketAddr) -> Self {
        Self { port, target, network: None, max_connections: 1024, idle: None, user: None }
    }

    const fn gateway(&self) -> Gateway {
        Gateway { address: self.target, network: self.network }
    }
}

/// Runs a proxy, with the instance's sidecar beside it, until SIGTERM or SIGINT. `ready` is called when the port is bound and root is given up; `note` gets a
/// line when the gateway becomes unreachable or reachable again, and when the limit of connections is met: at changes
/// only, so that no client can fill a log.
///
/// # Errors
/// A port that somebody else listens on, a user that cannot be become.
pub fn serve(
    spec: &ProxySpec,
    sidecar: Option<(sidecar::Spec, Orders)>,
    rest: Option<Rest>,
    ready: impl FnOnce(),
    note: impl Fn(&str) + Clone + 'static,
) -> Result<()> {
    let mut spec = spec.clone();
    // The sidecar's own connections are bounded; what there is less room for is taken from the proxy's.
    let beside = sidecar.as_ref().map_or(0, |(sidecar, _)| sidecar.connections());
    let room = confine::make_room(spec.max_connections + beside, &note)?;
    spec.max_connections = room.saturating_sub(beside).max(room / 2).min(spec.max_connections);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start", "the proxy")?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminated = signal(SignalKind::terminate()).context("handle", "SIGTERM")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("handle", "SIGINT")?;
        let listeners = listen::bind(spec.port)?;
        let prepare = |(sidecar, orders)| Prepared::new(sidecar).map(|prepared| (prepared, orders));
        let prepared = sidecar.map(prepare).transpose()?;
        if let Some((uid, gid)) = spec.user {
            confine::give_up_root(uid, gid)?;
        }
        let sidecar = prepared.map(|(prepared, orders)| prepared.begin(orders, note.clone())).transpose()?;
        ready();
        let told = async {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        };
        let beside = sidecar.clone();
        let busy = move || beside.as_ref().is_some_and(|sidecar| sidecar.is_used());
        serve_until(spec, listeners, rest, busy, told, note).await;
        if let Some(sidecar) = sidecar {
            sidecar.save();
        }
        Ok(())
    })
}

/// What all connections share.
struct Shared {
    spec: ProxySpec,
    crowd: Crowd,
    last_moved: Cell<Instant>,
    reachable: Cell<bool>,
    full: Cell<bool>,
    short: Cell<bool>,
    note: Box<dyn Fn(&str)>,
    sleeper: Option<Rc<Sleeper>>,
}

impl Shared {
    fn touch(&self) {
        if let Some(sleeper) = &self.sleeper {
            sleeper.touch();
        }
    }

    async fn reach(&self) -> std::io::Result<TcpStream> {
        match &self.sleeper {
            Some(sleeper) => sleeper.connect().await,
            None => timeout(CONNECT, self.spec.gateway().connect())
                .await
                .unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer"))),
        }
    }
}

/// Counts a connection for as long as it lives.
struct Counted(Rc<Shared>);

impl Counted {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.crowd.enter();
        shared.touch();
        Self(Rc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.crowd.leave();
        self.0.touch();
        if self.0.crowd.has_gone() {
            memory::give_back();
        }
    }
}

/// Must run inside a [`LocalSet`].
async fn serve_until(
    spec: ProxySpec,
    listeners: Vec<TcpListener>,
    rest: Option<Rest>,
    busy: impl Fn() -> bool + 'static,
    told_to_stop: impl Future<Output = ()>,
    note: impl Fn(&str) + 'static,
) {
    let sleeper = rest.map(|rest| Sleeper::new(rest, spec.gateway()));
    let shared = Rc::new(Shared {
        spec,
        crowd: Crowd::default(),
        last_moved: Cell::new(Instant::now()),
        reachable: Cell::new(true),
        full: Cell::new(false),
        short: Cell::new(false),
        note: Box::new(note),
        sleeper,
    });
    let watching = shared.sleeper.clone().map(|sleeper| {
        let open = Rc::clone(&shared);
        tokio::task::spawn_local(sleeper.watch(move || open.crowd.here() > 0 || busy()))
    });
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::task::spawn_local(accept(listener, Rc::clone(&shared))))
        .collect();
    let settling = tokio::task::spawn_local(settle());
    told_to_stop.await;
    for task in accepting.into_iter().chain(watching).chain([settling]) {
        task.abort();
        let _ = task.await;
    }
    // What is left is ended by its own end of data, by being quiet, or by the end of our patience.
    let begun = Instant::now();
    while shared.crowd.here() > 0
        && shared.last_moved.get().max(begun).elapsed() < QUIET
        && begun.elapsed() < GRACE
    {
        sleep(QUIET / 5).await;
    }
}

/// What was needed to begin, after the port was bound, is not needed to wait.
async fn settle() {
    sleep(SETTLED).await;
    memory::give_back();
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.short.set(false);
                if shared.crowd.here() < shared.spec.max_connections {
                    shared.full.set(false);
                    tokio::task::spawn_local(connection(client, Counted::new(&shared)));
                } else if !shared.full.replace(true) {
                    let most = shared.spec.max_connections;
                    (shared.note)(&format!("{most} connections are open; more are closed at once"));
                }
            }
            // The client may be gone before it is accepted; anything else is a shortage that ends.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !shared.short.replace(true) {
                    (shared.note)(&format!("cannot accept connections for now: {error}"));
                }
                sleep(SHORTAGE).await;
            }
        }
    }
}

async fn connection(client: TcpStream, counted: Counted) {
    let shared = &counted.0;
    let target = shared.spec.target;
    let gateway = match shared.reach().await {
        Ok(gateway) => gateway,
        Err(why) => {
            if shared.reachable.replace(false) {
                (shared.note)(&format!("the gateway at {target} is not reachable: {why}"));
            }
            relay::reset(&client);
            return;
        }
    };
    if !shared.reachable.replace(true) {
        (shared.note)(&format!("the gateway at {target} is reachable again"));
    }
    relay::prepare(&client);
    relay::prepare(&gateway);
    let moved = Cell::new(Instant::now());
    let copied = relay::copy(client, gateway, || {
        let now = Instant::now();
        moved.set(now);
        shared.last_moved.set(now);
    });
    match shared.spec.idle {
        None => copied.await,
        Some(limit) => tokio::select! {
            () = copied => {}
            () = idle(limit, &moved) => {}
        },
    }
}

/// Returns when nothing moved for `limit`.
async fn idle(limit: Duration, moved: &Cell<Instant>) {
    loop {
        let left = limit.saturating_sub(moved.get().elapsed());
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}
