//! The host's side of the sidecar's socket. Connects to it.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    sidecar::{Ask, Orders, Report},
};
use serde::Deserialize;

/// A sidecar answers in milliseconds; one that is stopped by a debugger does not.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Reply {
    report: Option<Report>,
    error: Option<String>,
}

/// Gives orders. `None`: no sidecar listens there.
pub fn order(socket: &Path, orders: Orders) -> Result<Option<Report>> {
    ask(socket, &Ask::Orders(Box::new(orders)))
}

/// Asks for the counters. `None`: no sidecar listens there.
pub fn report(socket: &Path) -> Result<Option<Report>> {
    ask(socket, &Ask::Report)
}

fn ask(socket: &Path, ask: &Ask) -> Result<Option<Report>> {
    let about = || format!("the sidecar at {}", socket.display());
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::new("reach", about()).source(error)),
    };
    let exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        (&stream).write_all(&[serde_json::to_string(ask)?.as_bytes(), b"\n"].concat())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = exchange().context("ask", about())?;
    let reply: Reply = serde_json::from_str(&line).context("read the answer of", about())?;
    match (reply.report, reply.error) {
        (Some(report), _) => Ok(Some(report)),
        (None, why) => Err(Error::new("give orders to", about()).because(why.unwrap_or_default())),
    }
}
