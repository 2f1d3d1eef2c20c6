//! The guest's reader of seeds against the seeds that core renders: what the host says is what a guest does, without
//! cloud-init. Runs Python, in which the reader is written because cloud-init brings it into every guest.

use std::net::Ipv4Addr;

use fireclaw_core::{
    id::MacAddr,
    render::cloud_init::{CloudInit, GuestHostKey, GuestNetwork, SeedFiles},
    secret::Secret,
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::exec::{Cmd, Exec, Stream, SystemExec};

/// Loads the reader and hands it a seed: its plan as JSON, or `null` and why cloud-init has to look.
const DRIVER: &str = r#"
import importlib.machinery, importlib.util, json, sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("seed", sys.argv[1])
seed = importlib.util.module_from_spec(importlib.util.spec_from_loader("seed", loader))
loader.exec_module(seed)
try:
    print(json.dumps([seed.plan_of(*seed.documents_of(json.load(sys.stdin))), ""]))
except (seed.NotOurs, ValueError) as why:
    print(json.dumps([None, str(why)]))
"#;

fn sample() -> CloudInit {
    let ip = Ipv4Addr::new(172, 16, 0, 2);
    CloudInit {
        instance: "my-bot_2".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3Nz fireclaw 🦀 \"' $x".into()],
        host_key: Some(GuestHostKey {
            private: Secret::new(
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n",
            ),
            public: "ssh-ed25519 AAAAC3Nz my-bot_2".into(),
        }),
        network: GuestNetwork {
            mac: MacAddr::for_ip(ip),
            ip,
            prefix: 24,
            gateway: Ipv4Addr::new(172, 16, 0, 1),
            dns: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)],
        },
    }
}

fn read(files: &SeedFiles) -> (Value, String) {
    let named: Map<String, Value> =
        files.named().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/src/image/files/seed.py");
    let cmd =
        Cmd::new("python3").args(["-I", "-c", DRIVER, reader]).stdin_bytes(Value::Object(named).to_string());
    let output = SystemExec::default().check(cmd).expect("python3 is installed (Debian: python3)");
    let mut answer: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let why = answer.pop().unwrap().as_str().unwrap().to_owned();
    (answer.pop().unwrap(), why)
}

#[test]
fn a_seed_of_ours_is_applied_without_cloud_init() {
    let (plan, why) = read(&sample().render());
    assert_eq!(why, "");
    assert_eq!(plan[0], json!("my-bot-2"));
    assert_eq!(plan[1], json!(["ssh-ed25519 AAAAC3Nz fireclaw 🦀 \"' $x"]));
    assert_eq!(
        plan[2],
        json!({
            "ed25519_public": "ssh-ed25519 AAAAC3Nz my-bot_2",
            "ed25519_private": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n",
        })
    );
    insta::assert_snapshot!(plan[3].as_str().unwrap());
}

#[test]
fn a_seed_without_a_host_key_is_applied_too() {
    let (plan, why) = read(&CloudInit { host_key: None, ..sample() }.render());
    assert_eq!((plan[2].clone(), why.as_str()), (json!({}), ""));
}

#[test]
fn whatever_else_a_seed_holds_goes_to_cloud_init() {
    let ours = sample().render();
    let with = |find: &str, put: &str| {
        let text = |text: &str| text.replacen(find, put, 1);
        SeedFiles {
            user_data: Secret::new(text(ours.user_data.expose())),
            meta_data: text(&ours.meta_data),
            network_config: text(&ours.network_config),
        }
    };
    let changes = [
        ("#cloud-config", "#!/bin/sh"),
        ("\"disable_root\"", "\"runcmd\": [\"reboot\"], \"disable_root\""),
        ("\"disable_root\": true", "\"disable_root\": false"),
        ("\"name\": \"ubuntu\"", "\"name\": \"root\""),
        ("\"lock_passwd\"", "\"passwd\": \"x\", \"lock_passwd\""),
        ("\"hostname\": \"my-bot-2\"", "\"hostname\": \"a\\nb\""),
        ("ssh-ed25519 AAAAC3Nz fireclaw", "a\\nb"),
        ("\"ed25519_private\"", "\"rsa_private\""),
        ("\"dhcp4\": false", "\"dhcp4\": true"),
        ("\"dhcp6\"", "\"mtu\": 1400, \"dhcp6\""),
        ("172.16.0.2/24", "172.16.0.2/24\\nGateway=10.0.0.1"),
        ("\"via\": \"172.16.0.1\"", "\"via\": \"fe80::1\""),
        ("\"1.1.1.1\"", "\"1.1.1.1\\nDomains=x\""),
        ("\"local-hostname\"", "\"public-keys\": [], \"local-hostname\""),
        ("\"version\": 2", "version: 2"),
    ];
    for (find, put) in changes {
        let changed = with(find, put);
        assert_ne!(changed, ours, "{find} is not in the seed");
        let (plan, why) = read(&changed);
        assert!(plan.is_null() && !why.is_empty(), "{put}: {plan}");
    }
}

