//! Datagram sockets that connect without being bound by name: the kernel chooses their port as they connect. The unit's
//! `SocketBindDeny=` refuses every bind but the sidecar's own, and a connect is none.

use std::{
    io::Result,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

/// A socket that does not block, connected to an address.
pub(super) fn connected(to: SocketAddr) -> Result<UdpSocket> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd.into())
}
