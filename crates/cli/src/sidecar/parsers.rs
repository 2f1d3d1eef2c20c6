//! What a guest sends to the sidecar, as bytes of its choice: every reader ends, says what it read or that it could not, and reads
//! the same however the bytes are cut. docs/SECURITY.md tells how often this ran; `PROPTEST_CASES` says how often it runs.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use fireclaw_core::egress::{HostName, hello::hides_a_name};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use http_body_util::Empty;
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{prelude::*, sample::Index};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use super::{dns, plain, tls};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Bytes that come in pieces of these sizes, over and over.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: Box<dyn Iterator<Item = usize> + 'a>,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let size = self.sizes.next().unwrap_or(1).min(self.rest.len()).min(into.remaining());
        let (piece, rest) = self.rest.split_at(size);
        into.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

fn name_in(bytes: &[u8], sizes: &[usize]) -> Result<(HostName, Vec<u8>), &'static str> {
    let mut pieces = Pieces { rest: bytes, sizes: Box::new(sizes.iter().copied().cycle()) };
    block_on(tls::read_hello(&mut pieces))
}

/// The `ClientHello` of a real client.
fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut said = Vec::new();
    client.write_tls(&mut said).unwrap();
    said
}

/// Changes of single bytes, and perhaps a shorter end.
fn changes() -> impl Strategy<Value = (Vec<(Index, u8)>, Option<Index>)> {
    (prop::collection::vec(any::<(Index, u8)>(), 0..6), prop::option::weighted(0.2, any::<Index>()))
}

fn changed(mut bytes: Vec<u8>, (changes, end): (Vec<(Index, u8)>, Option<Index>)) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = byte;
    }
    if let Some(end) = end {
        bytes.truncate(end.index(bytes.len()));
    }
    bytes
}

/// The hosts that the sidecar reads out of what a guest sends on one connection to port 80.
fn hosts_in(bytes: &[u8]) -> Vec<Result<HostName, &'static str>> {
    let seen = Rc::<RefCell<Vec<_>>>::default();
    let service = service_fn(|request| {
        seen.borrow_mut().push(plain::host_of(&request));
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    block_on(async {
        let (mut guest, ours) = tokio::io::duplex(1 << 20);
        guest.write_all(bytes).await.unwrap();
        guest.shutdown().await.unwrap();
        let _ = http1::Builder::new().serve_connection(TokioIo::new(ours), service).await;
    });
    seen.take()
}

/// All that another reader could take for the value of a Host header in a head.
fn host_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let lines = text.split(['\n', '\r']).filter_map(|line| line.trim().split_once(':'));
    lines
        .filter(|(name, _)| name.trim() == "host")
        .map(|(_, value)| value.trim().trim_end_matches(":80").trim_end_matches('.').to_owned())
        .collect()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

#[test]
fn whole_ones_are_read() {
    let (name, said) = name_in(&hello("api.example.com"), &[7]).unwrap();
    assert_eq!((name.as_str(), hides_a_name(&said)), ("api.example.com", Some(false)));
    let request = b"GET / HTTP/1.1\r\nHost: api.Example.com:80\r\n\r\n";
    assert_eq!(hosts_in(request)[0].as_ref().unwrap().as_str(), "api.example.com");
    assert_eq!(host_lines(request), ["api.example.com"]);
    let (question, reply) = dns::read(&question("api.example.com.", RecordType::A)).unwrap();
    assert_eq!((question.queries.len(), reply.metadata.id), (1, 7));
}

proptest! {
    /// The name does not depend on how the bytes are cut, and what is passed on is what came.
    #[test]
    fn client_hellos(
        changes in changes(),
        sizes in prop::collection::vec(1_usize..600, 1..8),
        more in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = [changed(hello("api.example.com"), changes), more].concat();
        let (whole, cut) = (name_in(&bytes, &[usize::MAX]), name_in(&bytes, &sizes));
        let name = |read: &Result<(HostName, Vec<u8>), _>| read.as_ref().ok().map(|(name, _)| name.clone());
        prop_assert_eq!(name(&whole), name(&cut));
        for said in [&whole, &cut].into_iter().flatten().map(|(_, said)| said) {
            prop_assert!(bytes.starts_with(said));
            // Whatever is passed on was read by both readers.
            prop_assert!(hides_a_name(said).is_some());
        }
    }

    #[test]
    fn bytes_that_are_no_client_hello(bytes in prop::collection::vec(any::<u8>(), 0..200), head: bool) {
        let bytes = if head { [&[22, 3, 1, 0, 200, 1, 0][..], &bytes].concat() } else { bytes };
        prop_assert!(name_in(&bytes, &[5]).is_err());
    }

    /// A Host that is taken is the only one that anybody could read.
    #[test]
    fn hosts(
        lines in prop::collection::vec(prop_oneof![
            3 => "(H|h)ost ?: ?[a-z.]{1,12}(:80)?",
            2 => Just("Host: api.example.com".to_owned()),
            1 => "[A-Za-z-]{1,9}:[ -~]{0,20}",
            1 => "[ \t][ -~]{0,12}",
            1 => any::<String>(),
        ], 0..4),
        target in prop_oneof![Just("/".to_owned()), Just("http://a.example/".to_owned()), "[ -~]{1,20}"],
        end in prop_oneof![3 => Just("\r\n"), 1 => Just("\n")],
        changes in changes(),
    ) {
        let request = format!("GET {target} HTTP/1.1{end}{}{end}{end}", lines.join(end));
        let bytes = changed(request.into_bytes(), changes);
        let head_end = |end: &[u8]| bytes.windows(end.len()).position(|window| window == end);
        if let Some(Ok(name)) = hosts_in(&bytes).first() {
            let end = [head_end(b"\r\n\r\n"), head_end(b"\n\n"), head_end(b"\n\r\n")];
            let head = &bytes[..end.into_iter().flatten().min().unwrap_or(bytes.len())];
            prop_assert_eq!(host_lines(head), [name.as_str()], "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    /// A question is answered with itself, and with nothing else, until somebody adds an address.
    #[test]
    fn questions(
        valid in prop_oneof![Just("api.example.com."), Just("."), Just("_dns.resolver.arpa."), Just("xn--nxasmq6b.")],
        kind in any::<u16>(),
        changes in changes(),
        more in prop::collection::vec(any::<u8>(), 0..64),
        any_bytes in prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..300)),
    ) {
        let bytes = [changed(question(valid, kind.into()), changes), more].concat();
        if let Some((question, reply)) = dns::read(&any_bytes.unwrap_or(bytes)) {
            prop_assert!(reply.answers.is_empty() && reply.metadata.id == question.metadata.id);
            for query in &question.queries {
                let _ = HostName::from_wire(&query.name().to_ascii());
            }
            if let Ok(bytes) = reply.to_vec() {
                prop_assert!(u16::try_from(bytes.len()).is_ok());
                let again = Message::from_vec(&bytes);
                prop_assert!(again.is_ok_and(|again| again.metadata.message_type == MessageType::Response));
            }
        }
    }
}