/// The same for many seeds, one a line, with a third part: what ended the reader that is no answer of its own.
const MANY: &str = r#"
import importlib.machinery, importlib.util, json, sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("seed", sys.argv[1])
seed = importlib.util.module_from_spec(importlib.util.spec_from_loader("seed", loader))
loader.exec_module(seed)
for line in sys.stdin:
    try:
        answer = [seed.plan_of(*seed.documents_of(json.loads(line))), "", ""]
    except (seed.NotOurs, ValueError) as why:
        answer = [None, str(why), ""]
    except Exception as error:
        answer = [None, "", "%s: %s" % (type(error).__name__, error)]
    print(json.dumps(answer))
"#;

/// Any value of JSON, and such as a reader could trip over.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("1.1.1.1\nDomains=x")),
        Just(json!("ssh-ed25519 A\nssh-ed25519 B")),
        Just(json!("2\u{0660}.1.1.1")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_0-9]{0,9}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts a value in place of one of the document's own, the document itself among them.
fn replace(document: &mut Value, at: usize, new: Value) {
    fn walk(value: &mut Value, left: &mut usize, new: &mut Option<Value>) {
        if *left == 0 {
            if let Some(new) = new.take() {
                *value = new;
            }
            return;
        }
        *left -= 1;
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| {
                if new.is_some() {
                    walk(item, left, new);
                }
            }),
            Value::Object(map) => map.values_mut().for_each(|item| {
                if new.is_some() {
                    walk(item, left, new);
                }
            }),
            _ => {}
        }
    }
    walk(document, &mut { at }, &mut Some(new));
}

/// Whatever the documents hold, the reader applies them or leaves them to cloud-init; it never ends in between, which would be a
/// guest without a network. What it applies has no line that the seed smuggled in.
#[test]
fn no_seed_breaks_the_reader() {
    let cases: usize = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let mut runner = TestRunner::deterministic();
    let changes = prop::collection::vec((0_usize..3, 0_usize..30, any_value()), 1..4);
    let ours = sample().render();
    let mut lines = String::new();
    for _ in 0..cases {
        let user: Value = serde_json::from_str(ours.user_data.expose().split_once('\n').unwrap().1).unwrap();
        let mut documents = [
            user,
            serde_json::from_str(&ours.meta_data).unwrap(),
            serde_json::from_str(&ours.network_config).unwrap(),
        ];
        for (document, at, new) in changes.new_tree(&mut runner).unwrap().current() {
            replace(&mut documents[document], at, new);
        }
        let [user, meta, network] = documents;
        let seed = json!({
            "user-data": format!("#cloud-config\n{user}"), "meta-data": meta.to_string(),
            "network-config": network.to_string(),
        });
        lines.push_str(&format!("{seed}\n"));
    }
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/src/image/files/seed.py");
    let (mut seen, mut applied) = (0, 0);
    let mut broken = Vec::new();
    let inputs: Vec<String> = lines.lines().map(str::to_owned).collect();
    let cmd = Cmd::new("python3").args(["-I", "-c", MANY, reader]).stdin_bytes(lines);
    let mut each = |stream: Stream, line: &str| {
        if stream != Stream::Stdout {
            return;
        }
        let answer: Value = serde_json::from_str(line).unwrap();
        if answer[2] != json!("") {
            broken.push(format!("{} by {}", answer[2], inputs[seen]));
        }
        if let Some(network) = answer[0][3].as_str() {
            applied += 1;
            let known = [
                "[Match]",
                "[Network]",
                "[Route]",
                "DHCP=no",
                "IPv6AcceptRA=no",
                "LinkLocalAddressing=no",
                "",
            ];
            let plain = |line: &str| {
                let (key, value) = line.split_once('=').unwrap_or_default();
                ["MACAddress", "Address", "DNS", "Gateway"].contains(&key)
                    && value.bytes().all(|b| b.is_ascii_hexdigit() || b".:/".contains(&b))
            };
            for line in network.lines().filter(|line| !known.contains(line) && !plain(line)) {
                broken.push(format!("the line {line:?}"));
            }
            let one_line = |value: &Value| value.as_str().is_some_and(|text| !text.contains(['\n', '\r']));
            if !answer[0][1].as_array().unwrap().iter().all(one_line) {
                broken.push(format!("a login key of more lines: {}", answer[0][1]));
            }
            if !answer[0][2].as_object().unwrap().values().all(Value::is_string) {
                broken.push(format!("a host key that is no text: {}", answer[0][2]));
            }
        }
        seen += 1;
    };
    SystemExec::default().check_stream(cmd, &mut each).unwrap();
    assert_eq!(seen, cases);
    assert!(
        broken.is_empty(),
        "{} of {cases}, the first:\n{}",
        broken.len(),
        broken[..broken.len().min(8)].join("\n")
    );
    assert!(applied > cases / 100, "only {applied} of {cases} were applied: the others show little");
}
