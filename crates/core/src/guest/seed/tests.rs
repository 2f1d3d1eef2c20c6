//! The reader against the seeds that [`CloudInit`] renders: what the host says is what a guest does, without cloud-init.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::render::cloud_init::{CloudInit, GuestNetwork, SeedFiles};

const PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n";

fn sample() -> CloudInit {
    let ip = Ipv4Addr::new(172, 16, 0, 2);
    CloudInit {
        instance: "my-bot_2".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3Nz fireclaw 🦀 \"' $x".into()],
        host_key: Some(GuestHostKey {
            private: Secret::new(PRIVATE),
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

fn named(files: &SeedFiles) -> BTreeMap<String, String> {
    files.named().into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

#[test]
fn a_seed_of_ours_is_read() {
    let seed = read(&named(&sample().render())).unwrap();
    assert_eq!(seed.hostname, "my-bot-2");
    assert_eq!(seed.login_keys, sample().authorized_keys);
    assert_eq!(seed.host_key, sample().host_key);
    insta::assert_snapshot!(seed.network, @"
    [Match]
    MACAddress=06:fc:00:10:00:02

    [Network]
    DHCP=no
    IPv6AcceptRA=no
    LinkLocalAddressing=no
    Address=172.16.0.2/24
    DNS=1.1.1.1
    DNS=8.8.8.8

    [Route]
    Gateway=172.16.0.1
    ");
}

#[test]
fn a_seed_without_a_host_key_is_read_too() {
    assert_eq!(read(&named(&CloudInit { host_key: None, ..sample() }.render())).unwrap().host_key, None);
}

/// A change of the sample's files that leaves the reader's hands off it.
fn changed(find: &str, put: &str) -> BTreeMap<String, String> {
    let ours = named(&sample().render());
    let changed: BTreeMap<_, _> =
        ours.iter().map(|(name, text)| (name.clone(), text.replacen(find, put, 1))).collect();
    assert_ne!(changed, ours, "{find} is not in the seed");
    changed
}

#[test]
fn whatever_else_a_seed_holds_is_cloud_inits() {
    for (find, put) in [
        ("#cloud-config", "#!/bin/sh"),
        ("#cloud-config", "#cloud-config-archive"),
        ("\"disable_root\"", "\"runcmd\": [\"reboot\"], \"disable_root\""),
        ("\"disable_root\": true", "\"disable_root\": false"),
        ("\"name\": \"ubuntu\"", "\"name\": \"root\""),
        ("\"lock_passwd\"", "\"passwd\": \"x\", \"lock_passwd\""),
        ("\"hostname\": \"my-bot-2\"", "\"hostname\": \"a\\nb\""),
        ("\"hostname\": \"my-bot-2\"", "\"hostname\": \"-a\""),
        ("ssh-ed25519 AAAAC3Nz fireclaw", "a\\nb"),
        ("\"ed25519_private\"", "\"rsa_private\""),
        ("\"dhcp4\": false", "\"dhcp4\": true"),
        ("\"dhcp4\": false", "\"dhcp4\": null"),
        ("\"dhcp6\"", "\"mtu\": 1400, \"dhcp6\""),
        ("172.16.0.2/24", "172.16.0.2/24\\nGateway=10.0.0.1"),
        ("172.16.0.2/24", "172.16.0.2/33"),
        ("\"via\": \"172.16.0.1\"", "\"via\": \"fe80::1\""),
        ("\"1.1.1.1\"", "\"1.1.1.1\\nDomains=x\""),
        ("\"1.1.1.1\"", "\"2\u{660}.1.1.1\""),
        ("\"local-hostname\"", "\"public-keys\": [], \"local-hostname\""),
        ("\"version\": 2", "version: 2"),
        ("\"version\": 2", "\"version\": 2, \"version\": 2"),
    ] {
        read(&changed(find, put)).expect_err(put);
    }
    let mut more = named(&sample().render());
    more.insert("vendor-data".to_owned(), String::new());
    assert_eq!(
        read(&more).unwrap_err().to_string(),
        "it has the files meta-data, network-config, user-data, vendor-data"
    );
}

/// What is said of a seed that is not read goes to a console that is kept.
#[test]
fn no_secret_is_told() {
    for (find, put) in [
        ("\"ed25519_public\"", "\"other\""),
        ("\"ssh_keys\": {", "\"ssh_keys\": \"b3Bl\", \"more\": {"),
        ("-----BEGIN", "\u{1}-----BEGIN"),
        ("\"ed25519_private\": \"", "\"disable_root\": \""),
    ] {
        let why = read(&changed(find, put)).expect_err(put).to_string();
        assert!(!why.contains("b3Bl") && !why.contains("BEGIN"), "{why}");
    }
}

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
fn replace(value: &mut Value, left: &mut usize, new: &mut Option<Value>) {
    if *left == 0 {
        if let Some(new) = new.take() {
            *value = new;
        }
        return;
    }
    *left -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for item in inner {
        if new.is_some() {
            replace(item, left, new);
        }
    }
}

fn is_plain(line: &str) -> bool {
    const KNOWN: [&str; 7] =
        ["", "[Match]", "[Network]", "[Route]", "DHCP=no", "IPv6AcceptRA=no", "LinkLocalAddressing=no"];
    let (key, value) = line.split_once('=').unwrap_or_default();
    KNOWN.contains(&line)
        || (["MACAddress", "Address", "DNS", "Gateway"].contains(&key)
            && value.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte)))
}

proptest! {
    /// What is read of a seed has no line that the seed smuggled in, whatever stands in its place.
    #[test]
    fn no_seed_breaks_the_reader(changes in prop::collection::vec((0_usize..3, 0_usize..30, any_value()), 1..4)) {
        let mut files = named(&sample().render());
        for (document, at, new) in changes {
            let (_, text) = files.iter_mut().nth(document).unwrap();
            let header = if text.starts_with(HEADER) { "#cloud-config\n" } else { "" };
            let mut value: Value = serde_json::from_str(&text[header.len()..]).unwrap();
            replace(&mut value, &mut { at }, &mut Some(new));
            *text = format!("{header}{value}");
        }
        if let Ok(seed) = read(&files) {
            prop_assert!(is_label(&seed.hostname));
            prop_assert!(seed.login_keys.iter().all(|key| is_one_line(key)));
            for line in seed.network.lines() {
                prop_assert!(is_plain(line), "{line:?}");
            }
        }
    }
}
