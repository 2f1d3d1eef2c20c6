//! The guest's reader of seeds against the seeds that core renders: what the host says is what a guest does, without
//! cloud-init. Runs Python, in which the reader is written because cloud-init brings it into every guest.

use std::net::Ipv4Addr;

use fireclaw_core::{
    id::MacAddr,
    render::cloud_init::{CloudInit, GuestHostKey, GuestNetwork, SeedFiles},
    secret::Secret,
};
use serde_json::{Map, Value, json};

use crate::exec::{Cmd, Exec, SystemExec};

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
