//! Everything that core reads and a guest, a stranger or a broken disk may have written: whatever the bytes are, there is an
//! answer, it is bounded, it shows no secret, and what was read can be written and read again. docs/SECURITY.md tells how often
//! this ran; `PROPTEST_CASES` says how often it runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use fireclaw_core::{
    broker::Counter,
    egress::{EgressPolicy, HostName, hello::hides_a_name},
    error::Error,
    guest::{
        channels,
        gate::{self, Answer, GatewayUnit},
        merge,
        protocol::{Event, ProvisionRequest},
        system,
    },
    id::MacAddr,
    render::cloud_init::{CloudInit, GuestHostKey, GuestNetwork},
    secret::Secret,
    sidecar::read_ask,
    spec::{EgressMode, KeyMode, NetworkSpec, RawChanges},
    state::{InstanceRecord, Lines, ProviderKeys},
};
use proptest::{prelude::*, sample::Index};
use serde_json::Value;

/// Text with all that could matter to a reader of lines, quotes, JSON and addresses.
fn text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        4 => "[ -~]{0,24}",
        2 => any::<String>(),
        2 => "[=:\\\\'\"$`{}\\[\\],.*#;/@%&\n\r\t\u{0}]{0,12}",
        1 => Just("\u{1b}[2J".to_owned()),
        1 => "[0-9a-fA-FxX.:-]{0,20}",
    ];
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

/// A valid text of which a few bytes were changed, left out or put in, or the end cut off.
fn spoilt(valid: &'static str) -> impl Strategy<Value = String> {
    let changes = prop::collection::vec((any::<Index>(), 0..8_u8, any::<u8>()), 0..6);
    (changes, text()).prop_map(move |(changes, more)| {
        let mut bytes = valid.as_bytes().to_vec();
        for (at, what, byte) in changes {
            let at = at.index(bytes.len().max(1)).min(bytes.len());
            match (what, bytes.get_mut(at)) {
                (0..=2, Some(old)) => *old = byte,
                (3 | 4, Some(_)) => drop(bytes.remove(at)),
                (5, _) => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, more.bytes().take(9))),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What a user could say as the value of a flag.
fn said() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => text(),
        2 => "[ -~]{1,16}",
        1 => "[0-9]{1,12}(,[0-9]{1,6}){0,2}",
        1 => "[0-9]{6,10}:[A-Za-z0-9_-]{20,35}",
        1 => "[a-z]{1,9}/[ -~]{1,12}",
        1 => "[a-z.]{1,9}(:[0-9]{1,4})?/[a-z/]{1,9}(:[a-z0-9.]{1,6})?",
        1 => Just(String::new()),
        1 => Just("none".to_owned()),
    ]
}

fn spoilt_or_any(valid: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![3 => spoilt(valid), 1 => text()]
}

const RECORD: &str = "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=my-bot\nHOST_PORT=18891\nVM_IP=172.16.0.2\n\
                      VM_TAP=tmybot2\nVM_MAC=06:fc:00:10:00:02\nGATEWAY_TOKEN=s3cr3t-token\nMODEL=anthropic/x\n\
                      TELEGRAM_USERS=1,2\nVM_VCPU=4\nVM_MEM_MIB=8192\nDISK_SIZE=40G\nANTHROPIC_API_KEY=s3cr3t-key\n\
                      VMM=qemu\nSUPERVISOR=embedded\nRUNTIME=native\nDISKS=shared\nDNS=1.1.1.1,8.8.8.8\n\
                      BRIDGE_NAME=fc-br0\nBRIDGE_ADDR=172.16.0.1/24\nSUBNET_CIDR=172.16.0.0/24\nEGRESS=allow\n\
                      EGRESS_ALLOW=anthropic,*.example.com:8443,10.1.0.0/16:5432\nNET_MBIT=5\nNEW=kept\n";
const LEGACY: &str = "INSTANCE_ID=old\nHOST_PORT=18892\nVM_IP=172.16.0.3\nVM_TAP=told3\nSKILLS=github\\,tmux\n\
                      TELEGRAM_USERS=''\nMODEL=$'a\\x41\\101\\n'\nANTHROPIC_API_KEY=\"s3cr3t \\\"key\"\n";
const EVENT: &str =
    r#"{"event":"error","operation":"start","object":"x","causes":["a","b"],"hint":"h","code":5}"#;
const REQUEST: &str = r#"{"version":1,"instance_id":"my-bot","runtime":"native","host_port":18891,
    "gateway_token":"c0ffee","model":"anthropic/x","telegram":{"token":"123:s3cr3t","users":[1]}}"#;
