//! A proxy in a thread of the test, real sockets on loopback, a target that the test itself is.

mod limits;
mod rest;
mod transfer;

use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use fireclaw_core::error::{Context, Result};
use tokio::{sync::oneshot, task::LocalSet};

use super::{ProxySpec, Rest, listen, serve_until};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);

struct Proxy {
    port: u16,
    notes: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy of its own port to a target.
    fn to(target: SocketAddr, change: impl FnOnce(&mut ProxySpec)) -> Self {
        Self::with(target, None, change)
    }

    /// The same for an instance that sleeps.
    fn with(target: SocketAddr, rest: Option<Rest>, change: impl FnOnce(&mut ProxySpec)) -> Self {
        let mut spec = ProxySpec::new(0, target);
        change(&mut spec);
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&notes);
        let (stop, stopped) = oneshot::channel::<()>();
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            run(spec, rest, &sender, stopped, move |note| shared.lock().unwrap().push(note.to_owned()));
        });
        let port = receiver.recv_timeout(PATIENCE).unwrap();
        Self { port, notes, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap())
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    /// Tells it to stop and waits until it has.
    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(
    spec: ProxySpec,
    rest: Option<Rest>,
    port: &Sender<u16>,
    stopped: oneshot::Receiver<()>,
    note: impl Fn(&str) + 'static,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        // A port that is free on 127.0.0.1 may be in use on ::1: the next one will not be.
        let (free, listeners) = (0..50)
            .find_map(|_| {
                let free = free_port().ok()?;
                Some((free, listen::bind(free).ok()?))
            })
            .unwrap();
        port.send(free).unwrap();
        serve_until(spec, listeners, rest, || false, async { drop(stopped.await) }, note).await;
    });
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find", "a free port")?;
    Ok(listener.local_addr().context("find", "a free port")?.port())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Somebody who listens behind a proxy.
struct Target {
    listener: TcpListener,
    address: SocketAddr,
}

impl Target {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    fn accept(&self) -> TcpStream {
        patient(self.listener.accept().unwrap().0)
    }
}

/// A target, a proxy to it, and the two ends of one connection through it.
fn pair() -> (Target, Proxy, TcpStream, TcpStream) {
    let target = Target::new();
    let proxy = Proxy::to(target.address, |_| {});
    let client = proxy.connect();
    let gateway = target.accept();
    (target, proxy, client, gateway)
}

/// What the next read of an ended connection says.
fn ending(stream: &mut TcpStream) -> std::result::Result<usize, ErrorKind> {
    stream.read(&mut [0; 16]).map_err(|error| error.kind())
}

/// A closed connection: cleanly, or with unread data.
fn is_closed(ending: std::result::Result<usize, ErrorKind>) -> bool {
    matches!(ending, Ok(0) | Err(ErrorKind::ConnectionReset))
}
