//! Connections to port 80: every request's Host is checked, not only the first's, and the request that is sent on is one that
//! was understood here. A host is connected to at the address that it has for us.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use fireclaw_core::egress::HostName;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1::SendRequest, header,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{
    Sidecar, dial,
    forward::{self, Down, HEAD_MAX, HEAD_PATIENCE, Up},
};

const PORT: u16 = 80;

/// The server that the last request of a connection went to.
type Last = Rc<RefCell<Option<(HostName, SendRequest<Up>)>>>;

pub(super) async fn serve(sidecar: &Rc<Sidecar>, guest: TcpStream) {
    let last = Last::default();
    let service = service_fn(|request| {
        let (sidecar, last) = (Rc::clone(sidecar), Rc::clone(&last));
        async move { Ok::<_, Infallible>(pass(&sidecar, &last, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(guest), service);
    let host = || last.borrow().as_ref().map(|(name, _)| name.clone());
    tokio::select! {
        ended = connection => {
            if ended.is_err_and(|error| forward::is_no_request(&error)) {
                sidecar.refuse("http", "-", "no whole HTTP request in time");
            }
        }
        () = sidecar.until_forbidden(|policy| host().is_none_or(|name| policy.allows(&name, PORT))) => {}
    }
}

async fn pass(sidecar: &Rc<Sidecar>, last: &Last, mut request: Request<Incoming>) -> Response<Down> {
    let name = match host_of(&request) {
        Ok(name) => name,
        Err(why) => return refuse(sidecar, "-", why),
    };
    let shown = format!("{name}:{PORT}");
    if !sidecar.orders().policy.allows(&name, PORT) {
        return refuse(sidecar, &shown, "not on the list");
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| "/".parse().unwrap_or_default(), Into::into);
    forward::strip_hop(request.headers_mut());
    let request = request.map(BodyExt::boxed_unsync);
    match send(sidecar, last, name, request).await {
        Ok(mut response) => {
            forward::strip_hop(response.headers_mut());
            response.map(BodyExt::boxed_unsync)
        }
        Err(why) => {
            sidecar.refuse("http", &shown, &why);
            forward::answer(StatusCode::BAD_GATEWAY, "text/plain", format!("fireclaw: {shown}: {why}\n"))
        }
    }
}

async fn send(
    sidecar: &Rc<Sidecar>,
    last: &Last,
    name: HostName,
    mut request: Request<Up>,
) -> Result<Response<Incoming>, String> {
    let known = last.borrow_mut().take().filter(|(known, sender)| *known == name && !sender.is_closed());
    if let Some((_, mut sender)) = known
        && sender.ready().await.is_ok()
    {
        match forward::send(&mut sender, request).await {
            Ok(response) => {
                *last.borrow_mut() = Some((name, sender));
                return Ok(response);
            }
            // The server closed in the meantime, and saw nothing of it.
            Err(unsent) => request = unsent.request.ok_or(unsent.why)?,
        }
    }
    let addresses = sidecar.resolver.lookup(&name).await?;
    let server = dial::connect(sidecar, &addresses, PORT).await?;
    sidecar.tally.connect();
    let mut sender = forward::handshake(TokioIo::new(server)).await.map_err(|error| error.to_string())?;
    let response = forward::send(&mut sender, request).await.map_err(|unsent| unsent.why)?;
    *last.borrow_mut() = Some((name, sender));
    Ok(response)
}

/// The one host that a request is for. Two that differ, in headers or in the target, are two readings of one request.
pub(super) fn host_of<B>(request: &Request<B>) -> Result<HostName, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("a tunnel through a proxy");
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err("not one Host header") };
    let read = |text: &str| {
        HostName::from_host_header(text).filter(|(_, port)| port.is_none_or(|port| port == PORT))
    };
    let (name, _) = host.to_str().ok().and_then(read).ok_or("its Host is no name at this port")?;
    match request.uri().authority() {
        Some(authority) if read(authority.as_str()).is_none_or(|(other, _)| other != name) => {
            Err("its target is another than its Host")
        }
        _ => Ok(name),
    }
}

fn refuse(sidecar: &Sidecar, what: &str, why: &str) -> Response<Down> {
    sidecar.refuse("http", what, why);
    let text = format!("fireclaw: {what}: {why}\n");
    let mut response = forward::answer(StatusCode::FORBIDDEN, "text/plain", text);
    // What follows on this connection was meant for the same server.
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