const GATE: &str = r#"{"ok":false,"ready":false,"status":"starting","pendingReason":"plugins"}"#;
const CONFIG: &str =
    "{gateway: {auth: {token: 's3cr3t'}}, // x\n channels: {telegram: {enabled: true, x: 1}}}";
const DOTENV: &str = "A=1\nexport X_BOT_TOKEN='s3cr3t'\nOPENCLAW_GATEWAY_TOKEN=x\n";
const USAGE: &str = "data: {\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
                     data: {\"usage\":{\"output_tokens\":9}}\n";
const RULES: &str = "anthropic,*.example.com:8443,10.1.0.0/16:5432,example.org.";
const RULE: &str = "(\\*\\.)?[a-zA-Z0-9_-]{0,6}(\\.[a-zA-Z0-9-]{0,6}){0,3}(/[0-9]{1,2})?(:[0-9]{1,6})?";
const NAME: &str = "[a-zA-Z0-9._-]{1,70}(\\.[a-z0-9-]{1,12}){0,4}\\.?(:[0-9]{0,6})?";
const ADDRESS: &str = "(0[xX])?[0-9a-f]{1,10}(\\.(0[xX])?[0-9a-f]{0,4}){0,3}\\.?";

proptest! {
    /// A record of `.env`: what can be read can be written, and is the same when it is read again. Errors show no value.
    #[test]
    fn records(env in prop_oneof![spoilt_or_any(RECORD), spoilt(LEGACY)], vars in prop::option::of(text())) {
        let network = NetworkSpec::default();
        match InstanceRecord::parse(".env", &env, vars.as_deref(), &network) {
            Err(error) => {
                let told = format!("{error:?} {} {:?}", error.one_line(), error.get_hint());
                prop_assert!(!told.contains("s3cr3t"), "{}", told);
            }
            Ok(record) => {
                if let (Ok(env), Ok(vars)) = (record.render_env(), record.render_provision_vars()) {
                    let again = InstanceRecord::parse(".env", &env, Some(&vars), &network).unwrap();
                    prop_assert_eq!(again.render_env().unwrap(), env);
                }
            }
        }
        if let Ok(lines) = Lines::parse("x", &env)
            && let Ok(text) = lines.render()
        {
            let again = Lines::parse("x", &text);
            prop_assert!(again.is_ok_and(|again| again.rest() == lines.rest()));
        }
        let _ = ProviderKeys::parse("keys", &env);
    }

    /// What a user may say is refused, or comes back from the files that it is written to. A value that was taken and cannot be
    /// read again would be an instance that cannot be.
    #[test]
    fn what_is_taken_is_kept(
        texts in prop::collection::vec(prop::option::weighted(0.4, said()), 10),
        allow in prop::collection::vec(prop_oneof![3 => RULE, 1 => text()], 0..3),
        budget in prop::option::of(any::<u32>()),
        keys in prop::option::of(prop_oneof![Just(KeyMode::Broker), Just(KeyMode::Guest)]),
    ) {
        let said = |at: usize| texts[at].clone();
        let raw = RawChanges {
            telegram_token: said(0), telegram_users: said(1), model: said(2), skills: said(3),
            openclaw_image: said(4), anthropic_api_key: said(5), openai_api_key: said(6),
            net_mbit: said(7), disk_iops: said(8), disk_mbyte: said(9),
            egress: (!allow.is_empty()).then_some(EgressMode::Allow),
            allow, budget, key_mode: keys, ..RawChanges::default()
        };
        // One value that is refused must not hide what the others do.
        let each = (0..10).map(|only| {
            let keep = |at: usize| if at == only { texts[at].clone() } else { None };
            RawChanges {
                telegram_token: keep(0), telegram_users: keep(1), model: keep(2), skills: keep(3),
                openclaw_image: keep(4), anthropic_api_key: keep(5), openai_api_key: keep(6),
                net_mbit: keep(7), disk_iops: keep(8), disk_mbyte: keep(9), ..RawChanges::default()
            }
        });
        let network = NetworkSpec::default();
        let before = InstanceRecord::parse(".env", &RECORD.replace("native", "docker"), None, &network).unwrap();
        for raw in each.chain([raw]) {
            let Ok(after) = raw.check().and_then(|changes| changes.apply(&before)) else { continue };
            let (env, vars) = (after.render_env().unwrap(), after.render_provision_vars().unwrap());
            let keys = after.render_keys().unwrap();
            let mut again = InstanceRecord::parse(".env", &env, Some(&vars), &network).unwrap();
            if let Some(keys) = keys {
                again.keys = ProviderKeys::parse("keys", &keys).unwrap();
            }
            prop_assert_eq!(again, after, "{:?}", raw);
        }
    }

    /// What a guest answers while it is provisioned, and what its systemd says.
    #[test]
    fn guest_events(line in spoilt_or_any(EVENT), unit in text()) {
        if let Ok(Event::Error(failure)) = serde_json::from_str::<Event>(&line) {
            let error = Error::from(failure);
            // A guest's failure is never taken for a success.
            prop_assert!(error.get_kind().exit_code() != 0);
            let _ = error.one_line();
        }
        let unit = GatewayUnit::parse("openclaw-x.service", &unit);
        let _ = (unit.is_running(), unit.has_failed(), unit.is_up());
    }

    /// What a gateway answers: at most two questions, and no answer opens the gate but one that says so.
    #[test]
    fn gateway_answers(status in 100_u16..600, bodies in prop::collection::vec(spoilt_or_any(GATE), 3)) {
        let mut asked = 0;
        let reading = gate::read(|_| {
            asked += 1;
            Answer::Http { status, body: bodies[asked % 3].clone() }
        });
        prop_assert!(asked <= 2, "{} questions", asked);
        let says = |word: &str| bodies.iter().any(|body| body.contains(word));
        prop_assert!(!reading.started || says("started") || says("ok"), "{:?}", bodies);
    }

    /// What the host asks a guest, as the guest reads it, and orders to the sidecar: an error shows nothing of it.
    #[test]
    fn requests(body in spoilt_or_any(REQUEST)) {
        match ProvisionRequest::parse(&body) {
            Ok(request) => {
                let shown = format!("{request:?}");
                prop_assert!(!shown.contains("123:s3cr3t"), "{}", shown);
            }
            Err(error) => prop_assert!(!error.one_line().contains("s3cr3t"), "{}", error.one_line()),
        }
        if let Err(error) = read_ask(&body) {
            prop_assert!(!error.one_line().contains("s3cr3t"), "{}", error.one_line());
        }
    }

    /// A guest's openclaw.json and `.env`: nothing is on after the channels were taken out, and what is written is read.
    #[test]
    fn configurations(config in spoilt_or_any(CONFIG), dotenv in spoilt_or_any(DOTENV)) {
        let kept = channels::without_tokens(&dotenv);
        if let Ok(config) = merge::parse_config(&config) {
            let without = channels::without(&config);
            let left = channels::configured(&without, Some(&kept));
            prop_assert!(left.is_empty(), "{:?} of {} and {:?}", left, config, dotenv);
            let again = merge::parse_config(&merge::render_config(&without));
            prop_assert!(again.is_ok_and(|again| again == without), "{}", without);
        }
        let _ = (system::account(&dotenv, "ubuntu"), system::Os::parse(&dotenv));
    }

    /// A name from a Host header, a question or a `ClientHello` has one form, and only one reading.
    #[test]
    fn hosts(header in prop_oneof![spoilt_or_any("api.Example.com:8080"), NAME, ADDRESS]) {
        if let Some((name, port)) = HostName::from_host_header(&header) {
            let text = name.as_str();
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
            prop_assert!(text.len() <= 253 && !text.ends_with('.') && !text.starts_with('.'), "{:?}", text);
            prop_assert!(text.bytes().all(plain), "{:?}", text);
            prop_assert!(text.parse::<IpAddr>().is_err(), "{:?} is an address", text);
            let again = port.map_or_else(|| text.to_owned(), |port| format!("{text}:{port}"));
            prop_assert_eq!(HostName::from_host_header(&again), Some((name.clone(), port)));
            prop_assert_eq!(HostName::from_wire(text), Some(name));
        }
    }

    /// Rules as people and records give them: what is taken is read again as it was written.
    #[test]
    fn policies(rules in spoilt_or_any(RULES)) {
        if let Ok(policy) = EgressPolicy::parse(Some("allow"), Some(&rules)) {
            let again = EgressPolicy::parse(Some(policy.mode.as_str()), Some(&policy.render_allow()));
            prop_assert!(again.is_ok_and(|again| again == policy), "{:?}", policy);
        }
    }

    /// A `ClientHello` in whatever records: what it hides is found, and a part of it is not taken for the whole.
    #[test]
    fn client_hellos(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        sizes in prop::collection::vec(1_usize..80, 1..9),
        (cut, at, byte) in any::<(Index, Index, u8)>(),
    ) {
        let _ = hides_a_name(&bytes);
        let mut hello = in_records(&hello(&bytes), &sizes);
        prop_assert_eq!(hides_a_name(&hello), Some(true));
        prop_assert_eq!(hides_a_name(&hello[..cut.index(hello.len())]), None);
        let at = at.index(hello.len());
        hello[at] = byte;
        let _ = hides_a_name(&hello);
    }

    /// A provider's answer in whatever pieces: the same figures.
    #[test]
    fn token_counts(
        answer in spoilt_or_any(USAGE),
        sizes in prop::collection::vec(1_usize..40, 1..9),
        streamed: bool,
    ) {
        let kind = if streamed { "text/event-stream" } else { "application/json" };
        let mut whole = Counter::of(kind).unwrap();
        whole.push(answer.as_bytes());
        let mut pieces = Counter::of(kind).unwrap();
        let (mut rest, mut sizes) = (answer.as_bytes(), sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        prop_assert_eq!(whole.finish(), pieces.finish());
    }

    /// A seed: behind the header each document is JSON with the values as they were given, whatever is in them.
    #[test]
    fn seeds(
        login in text(),
        private in text(),
        public in text(),
        dns in prop::collection::vec(any::<Ipv4Addr>(), 0..4),
    ) {
        let ip = Ipv4Addr::new(172, 16, 0, 2);
        let (mac, servers) = (MacAddr::for_ip(ip), dns.len());
        let files = CloudInit {
            instance: "my-bot_2".parse().unwrap(),
            authorized_keys: vec![login.clone()],
            host_key: Some(GuestHostKey { private: Secret::new(private.clone()), public: public.clone() }),
            network: GuestNetwork { mac, ip, prefix: 24, gateway: ip, dns },
        }
        .render();
        let user = files.user_data.expose().strip_prefix("#cloud-config\n").unwrap();
        let user: Value = serde_json::from_str(user).unwrap();
        prop_assert_eq!(&user["users"][0]["ssh_authorized_keys"][0], &Value::from(login));
        prop_assert_eq!(&user["ssh_keys"]["ed25519_private"], &Value::from(private));
        prop_assert_eq!(&user["ssh_keys"]["ed25519_public"], &Value::from(public));
        let network: Value = serde_json::from_str(&files.network_config).unwrap();
        let told = network["ethernets"]["eth0"]["nameservers"]["addresses"].as_array().unwrap();
        prop_assert_eq!(told.len(), servers);
        prop_assert!(serde_json::from_str::<Value>(&files.meta_data).is_ok());
    }
}

/// A `ClientHello` with an encrypted name of these bytes.
fn hello(secret: &[u8]) -> Vec<u8> {
    let mut extensions = vec![0, 0, 0, 1, b'x', 0xfe, 0x0d];
    extensions.extend(u16::try_from(secret.len()).unwrap().to_be_bytes());
    extensions.extend_from_slice(secret);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

/// A message in records of these sizes, over and over.
fn in_records(mut message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !message.is_empty() {
        let (piece, rest) = message.split_at((*sizes.next().unwrap()).min(message.len()));
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
        message = rest;
    }
    out
}
