//! Newtypes and checks of single values. Touches nothing.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    secret::Secret,
};

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word for it in flags, files and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Error::refused($what, text.escape_debug(), concat!("is none of:" $(, " ", $word)+))),
                }
            }
        }
    };
}

word_enum!(
    /// The program that is the virtual machine.
    VmmKind, "VMM" {
        /// Firecracker, the product.
        Firecracker = "firecracker",
        /// QEMU's microvm, where Firecracker cannot run.
        Qemu = "qemu",
    }
);
word_enum!(
    /// Who keeps the VM running.
    SupervisorKind, "supervisor" {
        /// systemd units.
        Systemd = "systemd",
        /// A small process of our own, where systemd is not PID 1.
        Embedded = "embedded",
    }
);
word_enum!(
    /// How the gateway runs in the guest.
    Runtime, "runtime" {
        /// OpenClaw's own files and Node, as the base image carries them.
        Native = "native",
        /// The container image.
        Docker = "docker",
    }
);

word_enum!(
    /// Where an instance may connect to.
    EgressMode, "--egress" {
        /// The public internet and its own resolvers.
        Public = "public",
        /// Private ranges too.
        Open = "open",
        /// Nowhere.
        None = "none",
        /// What a list names.
        Allow = "allow",
    }
);
word_enum!(
    /// Where the keys of model providers are.
    KeyMode, "--keys" {
        /// On the host: the sidecar puts them into requests.
        Broker = "broker",
        /// In the guest.
        Guest = "guest",
    }
);

word_enum!(
    /// What an instance's disks are made of.
    DiskKind, "kind of disks" {
        /// One root disk, a copy of its base.
        Copy = "copy",
        /// The image's base, read-only and shared, and a state disk of the instance's own.
        Shared = "shared",
    }
);

/// The size of a disk: `40G`, `512M`; powers of 1024. Kept as it was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskSize {
    text: String,
    bytes: u64,
}

impl DiskSize {
    /// The default of the contract.
    pub const DEFAULT: &str = "40G";

    /// The size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As it was said.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for DiskSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            Error::refused("disk size", text.escape_debug(), why).hint("sizes look like 40G or 512M")
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift =
            match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
                "" => 0,
                "K" => 10,
                "M" => 20,
                "G" => 30,
                "T" => 40,
                _ => return Err(refused("has an unknown unit")),
            };
        let no_number = |_| refused("is not a number with a unit");
        // QEMU's tools take a fraction, so records have one.
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let number: u64 = whole.parse().map_err(no_number)?;
        let decimals = u32::try_from(fraction.len()).ok().filter(|count| *count <= 3);
        let decimals = decimals.ok_or_else(|| refused("has more than three decimals"))?;
        let fraction = u128::from(fraction.parse::<u16>().map_err(no_number)?) << shift;
        let part =
            u64::try_from(fraction / 10_u128.pow(decimals)).map_err(|_| refused("is beyond any disk"))?;
        // Whole mebibytes: no disk ends in the middle of a block.
        let bytes = number.checked_mul(1 << shift).and_then(|whole| whole.checked_add(part >> 20 << 20));
        let bytes = bytes.ok_or_else(|| refused("is beyond any disk"))?;
        if bytes < 64 << 20 {
            return Err(refused("is below 64M"));
        }
        if bytes > 64 << 40 {
            return Err(refused("is above 64T"));
        }
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for DiskSize {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DiskSize> for String {
    fn from(size: DiskSize) -> Self {
        size.text
    }
}

/// A value that fits one line of a file: no control characters, none of Unicode's line separators, at most 4096 bytes.
pub fn one_line<'a>(what: &str, value: &'a str) -> Result<&'a str> {
    if value.len() > 4096 {
        return Err(Error::refused(
            what,
            format!("{}…", value.chars().take(20).collect::<String>()),
            "is longer than 4096 bytes",
        ));
    }
    if value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(Error::refused(
            what,
            value.escape_debug(),
            "holds a newline or another control character",
        ));
    }
    Ok(value)
}

