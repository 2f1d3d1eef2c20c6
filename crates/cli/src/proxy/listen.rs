//! The listening sockets: loopback only, both families.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fireclaw_core::error::{Error, Result};
use nix::libc::EAFNOSUPPORT;
use tokio::net::{TcpListener, TcpSocket};

/// A browser opens a handful of connections at once, a script maybe hundreds.
const BACKLOG: u32 = 1024;

/// Listens on 127.0.0.1 and on `::1`. A host without IPv6 is fine; a `::1` that another program listens on is not: a
/// browser that is told `localhost` would hand that program the gateway's token.
pub(super) fn bind(port: u16) -> Result<Vec<TcpListener>> {
    let mut listeners = vec![
        one(Ipv4Addr::LOCALHOST.into(), port)
            .map_err(|error| explain(Ipv4Addr::LOCALHOST.into(), port, error))?,
    ];
    match one(Ipv6Addr::LOCALHOST.into(), port) {
        Ok(listener) => listeners.push(listener),
        Err(error)
            if error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT) => {}
        Err(error) => return Err(explain(Ipv6Addr::LOCALHOST.into(), port, error)),
    }
    Ok(listeners)
}

fn one(ip: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the proxy before this one may still be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(ip, port))?;
    socket.listen(BACKLOG)
}

fn explain(ip: IpAddr, port: u16, error: std::io::Error) -> Error {
    let taken = error.kind() == ErrorKind::AddrInUse;
    let made = Error::new("listen on", SocketAddr::new(ip, port).to_string()).source(error);
    if taken {
        made.hint(format!("see which program has the port: `ss -ltnp 'sport = :{port}'`"))
    } else {
        made
    }
}
