//! Connections to port 443: reads the name out of the `ClientHello`, checks it, resolves it, and passes the bytes on untouched.

use std::{rc::Rc, time::Duration};

use fireclaw_core::egress::{HostName, hello};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Sidecar, dial, door};
use crate::proxy::relay;

const PORT: u16 = 443;
/// A client sends its `ClientHello` at once, in whatever pieces.
const PATIENCE: Duration = Duration::from_secs(10);
/// With keys for quantum computers it has two kilobytes; nobody's has this many.
const LONGEST: usize = 32 << 10;

pub(super) async fn serve(sidecar: &Rc<Sidecar>, mut guest: TcpStream) {
    let (what, why) = match timeout(PATIENCE, read_hello(&mut guest)).await {
        Err(_) => ("-".to_owned(), "no whole ClientHello in time".to_owned()),
        Ok(Err(why)) => ("-".to_owned(), why.to_owned()),
        Ok(Ok((name, said))) => match connect(sidecar, &name, &said).await {
            Ok(server) => return door::relay_while_allowed(sidecar, guest, server, &name, PORT).await,
            Err(why) => (format!("{name}:{PORT}"), why),
        },
    };
    sidecar.refuse("tls", &what, &why);
    relay::reset(&guest);
}

async fn connect(sidecar: &Rc<Sidecar>, name: &HostName, said: &[u8]) -> Result<TcpStream, String> {
    if !sidecar.orders().policy.allows(name, PORT) {
        return Err("not on the list".to_owned());
    }
    // What hides behind an allowed name is not seen, so it is not let through.
    if hello::hides_a_name(said) != Some(false) {
        return Err("its true name is encrypted".to_owned());
    }
    let addresses = sidecar.resolver.lookup(name).await?;
    let mut server = dial::connect(sidecar, &addresses, PORT).await?;
    server.write_all(said).await.map_err(|error| format!("no connection: {error}"))?;
    Ok(server)
}

/// The name, and every byte that was read for it.
pub(super) async fn read_hello(
    guest: &mut (impl AsyncRead + Unpin),
) -> Result<(HostName, Vec<u8>), &'static str> {
    let mut acceptor = Acceptor::default();
    let mut said = Vec::new();
    loop {
        let before = said.len();
        match guest.read_buf(&mut said).await {
            Ok(0) | Err(_) => return Err("ended before its ClientHello"),
            Ok(_) => {}
        }
        let mut piece = &said[before..];
        while !piece.is_empty() {
            acceptor.read_tls(&mut piece).map_err(|_| "not TLS")?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().and_then(HostName::from_wire);
                    return name.map(|name| (name, said)).ok_or("no server name");
                }
                Err(_) => return Err("not TLS"),
            }
        }
        if said.len() > LONGEST {
            return Err("too long a ClientHello");
        }
    }
}