/// A model as `provider/name`.
pub fn model(value: &str) -> Result<String> {
    one_line("--model", value)?;
    let parts = value.split_once('/');
    let good = parts.is_some_and(|(provider, name)| {
        !provider.is_empty()
            && provider.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !name.is_empty()
            && !value.contains(char::is_whitespace)
    });
    if good {
        return Ok(value.to_owned());
    }
    Err(Error::refused("--model", value.escape_debug(), "is not provider/name")
        .hint("for example anthropic/claude-opus-4-6"))
}

/// Skills as a comma-separated list; an empty one means none.
pub fn skills(value: &str) -> Result<Vec<String>> {
    one_line("--skills", value)?;
    Ok(value.split(',').map(str::trim).filter(|skill| !skill.is_empty()).map(str::to_owned).collect())
}

/// Telegram users as a comma-separated list of numeric ids.
pub fn telegram_users(value: &str) -> Result<Vec<u64>> {
    value
        .split(',')
        .map(str::trim)
        .filter(|user| !user.is_empty())
        .map(|user| {
            user.parse().map_err(|_| {
                Error::refused("--telegram-users", user.escape_debug(), "is not a numeric user id")
                    .hint("Telegram's @userinfobot tells an id; user names do not work here")
            })
        })
        .collect()
}

/// The same out of a record, where the Bash fireclaw took any word: the ids, and what is none.
pub fn recorded_users(value: &str) -> (Vec<u64>, Vec<String>) {
    let (mut ids, mut others) = (Vec::new(), Vec::new());
    for user in value.split(',').map(str::trim).filter(|user| !user.is_empty()) {
        match user.parse() {
            Ok(id) => ids.push(id),
            Err(_) => others.push(user.to_owned()),
        }
    }
    (ids, others)
}

/// A Telegram bot token: `123456:ABC…`. The value is never shown.
pub fn telegram_token(value: &str) -> Result<Secret> {
    let good = value.split_once(':').is_some_and(|(bot, key)| {
        !bot.is_empty()
            && bot.bytes().all(|b| b.is_ascii_digit())
            && !key.is_empty()
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    if good {
        return Ok(Secret::new(value));
    }
    Err(Error::refused("--telegram-token", "<hidden>", "is not a bot token")
        .hint("@BotFather gives one of the form 123456:ABC-DEF"))
}

/// A provider's key: what an HTTP header can carry. The value is never shown.
pub fn api_key(flag: &str, value: &str) -> Result<Secret> {
    if value.is_empty() {
        return Err(Error::refused(flag, "<hidden>", "is empty"));
    }
    if value.len() > 4096 {
        return Err(Error::refused(flag, "<hidden>", "is longer than 4096 bytes"));
    }
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::refused(
            flag,
            "<hidden>",
            "holds a space, a newline or a character that no HTTP header can carry",
        ));
    }
    Ok(Secret::new(value))
}

/// Requests an hour; 0 is without end.
pub fn budget(text: &str) -> Result<Option<u32>> {
    match text.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Error::refused("--budget-requests-per-hour", text.escape_debug(), "is not a number")
            .hint("for example 120; 0 sets no limit")),
    }
}

/// A container image reference.
pub fn container_image(value: &str) -> Result<String> {
    let good = !value.is_empty()
        && value.len() <= 512
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b':' | b'@'))
        && value.as_bytes()[0].is_ascii_alphanumeric();
    if good {
        return Ok(value.to_owned());
    }
    Err(Error::refused(
        "--openclaw-image",
        value.escape_debug(),
        "is not an image reference such as ghcr.io/openclaw/openclaw:latest",
    ))
}

