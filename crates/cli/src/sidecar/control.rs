//! The socket by which the host gives orders and asks for counters. One line in, one line out. Only root may speak.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener as StdListener},
    path::Path,
    rc::Rc,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Result},
    sidecar::{Ask, read_ask},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::Sidecar;

/// The longest orders: 256 rules and three keys.
const LONGEST: u64 = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the socket, in place of one that an earlier proxy left.
pub(super) fn listen(path: &Path) -> Result<StdListener> {
    fireclaw_host::fs::remove_file(path)?;
    let listener = StdListener::bind(path).context("listen on", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .context("protect", path.display())?;
    listener.set_nonblocking(true).context("listen on", path.display())?;
    Ok(listener)
}

/// Answers until the set of tasks ends.
pub(super) fn serve(listener: StdListener, sidecar: &Rc<Sidecar>) -> Result<()> {
    let listener = UnixListener::from_std(listener).context("listen on", sidecar.spec.socket.display())?;
    let sidecar = Rc::clone(sidecar);
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) => {
                    let sidecar = Rc::clone(&sidecar);
                    tokio::task::spawn_local(async move {
                        // Whoever breaks off gets no answer.
                        let _ = timeout(PATIENCE, answer(stream, &sidecar)).await;
                    });
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(super::door::SHORTAGE).await,
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: UnixStream, sidecar: &Rc<Sidecar>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    let said = match read_ask(&line) {
        Ok(Ask::Orders(orders)) => sidecar.obey(*orders).map(|()| sidecar.report()),
        Ok(Ask::Report) => Ok(sidecar.report()),
        Err(error) => Err(error),
    };
    zeroize(line);
    let mut reply = match said {
        Ok(report) => serde_json::json!({ "report": report }),
        Err(error) => serde_json::json!({ "error": error.one_line() }),
    }
    .to_string();
    reply.push('\n');
    stream.write_all(reply.as_bytes()).await
}

/// Orders hold keys.
fn zeroize(line: String) {
    drop(fireclaw_core::secret::Secret::new(line));
}
