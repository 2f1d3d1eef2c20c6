//! The key broker: takes a guest's request with the instance's token and sends it to the provider with the key. Everything else
//! of request and answer passes unchanged, piece by piece as it comes.

use std::{
    convert::Infallible,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fireclaw_core::{
    broker::{Counter, Provider, Refused, route},
    secret::Secret,
    sidecar::BrokerOrders,
};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Sidecar,
    forward::{self, Down, HEAD_MAX, HEAD_PATIENCE, Metered, Up},
    minute, upstream,
};

/// A model may think for long before the first byte.
const ANSWER: Duration = Duration::from_mins(20);

pub(super) async fn serve(sidecar: &Rc<Sidecar>, guest: TcpStream) {
    let service = service_fn(|request| {
        let sidecar = Rc::clone(sidecar);
        async move { Ok::<_, Infallible>(answer(&sidecar, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(guest), service);
    // A guest that goes away takes its request with it.
    if connection.await.is_err_and(|error| forward::is_no_request(&error)) {
        sidecar.refuse("broker", "-", "no whole HTTP request in time");
    }
}

/// What goes to the guest instead of a provider's answer.
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    text: String,
    after_minutes: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, text: impl Into<String>) -> Self {
        Self { status, kind, text: text.into(), after_minutes: None }
    }
}

async fn answer(sidecar: &Rc<Sidecar>, request: Request<Incoming>) -> Response<Down> {
    let shown = request.uri().path().to_owned();
    match pass(sidecar, request).await {
        Ok(response) => response,
        Err(refusal) => {
            sidecar.refuse("broker", &shown, &refusal.text);
            // The form that Anthropic's and OpenAI's clients read alike.
            let error = serde_json::json!({
                "type": "error",
                "error": { "type": refusal.kind, "message": format!("fireclaw: {}", refusal.text) },
            });
            let mut response = forward::answer(refusal.status, "application/json", error.to_string());
            if let Some(minutes) = refusal.after_minutes {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(minutes * 60));
            }
            response
        }
    }
}

async fn pass(sidecar: &Rc<Sidecar>, mut request: Request<Incoming>) -> Result<Response<Down>, Refusal> {
    let orders = sidecar.orders();
    let Some(broker) = &orders.broker else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "not_found_error",
            "the keys of this instance are not brokered",
        ));
    };
    let bad = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, "invalid_request_error", why);
    if request.uri().authority().is_some()
        || request.headers().get_all(header::CONTENT_LENGTH).iter().count() > 1
    {
        return Err(bad("a request that can be read in two ways"));
    }
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let (provider, asked) = route(&target).map_err(|refused| match refused {
        Refused::NoProvider => {
            Refusal::new(StatusCode::NOT_FOUND, "not_found_error", "no provider of that name")
        }
        Refused::Ambiguous => bad("a path that can be read in two ways"),
    })?;
    take_token(request.headers_mut(), &broker.token).map_err(|()| {
        Refusal::new(StatusCode::UNAUTHORIZED, "authentication_error", "not the token of this instance")
    })?;
    let key = key_of(broker, provider).ok_or_else(|| {
        let text = format!("no key for {provider} on the host: `fireclaw keys ID set {provider}`");
        Refusal::new(StatusCode::FORBIDDEN, "authentication_error", text)
    })?;
    sidecar.budget.borrow_mut().take(minute(), broker.budget).map_err(|minutes| Refusal {
        after_minutes: Some(minutes),
        ..Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "the instance's budget of requests is used up",
        )
    })?;

    *request.uri_mut() = asked.parse().map_err(|_| bad("a path that cannot be read"))?;
    let headers = request.headers_mut();
    forward::strip_hop(headers);
    let host = HeaderValue::from_str(sidecar.upstream.authority(provider)).map_err(|_| bad("no host"))?;
    headers.insert(header::HOST, host);
    // An answer that is not packed tells its tokens as it passes.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let (name, value) = provider.credential(key);
    let mut value = HeaderValue::from_str(&value).map_err(|_| bad("the key on the host cannot be sent"))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    forward_to(sidecar, provider, request).await
}

