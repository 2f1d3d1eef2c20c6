//! How a gateway is: its gates over HTTP, for one instance or for hundreds at once. Opens connections.

use std::{net::SocketAddr, time::Duration};

use fireclaw_core::{
    error::{Context, Result},
    report::Health,
};
use fireclaw_host::{
    http::{self, Server},
    probe::{self, Gate},
};

/// Asks gateways.
pub trait GatewayProbe: Send + Sync {
    /// The health behind each address. An address that does not answer in time is down.
    fn health(&self, gateways: &[SocketAddr], deadline: Duration) -> Result<Vec<Health>>;
}

/// Asks over HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpGates;

impl GatewayProbe for HttpGates {
    fn health(&self, gateways: &[SocketAddr], deadline: Duration) -> Result<Vec<Health>> {
        if gateways.is_empty() {
            return Ok(Vec::new());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start", "the network event loop")?;
        runtime.block_on(async {
            let asked: Vec<_> = gateways.iter().map(|address| one(*address, deadline)).collect();
            Ok(futures_util::future::join_all(asked).await)
        })
    }
}

/// The start gate decides between starting and up; readiness only tells up from degraded, for a broken channel must not
/// make a gateway look stopped.
async fn one(address: SocketAddr, deadline: Duration) -> Health {
    let server = Server::Tcp(address);
    let ask = |gate: Gate| {
        let server = server.clone();
        async move { http::get(&server, gate.path(), deadline).await.ok().map(|reply| (reply.status, reply.body)) }
    };
    let startup = ask(Gate::Startup).await;
    let live = match &startup {
        Some((404, _)) => ask(Gate::Live).await,
        _ => None,
    };
    let ready = ask(Gate::Ready).await;
    probe::classify(startup.as_ref(), live.as_ref(), ready.as_ref())
}
