//! Settings of the host: environment over `/etc/fireclaw/config.toml` over defaults, each with where it came from.
//! Touches nothing: the environment and the file's text are handed in.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, path::PathBuf};

use super::{DiskSize, Limits, NetworkSpec, SupervisorKind, VmmKind, value};
use crate::{
    broker::Provider,
    error::{Error, Kind, Result},
    layout::Layout,
    state::record_defaults::OPENCLAW_IMAGE,
};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An environment variable.
    Environment,
    /// The configuration file.
    ConfigFile,
    /// Built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Environment => "environment",
            Self::ConfigFile => "config file",
            Self::Default => "default",
        })
    }
}

/// One effective value, for `fireclaw doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The variable's name.
    pub name: &'static str,
    /// The value in force.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The host's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// All roots.
    pub layout: Layout,
    /// `BASE_PORT`
    pub base_port: u16,
    /// `BRIDGE_NAME BRIDGE_ADDR SUBNET_CIDR`
    pub network: NetworkSpec,
    /// `SSH_KEY_PATH`
    pub ssh_key_path: PathBuf,
    /// `DISK_SIZE`
    pub disk_size: DiskSize,
    /// `API_SOCK`, empty for the instance's own.
    pub api_sock: Option<PathBuf>,
    /// `OPENCLAW_IMAGE_DEFAULT`
    pub openclaw_image: String,
    /// `vmm` of the configuration file; `None` is `auto`.
    pub vmm: Option<VmmKind>,
    /// `supervisor` of the configuration file; `None` is `auto`.
    pub supervisor: Option<SupervisorKind>,
    /// `dns` of the configuration file.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// `insecure_registries` of the configuration file: `HOST:PORT` from which guests pull images without TLS.
    pub insecure_registries: Vec<String>,
    /// `memory_max`, `cpu_quota` and the others of the configuration file.
    pub limits: Limits,
    /// `provider_anthropic`, `provider_openai`, `provider_minimax` of the configuration file: `HOST:PORT` in place of a
    /// provider's own address, for the key broker.
    pub provider_authorities: BTreeMap<Provider, String>,
    /// `provider_ca` of the configuration file: an authority more that the key broker trusts, as PEM.
    pub provider_ca: Option<PathBuf>,
    /// Every value with its origin.
    pub shown: Vec<Shown>,
}

/// Name of the variable, key in the configuration file, default. `None` marks what only the file holds.
const KNOWN: &[(&str, &str, &str)] = &[
    ("STATE_ROOT", "state_root", "/var/lib/fireclaw"),
    ("FC_ROOT", "fc_root", "/srv/firecracker/vm-demo"),
    ("BASE_PORT", "base_port", "18890"),
    ("BRIDGE_NAME", "bridge_name", NetworkSpec::BRIDGE),
    ("BRIDGE_ADDR", "bridge_addr", NetworkSpec::GATEWAY),
    ("SUBNET_CIDR", "subnet_cidr", NetworkSpec::SUBNET),
    ("SSH_KEY_PATH", "ssh_key_path", "/home/ubuntu/.ssh/vmdemo_vm"),
    ("BASE_IMAGES_DIR", "base_images_dir", "/srv/firecracker/base/images"),
    ("DISK_SIZE", "disk_size", DiskSize::DEFAULT),
    ("API_SOCK", "api_sock", ""),
    ("OPENCLAW_IMAGE_DEFAULT", "openclaw_image_default", OPENCLAW_IMAGE),
];

/// What only the configuration file holds, with the limits' keys.
const FILE_ONLY: &[(&str, &str)] = &[
    ("vmm", "auto"),
    ("supervisor", "auto"),
    ("dns", ""),
    ("insecure_registries", ""),
    ("provider_anthropic", ""),
    ("provider_openai", ""),
    ("provider_minimax", ""),
    ("provider_ca", ""),
];

fn file_only() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILE_ONLY.iter().copied().chain(Limits::KEYS)
}

