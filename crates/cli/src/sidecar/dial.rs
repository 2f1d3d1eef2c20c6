//! Connections to the world for a guest. The process runs on the host, where no forward rule holds: what is not the public
//! internet, the host itself and everything behind the bridge are refused here.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fireclaw_core::egress::address;
use tokio::{net::TcpStream, time::timeout};

use super::{Sidecar, udp};

const CONNECT: Duration = Duration::from_secs(10);
/// A host with many addresses is down when these do not answer.
const TRIES: usize = 4;

/// Connects to the first that answers. The error says why, for the log of refusals.
pub(super) async fn connect(
    sidecar: &Sidecar,
    addresses: &[Ipv4Addr],
    port: u16,
) -> Result<TcpStream, String> {
    let mut why = "the name has no address".to_owned();
    for ip in addresses.iter().take(TRIES) {
        if let Err(forbidden) = check(*ip, *sidecar.spec.address.ip()) {
            why = format!("{ip} is {forbidden}");
            continue;
        }
        match timeout(CONNECT, TcpStream::connect((*ip, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("no connection: {error}"),
            Err(_) => "no connection: no answer".clone_into(&mut why),
        }
    }
    Err(why)
}

/// Whether a guest may be connected to an address from here.
pub(super) fn check(ip: Ipv4Addr, bridge: Ipv4Addr) -> Result<(), &'static str> {
    if !address::is_public(ip) {
        return Err("not of the public internet");
    }
    match source_towards(ip) {
        Some(source) if source == ip || source.is_loopback() => Err("the host itself"),
        Some(source) if source == bridge => Err("behind the bridge"),
        Some(_) => Ok(()),
        None => Err("without a route"),
    }
}

/// The address that the kernel would send from: its own routing decision, without a packet. Towards an address of the host it is
/// that address, or loopback's.
fn source_towards(ip: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = udp::connected((ip, 9).into()).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(source) => Some(source),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_private_addresses_are_refused() {
        let bridge = Ipv4Addr::new(172, 16, 0, 1);
        for ip in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "172.16.0.2", "0.0.0.0", "224.0.0.1"] {
            assert_eq!(check(ip.parse().unwrap(), bridge), Err("not of the public internet"), "{ip}");
        }
    }
}
