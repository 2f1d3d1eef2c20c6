//! One connection: bytes both ways, each direction ending for itself.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// The most that is read at once, and so the most that is kept aside for a slow reader. Larger was not faster.
const CHUNK: usize = 32 << 10;
/// An end that vanished without a word (a client's machine on a forwarded port, a guest that was cut off) is found after
/// five minutes of silence and five unanswered probes.
const PROBE: (u32, u32, u32) = (300, 60, 5);

thread_local! {
    /// Used between a read and the write that follows it, and never across a wait: one is enough for all connections.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// Small messages at once, and probes for ends that are gone. Both are improvements; a socket that refuses works.
pub(crate) fn prepare(stream: &TcpStream) {
    let (idle, interval, count) = PROBE;
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &idle);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &interval);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &count);
}

/// Makes the coming close a reset, so that the other end does not take what it got for the whole.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Copies until both directions have ended, or resets both ends when one fails. `moved` is called for every piece.
pub(crate) async fn copy(mut client: TcpStream, mut gateway: TcpStream, moved: impl Fn()) {
    let copied = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_gateway, mut to_gateway) = gateway.split();
        let (mut up, mut down) = (Direction::default(), Direction::default());
        poll_fn(|cx| {
            let up = up.poll(cx, &mut from_client, &mut to_gateway, &moved)?;
            let down = down.poll(cx, &mut from_gateway, &mut to_client, &moved)?;
            if up.is_ready() && down.is_ready() {
                Poll::Ready(Ok::<(), io::Error>(()))
            } else {
                Poll::Pending
            }
        })
        .await
    };
    if copied.is_err() {
        reset(&client);
        reset(&gateway);
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    /// What was read and not yet taken, from `taken` on. Empty, and without memory, unless the reader is slow.
    kept: Box<[u8]>,
    taken: usize,
    /// The sender is done.
    ended: bool,
    /// The receiver knows it.
    passed_on: bool,
}

impl Direction {
    /// Moves what can be moved. Ready when the end of data has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        moved: &impl Fn(),
    ) -> Poll<io::Result<()>> {
        while !self.passed_on {
            while self.taken < self.kept.len() {
                self.taken += ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.taken..]))?;
                moved();
            }
            (self.kept, self.taken) = (Box::default(), 0);
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.passed_on = true;
            } else {
                ready!(BUFFER.with_borrow_mut(|buffer| self.poll_piece(cx, from, to, buffer)))?;
                moved();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads one piece and writes as much of it as is taken at once.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let piece = buffer.filled();
        self.ended = piece.is_empty();
        if !self.ended {
            let taken = match Pin::new(to).poll_write(cx, piece)? {
                Poll::Ready(taken) => taken,
                Poll::Pending => 0,
            };
            self.kept = piece[taken..].into();
        }
        Poll::Ready(Ok(()))
    }
}
