//! Where the guest comes in: one port of the bridge, TCP and UDP. Tells by what a connection was meant for who takes it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    rc::Rc,
    time::Duration,
};

use fireclaw_core::error::{Error, Result};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::AbortHandle,
};

use super::{CONNECTIONS, Sidecar, broker, dial, dns, plain, tls};
use crate::proxy::relay;

const BACKLOG: u32 = 512;
/// How long `accept` rests when the kernel has no descriptor or memory for another connection.
pub(super) const SHORTAGE: Duration = Duration::from_millis(100);

/// Listens, also while the bridge is not there yet.
pub(super) fn open(sidecar: &Rc<Sidecar>) -> Result<Vec<AbortHandle>> {
    let address = sidecar.spec.address;
    let sockets = tcp(address).and_then(|tcp| Ok((tcp, udp(address)?)));
    let (listener, questions) = sockets.map_err(|error| {
        Error::new("listen on", address.to_string())
            .source(error)
            .hint(format!("see which program has the port: `ss -lntup 'sport = :{}'`", address.port()))
    })?;
    let accepting = tokio::task::spawn_local(accept(listener, Rc::clone(sidecar)));
    let answering = tokio::task::spawn_local(dns::datagrams(questions, Rc::clone(sidecar)));
    Ok(vec![accepting.abort_handle(), answering.abort_handle()])
}

fn tcp(address: SocketAddrV4) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address.into())?;
    socket.listen(BACKLOG)
}

fn udp(address: SocketAddrV4) -> std::io::Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
    UdpSocket::from_std(fd.into())
}

/// Counts a connection for as long as it lives.
struct Counted(Rc<Sidecar>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.crowd.leave();
    }
}

async fn accept(listener: TcpListener, sidecar: Rc<Sidecar>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if sidecar.crowd.here() >= CONNECTIONS {
                    sidecar.refuse("tcp", "connections", "too many at once");
                    relay::reset(&stream);
                    continue;
                }
                sidecar.crowd.enter();
                let counted = Counted(Rc::clone(&sidecar));
                tokio::task::spawn_local(async move { serve(&counted.0, stream, from).await });
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(SHORTAGE).await,
        }
    }
}

async fn serve(sidecar: &Rc<Sidecar>, stream: TcpStream, from: SocketAddr) {
    // The firewall says so already; a host whose rules were flushed must not have an open door.
    if from.ip() != IpAddr::V4(sidecar.spec.guest) {
        sidecar.refuse("tcp", &from.ip().to_string(), "not this sidecar's guest");
        relay::reset(&stream);
        return;
    }
    relay::prepare(&stream);
    let meant = meant_for(&stream).unwrap_or(sidecar.spec.address);
    if meant == sidecar.spec.address {
        return broker::serve(sidecar, stream).await;
    }
    match meant.port() {
        53 => dns::stream(sidecar, stream).await,
        80 => plain::serve(sidecar, stream).await,
        443 => tls::serve(sidecar, stream).await,
        port => by_address(sidecar, stream, *meant.ip(), port).await,
    }
}

/// The address that the guest wrote, before the firewall turned the connection here.
fn meant_for(stream: &TcpStream) -> Option<SocketAddrV4> {
    let raw = getsockopt(stream, sockopt::OriginalDst).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port)))
}

/// A port whose protocol shows no name: what counts is which name we gave this address for.
async fn by_address(sidecar: &Rc<Sidecar>, stream: TcpStream, ip: Ipv4Addr, port: u16) {
    let names = sidecar.resolver.names_of(ip);
    let policy = &sidecar.orders().policy;
    let Some(name) = names.into_iter().find(|name| policy.allows(name, port)) else {
        sidecar.refuse("tcp", &format!("{ip}:{port}"), "no allowed name has this address");
        relay::reset(&stream);
        return;
    };
    match dial::connect(sidecar, &[ip], port).await {
        Ok(server) => relay_while_allowed(sidecar, stream, server, &name, port).await,
        Err(why) => {
            sidecar.refuse("tcp", &format!("{name}:{port}"), &why);
            relay::reset(&stream);
        }
    }
}

/// Copies both ways until an end ends it, or a stricter policy does.
pub(super) async fn relay_while_allowed(
    sidecar: &Rc<Sidecar>,
    guest: TcpStream,
    server: TcpStream,
    name: &fireclaw_core::egress::HostName,
    port: u16,
) {
    sidecar.tally.connect();
    relay::prepare(&server);
    tokio::select! {
        () = relay::copy(guest, server, || {}) => {}
        () = sidecar.until_forbidden(|policy| policy.allows(name, port)) => {
            sidecar.refuse("tcp", &format!("{name}:{port}"), "cut: no longer on the list");
        }
    }
}
