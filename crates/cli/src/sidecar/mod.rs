//! The sidecar: what a guest may have of the world when its policy is a list, and the keys that stay on the host. A part of the
//! proxy's process, on its one thread. docs/adr/0006-sidecar.md has the why.
//!
//! Everything comes by one port of the bridge's address, which the firewall opens to this guest alone: UDP and TCP questions
//! for names, connections that the firewall turned here, and requests to the key broker. Changes nothing but its own counters.

mod broker;
pub mod client;
mod control;
mod dial;
mod dns;
mod door;
mod forward;
#[cfg(test)]
mod parsers;
mod plain;
mod resolve;
mod tally;
mod tls;
mod udp;
mod upstream;

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    rc::Rc,
    time::{Duration, SystemTime},
};

use fireclaw_core::{
    broker::Budget,
    egress::EgressPolicy,
    error::Result,
    sidecar::{Orders, Report},
};
use tokio::{sync::watch, task::AbortHandle};

pub use self::upstream::Upstreams;
use self::{resolve::Resolver, tally::Tally, upstream::Upstream};
use crate::crowd::Crowd;

/// No more connections of a guest than these at once; more are reset as they come.
const CONNECTIONS: usize = 1024;

/// What a sidecar needs to know that does not change.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The bridge's address and the instance's port.
    pub address: SocketAddrV4,
    /// The only guest that is served.
    pub guest: Ipv4Addr,
    /// Who is asked for names.
    pub resolvers: Vec<SocketAddr>,
    /// Where orders come in; made while the process is root, for root alone.
    pub socket: PathBuf,
    /// Where the use of keys is kept across restarts; opened while the process is root.
    pub usage: PathBuf,
    /// Other addresses of providers.
    pub upstreams: Upstreams,
}

impl Spec {
    /// The connections that there must be room for.
    pub const fn connections(&self) -> usize {
        CONNECTIONS
    }
}

/// One sidecar: what all its connections share.
pub(crate) struct Sidecar {
    spec: Spec,
    orders: RefCell<Rc<Orders>>,
    /// Tells of new orders, for what is open under old ones.
    changed: watch::Sender<()>,
    listening: RefCell<Vec<AbortHandle>>,
    crowd: Crowd,
    tally: Tally,
    resolver: Resolver,
    upstream: Upstream,
    budget: RefCell<Budget>,
    note: Box<dyn Fn(&str)>,
}

/// The parts that root must make.
pub struct Prepared {
    spec: Spec,
    socket: std::os::unix::net::UnixListener,
    tally: Tally,
    upstream: Upstream,
}

impl Prepared {
    /// Makes the socket, opens the file of counters, reads the authority more, while the process is root.
    pub fn new(spec: Spec) -> Result<Self> {
        let socket = control::listen(&spec.socket)?;
        let tally = Tally::open(&spec.usage)?;
        let upstream = Upstream::new(spec.upstreams.clone())?;
        Ok(Self { spec, socket, tally, upstream })
    }

    /// Begins, inside a `LocalSet`, without root. What it starts ends with that set.
    pub(crate) fn begin(self, orders: Orders, note: impl Fn(&str) + 'static) -> Result<Rc<Sidecar>> {
        let sidecar = Rc::new(Sidecar {
            resolver: Resolver::new(self.spec.resolvers.clone()),
            upstream: self.upstream,
            spec: self.spec,
            orders: RefCell::default(),
            changed: watch::Sender::new(()),
            listening: RefCell::default(),
            crowd: Crowd::default(),
            tally: self.tally,
            budget: RefCell::new(Budget::new()),
            note: Box::new(note),
        });
        control::serve(self.socket, &sidecar)?;
        sidecar.obey(orders)?;
        tokio::task::spawn_local(tally::keep(Rc::clone(&sidecar)));
        Ok(sidecar)
    }
}

impl Sidecar {
    /// Takes new orders. Connections that they no longer allow end at once.
    fn obey(self: &Rc<Self>, orders: Orders) -> Result<()> {
        let listens = orders.listens();
        self.upstream.forget();
        *self.orders.borrow_mut() = Rc::new(orders);
        self.changed.send_replace(());
        let mut listening = self.listening.borrow_mut();
        if listens && listening.is_empty() {
            *listening = door::open(self)?;
        } else if !listens {
            listening.drain(..).for_each(|task| task.abort());
        }
        Ok(())
    }

    fn orders(&self) -> Rc<Orders> {
        Rc::clone(&self.orders.borrow())
    }

    /// Returns when a policy comes into force under which `still` is false.
    async fn until_forbidden(&self, still: impl Fn(&EgressPolicy) -> bool) {
        let mut changes = self.changed.subscribe();
        while still(&self.orders().policy) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn refuse(&self, via: &str, what: &str, why: &str) {
        self.tally.refuse(via, what, why, unix_time().as_secs());
    }

    /// Whether a guest has a connection here: it asks its model, or reaches the world by its list.
    pub(crate) fn is_used(&self) -> bool {
        self.crowd.here() > 0
    }

    /// What has been, for the host.
    pub(crate) fn report(&self) -> Report {
        let mut report = self.tally.report();
        report.egress = self.orders().policy.to_string();
        report.open = self.crowd.here() as u64;
        report.last_hour = self.budget.borrow_mut().taken(minute());
        report
    }

    /// Writes the counters down.
    pub(crate) fn save(&self) {
        self.tally.save(&*self.note);
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn minute() -> u64 {
    unix_time().as_secs() / 60
}
