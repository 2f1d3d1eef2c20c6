//! The `NoCloud` seed: user, key, hostname and network of a guest, and nothing else. Touches nothing.
//!
//! Everything is JSON, which is YAML too, so that no value can end its string and become a setting of its own. YAML is
//! the narrower of the two in one respect: it takes some characters in a string only when they are escaped, and
//! [`yaml_safe`] escapes them.

use std::{fmt::Write as _, net::Ipv4Addr};

use serde_json::{Value, json};

use crate::{
    guest::USER,
    id::{InstanceId, MacAddr},
    secret::Secret,
};

/// The name of the guest's one network card.
pub(crate) const CARD: &str = "eth0";
/// The first line of user-data that holds settings.
pub(crate) const HEADER: &str = "#cloud-config";

/// An SSH host key that we give to the guest, so that its first contact is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestHostKey {
    /// OpenSSH's private format.
    pub private: Secret,
    /// `ssh-ed25519 AAAA…`
    pub public: String,
}

/// The guest's network card: one static address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    /// By which the card is found, whatever the kernel calls it.
    pub mac: MacAddr,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The length of the subnet's prefix.
    pub prefix: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
}

/// What a guest is told at its first boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInit {
    /// Whose guest it is; gives the hostname.
    pub instance: InstanceId,
    /// Public keys that may log in as [`crate::guest::USER`], each one line of OpenSSH's format.
    pub authorized_keys: Vec<String>,
    /// `None`: the guest makes its own, and the first login pins it.
    pub host_key: Option<GuestHostKey>,
    /// The network card.
    pub network: GuestNetwork,
}

/// The three files of a seed. The user-data holds the private host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFiles {
    /// `user-data`
    pub user_data: Secret,
    /// `meta-data`
    pub meta_data: String,
    /// `network-config`
    pub network_config: String,
}

impl SeedFiles {
    /// The files with the names that `NoCloud` looks for.
    pub fn named(&self) -> [(&'static str, &str); 3] {
        [
            ("user-data", self.user_data.expose()),
            ("meta-data", &self.meta_data),
            ("network-config", &self.network_config),
        ]
    }
}

impl CloudInit {
    /// Renders the seed. The instance id holds a fingerprint of the rest: cloud-init runs again in a guest whose seed has
    /// changed, and only then.
    pub fn render(&self) -> SeedFiles {
        let network_config = yaml_safe(&self.network_config());
        // The private key stays out of the fingerprint, which every user of the guest may read; the public key stands
        // for it.
        let fingerprint = fnv1a(&[yaml_safe(&self.user_data(None)), network_config.clone()]);
        let meta_data = json!({
            "instance-id": format!("fireclaw-{}-{fingerprint:016x}", self.instance),
            "local-hostname": self.instance.guest_hostname(),
        });
        let private = self.host_key.as_ref().map(|key| &key.private);
        SeedFiles {
            user_data: Secret::new(format!("{HEADER}\n{}", yaml_safe(&self.user_data(private)))),
            meta_data: yaml_safe(&meta_data),
            network_config,
        }
    }

    fn user_data(&self, private: Option<&Secret>) -> Value {
        let mut data = json!({
            "hostname": self.instance.guest_hostname(),
            // sudo looks its own host up: without an entry each call waits for a resolver.
            "manage_etc_hosts": "localhost",
            "users": [{
                "name": USER,
                "shell": "/bin/bash",
                "lock_passwd": true,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": self.authorized_keys,
            }],
            "disable_root": true,
            "ssh_pwauth": false,
            "package_update": false,
            "package_upgrade": false,
            // The disk has no partitions, and its filesystem was grown before the first boot.
            "growpart": { "mode": "off" },
            "resize_rootfs": false,
        });
        if let Some(key) = &self.host_key {
            let mut keys = json!({ "ed25519_public": key.public });
            if let Some(private) = private {
                keys["ed25519_private"] = private.expose().into();
            }
            data["ssh_keys"] = keys;
        }
        data
    }

    fn network_config(&self) -> Value {
        let network = &self.network;
        json!({
            "version": 2,
            "ethernets": { CARD: {
                "match": { "macaddress": network.mac.to_string() },
                // Without it cloud-init's networkd renderer asks for MAC *and* for a card named like the entry.
                "set-name": CARD,
                "dhcp4": false,
                "dhcp6": false,
                "accept-ra": false,
                "addresses": [format!("{}/{}", network.ip, network.prefix)],
                // The spelling `default` is newer than some of the cloud-init versions that are about.
                "routes": [{ "to": "0.0.0.0/0", "via": network.gateway }],
                "nameservers": { "addresses": network.dns },
            } },
        })
    }
}

/// JSON that a YAML 1.1 reader takes too, and reads as the same values: what YAML does not count as printable and what it
/// counts as a line break is escaped. All of it can only stand inside strings.
fn yaml_safe(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}").chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            other => text.push(other),
        }
    }
    text.push('\n');
    text
}

/// FNV-1a, 64 bits: tells two seeds apart; nothing rests on its strength.
fn fnv1a(parts: &[String]) -> u64 {
    parts
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn sample() -> CloudInit {
        let ip = Ipv4Addr::new(172, 16, 0, 2);
        CloudInit {
            instance: "my-bot_2".parse().unwrap(),
            authorized_keys: vec!["ssh-ed25519 AAAAC3Nz fireclaw".into()],
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

    #[test]
    fn golden() {
        let files = sample().render();
        assert_snapshot!("user_data", files.user_data.expose());
        assert_snapshot!("meta_data", files.meta_data);
        assert_snapshot!("network_config", files.network_config);
    }

    #[test]
    fn without_a_host_key_the_guest_makes_its_own() {
        let files = CloudInit { host_key: None, ..sample() }.render();
        assert!(!files.user_data.expose().contains("ssh_keys"));
    }

    #[test]
    fn the_instance_id_changes_with_the_seed_and_only_then() {
        let first = sample().render().meta_data;
        assert_eq!(sample().render().meta_data, first);
        let mut moved = sample();
        moved.network.ip = Ipv4Addr::new(172, 16, 0, 3);
        let mut rekeyed = sample();
        rekeyed.authorized_keys.push("ssh-ed25519 BBBB".into());
        let mut rehosted = sample();
        rehosted.host_key.as_mut().unwrap().public = "ssh-ed25519 BBBB".into();
        for changed in [moved, rekeyed, rehosted] {
            assert_ne!(changed.render().meta_data, first);
        }
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let shown = format!("{:?} {:?}", sample(), sample().render());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }

    #[test]
    fn what_yaml_reads_otherwise_is_escaped() {
        let text = yaml_safe(&json!("a\u{7f}\u{85}\u{2028}\u{feff}🦀"));
        assert_eq!(text, "\"a\\u007f\\u0085\\u2028\\ufeff🦀\"\n");
    }

    proptest! {
        /// Whatever a value holds, it comes back as that value, and the document has no setting more.
        #[test]
        fn no_value_breaks_out(key in any::<String>(), private in any::<String>(), public in any::<String>()) {
            let mut wild = sample();
            wild.authorized_keys = vec![key];
            wild.host_key = Some(GuestHostKey { private: Secret::new(private), public });
            let files = wild.render();
            let body = files.user_data.expose().strip_prefix("#cloud-config\n").unwrap();
            let expected = wild.user_data(wild.host_key.as_ref().map(|key| &key.private));
            prop_assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
        }
    }
}
