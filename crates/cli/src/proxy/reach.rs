//! The way to the gateway: by the network of the instances or not at all. Opens connections.
//!
//! Where that network is missing (a host that was restarted, all of whose instances sleep) the host's default route would lead into
//! somebody else's, who would be told what clients say: the gateway's token.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
};

use ipnet::Ipv4Net;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockname, socket};
use tokio::net::TcpStream;

/// Where the gateway is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    /// The network that it is reached by; `None` is any.
    pub(super) network: Option<Ipv4Net>,
}

impl Gateway {
    /// Connects, however long that takes.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        if let (Some(network), SocketAddr::V4(address)) = (self.network, self.address)
            && !network.contains(&source_towards(address)?)
        {
            return Err(io::Error::new(
                io::ErrorKind::HostUnreachable,
                format!("the way there is not by the instances' network, {network}"),
            ));
        }
        TcpStream::connect(self.address).await
    }
}

/// The address that the kernel would send from. A datagram socket that is connected has been routed, and has sent nothing.
fn source_towards(target: SocketAddrV4) -> io::Result<Ipv4Addr> {
    let routed = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    connect(routed.as_raw_fd(), &SockaddrIn::from(target))?;
    Ok(getsockname::<SockaddrIn>(routed.as_raw_fd())?.ip())
}
