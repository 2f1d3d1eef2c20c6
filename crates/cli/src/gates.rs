//! How a gateway is: its gates over HTTP, for one instance or for hundreds at once. Opens connections.

use std::{net::SocketAddr, time::Duration};

use fireclaw_core::{
    error::{Context, Result},
    report::Health,
};
use fireclaw_host::{http::Server, probe};

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
            let asked = gateways
                .iter()
                .map(|address| async { probe::read(&Server::Tcp(*address), deadline).await.health });
            Ok(futures_util::future::join_all(asked).await)
        })
    }
}