async fn forward_to(
    sidecar: &Rc<Sidecar>,
    provider: Provider,
    request: Request<Incoming>,
) -> Result<Response<Down>, Refusal> {
    let meter = Arc::new(Meter { bytes_up: AtomicU64::new(0), down: Mutex::default() });
    let counting =
        Recorded { sidecar: Rc::clone(sidecar), provider, meter: Arc::clone(&meter), answered: None };
    let up = Arc::clone(&meter);
    let request = request.map(|body| {
        let count = move |piece: Option<&hyper::body::Bytes>| {
            up.bytes_up.fetch_add(piece.map_or(0, |piece| piece.len() as u64), Ordering::Relaxed);
        };
        Metered::new(body, count).boxed_unsync()
    });
    let sent = timeout(ANSWER, send(sidecar, provider, request))
        .await
        .unwrap_or_else(|_| Err("no answer in time".into()));
    let mut response = match sent {
        Ok(response) => response,
        Err(why) => {
            let text = format!("{provider} cannot be reached: {why}");
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", text));
        }
    };
    forward::strip_hop(response.headers_mut());
    Ok(counting.until_the_end_of(response))
}

async fn send(
    sidecar: &Rc<Sidecar>,
    provider: Provider,
    mut request: Request<Up>,
) -> Result<Response<Incoming>, String> {
    let idle = sidecar.upstream.idle(provider);
    while let Some(mut sender) = idle.take() {
        match forward::send(&mut sender, request).await {
            Ok(response) => {
                idle.put(sender);
                return Ok(response);
            }
            // It was closed while it waited.
            Err(unsent) => request = unsent.request.ok_or(unsent.why)?,
        }
    }
    let mut sender = upstream::connect(sidecar, provider).await?;
    let response = forward::send(&mut sender, request).await.map_err(|unsent| unsent.why)?;
    idle.put(sender);
    Ok(response)
}

fn key_of(broker: &BrokerOrders, provider: Provider) -> Option<&Secret> {
    broker.keys.iter().find(|key| key.provider == provider).map(|key| &key.key)
}

/// Takes every credential out of a request; one of them must be the token.
fn take_token(headers: &mut HeaderMap, token: &Secret) -> Result<(), ()> {
    let mut shown = false;
    for name in ["x-api-key", "authorization", "api-key"] {
        for value in headers.get_all(name) {
            let value = value.as_bytes();
            let value =
                value.strip_prefix(b"Bearer ").or_else(|| value.strip_prefix(b"bearer ")).unwrap_or(value);
            shown |= same(value, token.expose().as_bytes());
        }
        headers.remove(name);
    }
    if shown { Ok(()) } else { Err(()) }
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && !b.is_empty() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// What passes, as bodies count it from wherever they are dropped.
struct Meter {
    bytes_up: AtomicU64,
    down: Mutex<DownMeter>,
}

#[derive(Default)]
struct DownMeter {
    bytes: u64,
    counter: Option<Counter>,
}

/// One request in the counters, once, when it is over: answered whole, broken off, or never answered.
struct Recorded {
    sidecar: Rc<Sidecar>,
    provider: Provider,
    meter: Arc<Meter>,
    answered: Option<StatusCode>,
}

impl Recorded {
    /// Hands the answer on; what was counted is recorded when its last byte is through.
    fn until_the_end_of(mut self, response: Response<Incoming>) -> Response<Down> {
        self.answered = Some(response.status());
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if let Ok(mut down) = self.meter.down.lock() {
            down.counter = kind.and_then(Counter::of);
        }
        let meter = Arc::clone(&self.meter);
        // The record cannot go along with the body, which must be `Send`; a task of this thread waits for its end.
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let mut ended = Some(ended);
        tokio::task::spawn_local(async move {
            let _ = end.await;
            drop(self);
        });
        response.map(|body| {
            let seen = move |piece: Option<&hyper::body::Bytes>| match (piece, meter.down.lock()) {
                (Some(piece), Ok(mut down)) => {
                    down.bytes += piece.len() as u64;
                    if let Some(counter) = &mut down.counter {
                        counter.push(piece);
                    }
                }
                _ => drop(ended.take()),
            };
            Metered::new(body, seen).boxed_unsync()
        })
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let (bytes, tokens) = match self.meter.down.lock() {
            Ok(mut down) => (down.bytes, down.counter.as_mut().map(Counter::finish).unwrap_or_default()),
            Err(_) => Default::default(),
        };
        let failed = self.answered.is_none_or(|status| !status.is_success());
        self.sidecar.tally.count(self.provider, |usage| {
            usage.requests += 1;
            usage.failed += u64::from(failed);
            usage.bytes_up += self.meter.bytes_up.load(Ordering::Relaxed);
            usage.bytes_down += bytes;
            usage.tokens.input += tokens.input;
            usage.tokens.output += tokens.output;
        });
    }
}
