//! What a `NoCloud` seed asks of a guest whose image fireclaw built. Touches nothing.
//!
//! Seeds of fireclaw are JSON and say little: hostname, host key, login keys, one network card. Those are read here, in a fraction of
//! the time that cloud-init's start takes. Whatever else a seed holds is cloud-init's, so that every seed means what cloud-init's
//! documents say of it.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, de::DeserializeOwned};

use super::USER;
use crate::{
    id::MacAddr,
    render::cloud_init::{CARD, GuestHostKey, HEADER},
    secret::Secret,
};

/// What a guest is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// A label of DNS.
    pub hostname: String,
    /// Who may log in as [`USER`], each one line.
    pub login_keys: Vec<String>,
    /// None: the guest makes its own.
    pub host_key: Option<GuestHostKey>,
    /// A file of systemd-networkd.
    pub network: String,
}

/// Why a seed is cloud-init's to read. Holds nothing of the seed, which has a private key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOurs(String);

impl Display for NotOurs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `user-data`, as far as it is known here.
#[expect(clippy::struct_excessive_bools, reason = "they are cloud-init's")]
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserData {
    hostname: Option<String>,
    #[serde(default = "localhost")]
    manage_etc_hosts: String,
    users: Vec<User>,
    ssh_keys: Option<HostKeys>,
    // What these ask for is what the image is.
    #[serde(default = "yes")]
    disable_root: bool,
    #[serde(default)]
    ssh_pwauth: bool,
    #[serde(default)]
    package_update: bool,
    #[serde(default)]
    package_upgrade: bool,
    #[serde(default)]
    growpart: Grow,
    #[serde(default)]
    resize_rootfs: bool,
}

fn localhost() -> String {
    "localhost".to_owned()
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grow {
    mode: String,
}

impl Default for Grow {
    fn default() -> Self {
        Self { mode: "off".to_owned() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    shell: String,
    lock_passwd: bool,
    sudo: String,
    ssh_authorized_keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostKeys {
    ed25519_private: String,
    ed25519_public: String,
}

/// `meta-data`, as far as it is known here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaData {
    #[serde(rename = "instance-id")]
    _instance: Option<serde_json::Value>,
    #[serde(rename = "local-hostname")]
    hostname: Option<String>,
    #[serde(rename = "dsmode")]
    _mode: Option<serde_json::Value>,
}

/// `network-config`, as far as it is known here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    version: u8,
    ethernets: BTreeMap<String, Card>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Card {
    r#match: Match,
    set_name: String,
    dhcp4: bool,
    dhcp6: bool,
    accept_ra: bool,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    nameservers: Servers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    macaddress: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    to: String,
    via: Ipv4Addr,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Servers {
    #[serde(default)]
    addresses: Vec<Ipv4Addr>,
}

/// Reads the files of a seed, by their names.
pub fn read(files: &BTreeMap<String, String>) -> Result<Seed, NotOurs> {
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    if names != ["meta-data", "network-config", "user-data"] {
        return not_ours(format!("it has the files {}", names.join(", ")));
    }
    let Some(user_data) = files["user-data"].strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'))
    else {
        return not_ours("its user-data is of another kind");
    };
    let user_data: UserData = document("user-data", user_data)?;
    let meta_data: MetaData = document("meta-data", &files["meta-data"])?;
    let network: Network = document("network-config", &files["network-config"])?;

    user_data.is_what_the_image_is()?;
    let [user] = &user_data.users[..] else { return not_ours("it has not one user") };
    user.is_the_images()?;
    if !user.ssh_authorized_keys.iter().all(|key| is_one_line(key)) {
        return not_ours("a login key is not one line");
    }
    let hostname = user_data.hostname.or(meta_data.hostname).unwrap_or_default();
    if !is_label(&hostname) {
        return not_ours("its hostname is no label of lower-case letters, digits and hyphens");
    }
    Ok(Seed {
        hostname,
        login_keys: user.ssh_authorized_keys.clone(),
        host_key: user_data.ssh_keys.map(|keys| GuestHostKey {
            private: Secret::new(keys.ed25519_private),
            public: keys.ed25519_public,
        }),
        network: network.render()?,
    })
}

fn not_ours<T>(why: impl Into<String>) -> Result<T, NotOurs> {
    Err(NotOurs(why.into()))
}

/// One document. What serde says of a value may hold it, so only the place is told.
fn document<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, NotOurs> {
    serde_json::from_str(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        NotOurs(if error.is_data() {
            format!("{name}, {place}: more than a seed of fireclaw has, or less")
        } else {
            format!("{name}, {place}: no JSON")
        })
    })
}

impl UserData {
    fn is_what_the_image_is(&self) -> Result<(), NotOurs> {
        let as_it_is = self.manage_etc_hosts == localhost()
            && self.growpart.mode == Grow::default().mode
            && self.disable_root
            && !(self.ssh_pwauth || self.package_update || self.package_upgrade || self.resize_rootfs);
        if as_it_is { Ok(()) } else { not_ours("it asks for another system than the image is") }
    }
}

impl User {
    fn is_the_images(&self) -> Result<(), NotOurs> {
        let same = self.name == USER
            && self.shell == "/bin/bash"
            && self.lock_passwd
            && self.sudo == "ALL=(ALL) NOPASSWD:ALL";
        if same { Ok(()) } else { not_ours("it asks for another user than the image has") }
    }
}

impl Network {
    fn render(&self) -> Result<String, NotOurs> {
        if self.version != 2 || self.ethernets.len() != 1 {
            return not_ours("it asks for another network than one card");
        }
        let Some(card) = self.ethernets.get(CARD) else { return not_ours("its card has another name") };
        if card.set_name != CARD || card.dhcp4 || card.dhcp6 || card.accept_ra {
            return not_ours("its card is set up otherwise than by fixed addresses");
        }
        let Ok(mac) = card.r#match.macaddress.parse::<MacAddr>() else {
            return not_ours("its card is not found by a MAC address");
        };
        let mut text = format!(
            "[Match]\nMACAddress={mac}\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
        );
        for address in &card.addresses {
            let Ok(address) = address.parse::<Ipv4Net>() else {
                return not_ours("an address is not one of IPv4 with its prefix");
            };
            let _ = writeln!(text, "Address={address}");
        }
        for server in &card.nameservers.addresses {
            let _ = writeln!(text, "DNS={server}");
        }
        for route in &card.routes {
            if !["0.0.0.0/0", "default"].contains(&route.to.as_str()) {
                return not_ours("it has another route than the default one");
            }
            let _ = write!(text, "\n[Route]\nGateway={}\n", route.via);
        }
        Ok(text)
    }
}

fn is_one_line(key: &str) -> bool {
    !key.is_empty() && !key.contains(['\r', '\n'])
}

/// A label of a hostname, RFC 1123.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
