//! Names. The only place where the name of a thing on the host or in the guest is derived from an instance id.
//! Touches nothing.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The id of an instance: `^[a-z0-9_-]+$`, at most 40 long, not beginning with `-` (it must never look like an option).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// The longest id that is taken.
    pub const MAX: usize = 40;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit (and the supervised service) that is the VM.
    pub fn vm_unit(&self) -> UnitName {
        UnitName(format!("firecracker-vmdemo-{}.service", self.0))
    }

    /// The unit (and the supervised service) that is the proxy.
    pub fn proxy_unit(&self) -> UnitName {
        UnitName(format!("vmdemo-proxy-{}.service", self.0))
    }

    /// The unit that watches for what the proxy asks.
    pub fn wake_path_unit(&self) -> UnitName {
        UnitName(format!("vmdemo-wake-{}.path", self.0))
    }

    /// The unit that does what the proxy asks.
    pub fn wake_unit(&self) -> UnitName {
        UnitName(format!("vmdemo-wake-{}.service", self.0))
    }

    /// The gateway's unit inside the guest.
    pub fn guest_unit(&self) -> UnitName {
        UnitName(format!("openclaw-{}.service", self.0))
    }

    /// The id for the jailer, which knows `[A-Za-z0-9-]{1,64}` and no underscore. `_` becomes `-u` and `-` becomes
    /// `--`, so that two ids never share a jail and [`InstanceId::from_jail`] finds the way back.
    pub fn jail(&self) -> String {
        // 40 characters double to 80 at worst, past the jailer's 64: such an id of hyphens and underscores keeps its
        // letters and is told apart by a hash of the whole.
        let mapped: String = self.escaped();
        if mapped.len() <= 64 {
            return mapped;
        }
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in self.0.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let kept: String = self.0.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        format!("{kept}-x{hash:016x}")
    }

    fn escaped(&self) -> String {
        self.0
            .chars()
            .map(|c| match c {
                '_' => "-u".to_owned(),
                '-' => "--".to_owned(),
                other => other.to_string(),
            })
            .collect()
    }

    /// The instance whose jail has this name, unless the name was shortened.
    pub fn from_jail(jail: &str) -> Option<Self> {
        let mut id = String::new();
        let mut rest = jail.chars();
        while let Some(c) = rest.next() {
            match c {
                '-' => match rest.next()? {
                    'u' => id.push('_'),
                    '-' => id.push('-'),
                    _ => return None,
                },
                other => id.push(other),
            }
        }
        id.parse().ok()
    }

    /// The tap candidates for an address, the contract's name first: `t`, the first six of `[a-z0-9]` of the id, the last
    /// octet. When that is taken (another subnet octet, an alike id), the third octet is put before the last.
    pub fn tap_candidates(&self, ip: Ipv4Addr) -> Vec<TapName> {
        let stem: String = self.0.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
        let [_, _, third, last] = ip.octets();
        vec![TapName(format!("t{stem}{last}")), TapName(format!("t{stem}{third:02x}{last:02x}"))]
    }

    /// The host name inside the guest: ids may hold `_`, host names may not.
    pub fn guest_hostname(&self) -> String {
        let name = self.0.replace('_', "-");
        name.trim_matches('-').to_owned() + if name.trim_matches('-').is_empty() { "openclaw" } else { "" }
    }
}

impl FromStr for InstanceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = if text.is_empty() {
            "is empty"
        } else if text.len() > Self::MAX {
            "is longer than 40 characters"
        } else if !text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        {
            "has characters other than a-z, 0-9, _ and -"
        } else if text.starts_with('-') {
            "begins with a hyphen"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Error::refused("instance id", text.escape_debug(), why).hint("choose an id such as `my-bot`"))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

/// Glob patterns that the names of all instances' units match, the VMs' and the proxies'.
pub const fn unit_patterns() -> [&'static str; 2] {
    ["firecracker-vmdemo-*.service", "vmdemo-proxy-*.service"]
}

