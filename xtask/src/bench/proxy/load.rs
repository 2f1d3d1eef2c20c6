//! The load: small requests, one bulk stream, and held connections, each bounded in time and number.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};

use super::server::{DOWNLOAD, HOLD, REQUEST, RESPONSE};

/// Clients at a time. More than the cores that the measured program, its target and they share.
const CLIENTS: u32 = 8;
/// No answer for so long is a failure and not a slow proxy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, tries again until somebody listens.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("connect to", address)?;
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        .context("set up", address)?;
    Ok(stream)
}

fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; RESPONSE.len()];
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut answer)?;
    if answer == RESPONSE { Ok(()) } else { Err(std::io::Error::other("the answer is not the gateway's")) }
}

/// Requests a second over kept connections.
pub fn kept(address: SocketAddr, lasting: Duration) -> Result<f64> {
    clients(lasting, u32::MAX, || {
        let mut stream = connect(address)?;
        Ok(move || request(&mut stream).context("ask", address))
    })
}

/// Requests a second, each over a connection of its own. Bounded in number too: every one leaves a port behind that is not
/// usable again for a while.
pub fn fresh(address: SocketAddr, lasting: Duration) -> Result<f64> {
    clients(lasting, 400, || Ok(move || request(&mut connect(address)?).context("ask", address)))
}

/// Runs one loop a client and counts the turns of all of them.
fn clients<F>(lasting: Duration, most: u32, client: impl Fn() -> Result<F> + Sync) -> Result<f64>
where
    F: FnMut() -> Result<()>,
{
    let begun = Instant::now();
    let turns = thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut turn = client()?;
                    let mut turns = 0;
                    while turns < most && begun.elapsed() < lasting {
                        turn()?;
                        turns += 1;
                    }
                    Ok::<u32, Error>(turns)
                })
            })
            .collect();
        running.into_iter().map(|client| client.join().expect("a client does not panic")).sum::<Result<u32>>()
    })?;
    Ok(f64::from(turns) / begun.elapsed().as_secs_f64())
}

/// Megabytes (10⁶) a second from the gateway to one client.
pub fn download(address: SocketAddr, lasting: Duration) -> Result<f64> {
    let mut stream = connect(address)?;
    stream.write_all(&[DOWNLOAD]).context("ask", address)?;
    let mut buffer = vec![0; 256 << 10];
    let begun = Instant::now();
    let mut bytes = 0_u64;
    while begun.elapsed() < lasting {
        let read = stream.read(&mut buffer).context("read from", address)?;
        if read == 0 {
            return Err(Error::new("read from", address.to_string()).because("the stream ended"));
        }
        bytes += read as u64;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let megabytes = bytes as f64 / 1e6;
    Ok(megabytes / begun.elapsed().as_secs_f64())
}

/// Adds held connections until there are `count`, each proven to reach the gateway.
pub fn hold(address: SocketAddr, held: &mut Vec<TcpStream>, count: usize) -> Result<()> {
    while held.len() < count {
        let mut stream = connect(address)?;
        let mut back = [0];
        stream.write_all(&[HOLD]).and_then(|()| stream.read_exact(&mut back)).context("hold", address)?;
        held.push(stream);
    }
    Ok(())
}