/// A host port that a user may ask for.
pub fn host_port(value: u32) -> Result<u16> {
    match u16::try_from(value) {
        Ok(port) if port >= 1024 => Ok(port),
        Ok(_) => {
            Err(Error::refused("--host-port", value, "is below 1024").hint("choose one from 1024 to 65535"))
        }
        Err(_) => {
            Err(Error::refused("--host-port", value, "is above 65535").hint("choose one from 1024 to 65535"))
        }
    }
}

/// Resolvers as a comma-separated list of IPv4 addresses.
pub fn dns(value: &str) -> Result<Vec<Ipv4Addr>> {
    let servers: Vec<Ipv4Addr> = value
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(|server| {
            server
                .parse()
                .map_err(|_| Error::refused("--dns", server.escape_debug(), "is not an IPv4 address"))
        })
        .collect::<Result<_>>()?;
    if servers.is_empty() {
        return Err(Error::refused("--dns", value.escape_debug(), "names no server"));
    }
    Ok(servers)
}

/// The most virtual CPUs: Firecracker's limit.
pub const VCPU_MAX: u32 = 32;

/// The number of virtual CPUs.
pub fn vcpu(value: u32) -> Result<u32> {
    if (1..=VCPU_MAX).contains(&value) {
        return Ok(value);
    }
    Err(Error::refused("--vm-vcpu", value, "is not from 1 to 32"))
}

/// A VM's memory in MiB. The least is what a systemd guest boots in.
pub fn mem_mib(value: u32) -> Result<u32> {
    if value >= 128 {
        return Ok(value);
    }
    Err(Error::refused("--vm-mem-mib", value, "is below 128").hint("OpenClaw needs 2048"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_sizes() {
        assert_eq!("40G".parse::<DiskSize>().unwrap().bytes(), 40 << 30);
        assert_eq!("512MiB".parse::<DiskSize>().unwrap().bytes(), 512 << 20);
        assert_eq!("40.5G".parse::<DiskSize>().unwrap().bytes(), 81 << 29);
        assert_eq!("1.001T".parse::<DiskSize>().unwrap().bytes() % (1 << 20), 0);
        for bad in [
            "",
            "G",
            "40X",
            "-1G",
            "1K",
            "99999999999999999999G",
            "1000T",
            "4 G",
            "4.G",
            ".5G",
            "4.1234G",
            "16777215.999T",
        ] {
            assert!(bad.parse::<DiskSize>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nasty_values_are_kept_or_refused_by_name() {
        assert_eq!(model("openai/gpt\"$`'🦀").unwrap(), "openai/gpt\"$`'🦀");
        assert!(model("anthropic/claude\nevil").unwrap_err().to_string().contains("--model"));
        assert_eq!(skills("a, b$'\",🦀").unwrap(), ["a", "b$'\"", "🦀"]);
        assert!(skills("a\nb").unwrap_err().to_string().contains("--skills"));
        assert!(telegram_users("12,@me").unwrap_err().to_string().contains("--telegram-users"));
        assert_eq!(api_key("--anthropic-api-key", "a\"$'\\`b").unwrap().expose(), "a\"$'\\`b");
        for bad in ["a b", "a\nb", "🦀", ""] {
            let error = api_key("--anthropic-api-key", bad).unwrap_err();
            assert!(error.to_string().contains("--anthropic-api-key"));
        }
        assert!(container_image("--privileged").is_err());
        assert!(container_image("reg/x:1;reboot").is_err());
        assert!(telegram_token("123:abc\n").is_err());
    }

    #[test]
    fn a_refused_secret_is_not_shown() {
        for error in
            [api_key("--openai-api-key", "sk secret").unwrap_err(), telegram_token("hunter2").unwrap_err()]
        {
            let text = format!("{error:?}{}", error.one_line());
            assert!(!text.contains("sk secret") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn ports() {
        assert!(host_port(80).is_err() && host_port(65536).is_err());
        assert_eq!(host_port(18891).unwrap(), 18891);
    }
}