impl Settings {
    /// The path of the configuration file.
    pub const CONFIG_FILE: &str = "/etc/fireclaw/config.toml";

    /// The variables that change where things are: a child of ours gets them so that it looks in the same places.
    pub const ROOT_VARIABLES: [&str; 3] = ["STATE_ROOT", "FC_ROOT", "BASE_IMAGES_DIR"];

    /// Puts the settings together. `env` looks a variable up, `config` is the file's text.
    pub fn resolve(env: &dyn Fn(&str) -> Option<String>, config: Option<&str>) -> Result<Self> {
        let table = match config {
            Some(text) => parse_config(text)?,
            None => toml::Table::new(),
        };
        let mut shown = Vec::new();
        for (name, key, default) in KNOWN {
            let from_file = table.get(*key).map(|value| scalar(key, value)).transpose()?;
            let (value, origin) = match (env(name).filter(|value| !value.is_empty()), from_file) {
                (Some(value), _) => (value, Origin::Environment),
                (None, Some(value)) => (value, Origin::ConfigFile),
                (None, None) => ((*default).to_owned(), Origin::Default),
            };
            value::one_line(name, &value)?;
            shown.push(Shown { name, value, origin });
        }
        for (key, default) in file_only() {
            let (value, origin) = match table.get(key) {
                Some(value) => (scalar(key, value)?, Origin::ConfigFile),
                None => (default.to_owned(), Origin::Default),
            };
            shown.push(Shown { name: key, value, origin });
        }
        Self::from_shown(shown)
    }

    fn from_shown(shown: Vec<Shown>) -> Result<Self> {
        let get = |name: &str| shown.iter().find(|s| s.name == name).map_or("", |s| s.value.as_str());
        let root = |name: &str| absolute(name, get(name));
        let auto = |text: &str| (text != "auto").then(|| text.to_owned());
        let base_port = get("BASE_PORT");
        Ok(Self {
            layout: Layout {
                state_root: root("STATE_ROOT")?,
                fc_root: root("FC_ROOT")?,
                images_root: root("BASE_IMAGES_DIR")?,
                ..Layout::default()
            },
            base_port: base_port
                .parse()
                .ok()
                .filter(|port| *port >= 1023)
                .ok_or_else(|| Error::refused("BASE_PORT", base_port, "is not a port from 1023 to 65535"))?,
            network: NetworkSpec::new(get("BRIDGE_NAME"), get("BRIDGE_ADDR"), get("SUBNET_CIDR"))?,
            ssh_key_path: root("SSH_KEY_PATH")?,
            disk_size: get("DISK_SIZE").parse()?,
            api_sock: match get("API_SOCK") {
                "" => None,
                text => Some(absolute("API_SOCK", text)?),
            },
            openclaw_image: value::container_image(get("OPENCLAW_IMAGE_DEFAULT"))?,
            vmm: auto(get("vmm")).map(|text| text.parse()).transpose()?,
            supervisor: auto(get("supervisor")).map(|text| text.parse()).transpose()?,
            dns: match get("dns") {
                "" => None,
                text => Some(value::dns(text)?),
            },
            insecure_registries: get("insecure_registries")
                .split(',')
                .filter(|registry| !registry.is_empty())
                .map(str::to_owned)
                .collect(),
            limits: Limits::parse(get)?,
            provider_authorities: Provider::ALL
                .into_iter()
                .map(|provider| (provider, get(&format!("provider_{provider}")).to_owned()))
                .filter(|(_, authority)| !authority.is_empty())
                .collect(),
            provider_ca: match get("provider_ca") {
                "" => None,
                text => Some(absolute("provider_ca", text)?),
            },
            shown,
        })
    }