/// A systemd unit, or the service of the same name under the embedded supervisor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// The name with its suffix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! link_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as the kernel knows it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                // IFNAMSIZ is 16 with the terminating zero. The character set keeps the name safe in a rule's text.
                let fits = (1..=15).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                    && !text.starts_with(['-', '.']);
                if fits {
                    return Ok(Self(text.to_owned()));
                }
                Err(Error::refused("link name", text.escape_debug(), "is not 1 to 15 of A-Z, a-z, 0-9, `-`, `_` and `.`"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

link_name!(
    /// The tap device of one VM.
    TapName
);
link_name!(
    /// The bridge that the VMs' taps are ports of.
    BridgeName
);

/// The MAC address of a VM's network card: `06:fc:00:10:` and the last two octets of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The MAC that belongs to a VM's address.
    pub fn for_ip(ip: Ipv4Addr) -> Self {
        let [_, _, third, last] = ip.octets();
        Self([0x06, 0xfc, 0x00, 0x10, third, last])
    }

    /// The six bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&text.join(":"))
    }
}

impl FromStr for MacAddr {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| {
                Error::refused("MAC address", text.escape_debug(), "is not six hexadecimal bytes")
            })?;
        }
        if parts.next().is_some() {
            return Err(Error::refused("MAC address", text.escape_debug(), "is longer than six bytes"));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// The unprivileged user and group that an instance's VMM runs as: one a VM, derived from its address, above the ranges
/// that distributions, systemd and user namespaces give out.
pub fn vmm_uid(ip: Ipv4Addr) -> u32 {
    let [_, _, third, last] = ip.octets();
    1_900_000_000 + u32::from(third) * 256 + u32::from(last)
}

/// The unprivileged user and group of an instance's proxy.
pub fn proxy_uid(ip: Ipv4Addr) -> u32 {
    vmm_uid(ip) + 100_000
}

/// The name of a base image: a folder name, so the same characters as an instance id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The image that `setup` uses when none is named.
    pub const DEFAULT: &str = "default";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the image that also lies at the top of `BASE_IMAGES_DIR`.
    pub fn is_default(&self) -> bool {
        self.0 == Self::DEFAULT
    }
}

impl Default for ImageName {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl FromStr for ImageName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'))
            && !text.starts_with(['-', '.']);
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::refused("image name", text.escape_debug(), "is not 1 to 64 of a-z, 0-9, `_`, `-` and `.`")
            .hint("`fireclaw image list` shows the images that there are"))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ImageName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_refused() {
        let long = "a".repeat(41);
        for bad in ["", "My-Bot", "a.b", "..", "../x", "a b", "-a", "é", "a\n", long.as_str()] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?} was taken");
        }
        for good in ["a", "my-bot", "my_bot", "0", &"a".repeat(40)] {
            assert!(good.parse::<InstanceId>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn names_of_the_contract() {
        let id: InstanceId = "my-bot_2".parse().unwrap();
        assert_eq!(id.vm_unit().as_str(), "firecracker-vmdemo-my-bot_2.service");
        assert_eq!(id.proxy_unit().as_str(), "vmdemo-proxy-my-bot_2.service");
        assert_eq!(id.guest_unit().as_str(), "openclaw-my-bot_2.service");
        let ip = Ipv4Addr::new(172, 16, 3, 254);
        assert_eq!(id.tap_candidates(ip)[0].as_str(), "tmybot2254");
        assert_eq!(MacAddr::for_ip(ip).to_string(), "06:fc:00:10:03:fe");
        assert_eq!(id.guest_hostname(), "my-bot-2");
    }

    #[test]
    fn every_tap_candidate_is_a_link_name() {
        let id: InstanceId = "abcdefghij".parse().unwrap();
        for tap in id.tap_candidates(Ipv4Addr::new(10, 255, 255, 254)) {
            tap.as_str().parse::<TapName>().unwrap();
        }
    }

    proptest::proptest! {
        #[test]
        fn jails_are_distinct_and_fit(a in "[a-z0-9_][a-z0-9_-]{0,39}", b in "[a-z0-9_][a-z0-9_-]{0,39}") {
            let (left, right): (InstanceId, InstanceId) = (a.parse().unwrap(), b.parse().unwrap());
            proptest::prop_assert!(left.jail().len() <= 64);
            proptest::prop_assert!(left.jail().bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'));
            proptest::prop_assert_eq!(left == right, left.jail() == right.jail());
            if left.escaped().len() <= 64 {
                proptest::prop_assert_eq!(InstanceId::from_jail(&left.jail()), Some(left));
            }
        }
    }
}
