//! HTTP that is passed on: headers that belong to one connection, bodies that are counted as they pass, a connection that is
//! used again.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderName, HeaderValue},
    rt::{Read, Write},
};

/// What goes to a server.
pub(super) type Up = UnsyncBoxBody<Bytes, hyper::Error>;
/// What goes to the guest.
pub(super) type Down = UnsyncBoxBody<Bytes, hyper::Error>;

/// A head that is longer is refused with 431.
pub(super) const HEAD_MAX: usize = 64 << 10;
/// A head that does not come whole in this time ends its connection.
pub(super) const HEAD_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Takes out what one side says to its neighbour only (RFC 9110, 7.6.1). Lengths stay: they are the body's.
pub(super) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always =
        ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade", "expect"];
    for name in named {
        // A length that somebody calls a matter of the connection would leave the body without an end.
        if name != header::CONTENT_LENGTH && name != header::HOST {
            headers.remove(name);
        }
    }
    for name in always {
        headers.remove(name);
    }
    headers.remove(header::TRANSFER_ENCODING);
}

/// Whether a guest's connection ended because what it sent is no request, or not a whole one.
pub(super) fn is_no_request(error: &hyper::Error) -> bool {
    error.is_parse() || error.is_timeout() || error.is_incomplete_message()
}

/// An answer of ours.
pub(super) fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Down> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

type Seen = Box<dyn FnMut(Option<&Bytes>) + Send>;

/// A body that tells of every piece, and of its end or its being broken off.
pub(super) struct Metered<B> {
    inner: B,
    seen: Seen,
    ended: bool,
}

impl<B> Metered<B> {
    /// `seen` gets each piece, and `None` once at the end.
    pub(super) fn new(inner: B, seen: impl FnMut(Option<&Bytes>) + Send + 'static) -> Self {
        Self { inner, seen: Box::new(seen), ended: false }
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            (self.seen)(None);
        }
    }
}

impl<B> Drop for Metered<B> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    (self.seen)(Some(piece));
                }
            }
            Poll::Ready(None) => self.end(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Begins HTTP on a connection to a server.
pub(super) async fn handshake<T: Read + Write + Unpin + 'static>(io: T) -> hyper::Result<SendRequest<Up>> {
    let (sender, connection) = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(io).await?;
    tokio::task::spawn_local(async move {
        // Its requests learn of its failure.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Why a request was not answered, for a log; the request itself when not a byte of it was sent.
pub(super) struct Unsent {
    pub(super) why: String,
    pub(super) request: Option<Request<Up>>,
}

/// Sends on a connection.
pub(super) async fn send(
    sender: &mut SendRequest<Up>,
    request: Request<Up>,
) -> Result<Response<Incoming>, Unsent> {
    sender
        .try_send_request(request)
        .await
        .map_err(|mut failed| Unsent { request: failed.take_message(), why: failed.error().to_string() })
}

/// Connections that wait for their next request.
#[derive(Clone, Default)]
pub(super) struct Idle(Rc<std::cell::RefCell<Vec<SendRequest<Up>>>>);

/// No more than these are kept.
const KEPT: usize = 8;

impl Idle {
    /// One that can be used at once.
    pub(super) fn take(&self) -> Option<SendRequest<Up>> {
        let mut all = self.0.borrow_mut();
        all.retain(|sender| !sender.is_closed());
        let ready = all.iter().position(SendRequest::is_ready)?;
        Some(all.swap_remove(ready))
    }

    /// For later: it is ready again when its answer has been read.
    pub(super) fn put(&self, sender: SendRequest<Up>) {
        let mut all = self.0.borrow_mut();
        if all.len() < KEPT {
            all.push(sender);
        }
    }
}