    /// The variables that a unit carries: what was said by the environment or is not the default, so that an instance is
    /// found where it was made even when the configuration file has changed since.
    pub fn unit_environment(&self) -> Vec<(String, String)> {
        let said = |shown: &Shown| {
            let default = KNOWN.iter().find(|(known, ..)| *known == shown.name).map(|known| known.2);
            shown.origin == Origin::Environment || default != Some(shown.value.as_str())
        };
        let mut environment = self.child_environment();
        environment.retain(|(name, _)| self.shown.iter().any(|shown| shown.name == name && said(shown)));
        environment
    }

    /// The variables that a child of ours needs to find the same instances.
    pub fn child_environment(&self) -> Vec<(String, String)> {
        self.shown
            .iter()
            .filter(|shown| KNOWN.iter().any(|(name, ..)| *name == shown.name) && !shown.value.is_empty())
            .map(|shown| (shown.name.to_owned(), shown.value.clone()))
            .collect()
    }
}

fn parse_config(text: &str) -> Result<toml::Table> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Error::new("read", Settings::CONFIG_FILE).kind(Kind::Refused).because(error.message())
    })?;
    for key in table.keys() {
        if !KNOWN.iter().any(|(_, known, _)| known == key) && !file_only().any(|(known, _)| known == key) {
            let known: Vec<&str> =
                KNOWN.iter().map(|(_, key, _)| *key).chain(file_only().map(|(key, _)| key)).collect();
            return Err(Error::refused("key of config.toml", key.escape_debug(), "is unknown")
                .hint(format!("known keys: {}", known.join(", "))));
        }
    }
    Ok(table)
}

fn scalar(key: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Array(items) => {
            Ok(items.iter().map(|item| scalar(key, item)).collect::<Result<Vec<_>>>()?.join(","))
        }
        other => {
            Err(Error::refused(format!("key {key} of config.toml"), other, "is not a string or a number"))
        }
    }
}

fn absolute(name: &str, text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..") {
        return Ok(path);
    }
    Err(Error::refused(name, text.escape_debug(), "is not an absolute path without `..`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(env: &[(&str, &str)], config: Option<&str>) -> Result<Settings> {
        let env: Vec<(String, String)> =
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::resolve(
            &|name| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()),
            config,
        )
    }

    #[test]
    fn defaults_are_the_contracts() {
        let settings = resolve(&[], None).unwrap();
        assert_eq!(settings.layout, Layout::default());
        assert_eq!(settings.base_port, 18890);
        assert_eq!(settings.network, NetworkSpec::default());
        assert_eq!(settings.ssh_key_path.to_str(), Some("/home/ubuntu/.ssh/vmdemo_vm"));
        assert!(settings.shown.iter().all(|shown| shown.origin == Origin::Default));
    }

    #[test]
    fn environment_wins_over_the_file() {
        let settings = resolve(
            &[("BASE_PORT", "20000")],
            Some("base_port = 30000\nbridge_name = \"br9\"\ndns = [\"9.9.9.9\"]"),
        )
        .unwrap();
        assert_eq!(settings.base_port, 20000);
        assert_eq!(settings.network.bridge.as_str(), "br9");
        assert_eq!(settings.dns, Some(vec![Ipv4Addr::new(9, 9, 9, 9)]));
        let origin = |name: &str| settings.shown.iter().find(|s| s.name == name).unwrap().origin;
        assert_eq!((origin("BASE_PORT"), origin("BRIDGE_NAME")), (Origin::Environment, Origin::ConfigFile));
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        for (env, config, name) in [
            (vec![("STATE_ROOT", "relative")], None, "STATE_ROOT"),
            (vec![("BASE_PORT", "70000")], None, "BASE_PORT"),
            (vec![("BRIDGE_ADDR", "10.9.0.1/24")], None, "BRIDGE_ADDR"),
            (vec![("SUBNET_CIDR", "10.0.0.0/8")], None, "SUBNET_CIDR"),
            (vec![("DISK_SIZE", "big")], None, "disk size"),
            (vec![], Some("colour = 1"), "colour"),
            (vec![], Some("not toml"), "config.toml"),
        ] {
            let error = resolve(&env, config).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
}
