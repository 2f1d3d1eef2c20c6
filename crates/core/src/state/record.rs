//! The record of an instance, between its typed form and the lines of `.env` and `provision.vars`. Touches nothing.

use std::{net::Ipv4Addr, path::PathBuf};

use super::{Containment, Format, Lines, RESTORE, record_defaults as defaults};
use crate::{
    error::{Error, Kind, Result},
    id::{InstanceId, MacAddr, TapName},
    secret::Secret,
    spec::{DiskKind, DiskSize, Idle, KeyMode, NetworkSpec, Rates, Runtime, SupervisorKind, VmmKind, value},
};

/// The keys of model providers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderKeys {
    /// `ANTHROPIC_API_KEY`
    pub anthropic: Option<Secret>,
    /// `OPENAI_API_KEY`
    pub openai: Option<Secret>,
    /// `MINIMAX_API_KEY`
    pub minimax: Option<Secret>,
}

impl ProviderKeys {
    /// The key for the provider of a model, `None` when the provider is not one of ours.
    pub fn for_model(&self, model: &str) -> Option<(&'static str, Option<&Secret>)> {
        match model.split('/').next()? {
            "anthropic" => Some(("--anthropic-api-key", self.anthropic.as_ref())),
            "openai" => Some(("--openai-api-key", self.openai.as_ref())),
            "minimax" => Some(("--minimax-api-key", self.minimax.as_ref())),
            _ => None,
        }
    }
}

/// All that is known of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    /// The format that it was read from; it is always written as `plain-v2`.
    pub format: Format,
    /// The id.
    pub id: InstanceId,
    /// The proxy's port on 127.0.0.1.
    pub host_port: u16,
    /// The guest's address.
    pub vm_ip: Ipv4Addr,
    /// The VM's tap.
    pub vm_tap: TapName,
    /// The card's address.
    pub vm_mac: MacAddr,
    /// The token of the gateway.
    pub gateway_token: Secret,
    /// `provider/name`
    pub model: String,
    /// Bundled skills that are allowed.
    pub skills: Vec<String>,
    /// The bot's token, kept in `provision.vars` only.
    pub telegram_token: Option<Secret>,
    /// Numeric user ids.
    pub telegram_users: Vec<u64>,
    /// What else is among them: the Bash fireclaw took any word. Kept, and refused where a bot is configured.
    pub odd_users: Vec<String>,
    /// The container image of the Docker runtime.
    pub openclaw_image: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// The size of the root disk, or of the state disk where the base is shared.
    pub disk_size: DiskSize,
    /// The VMM's API socket.
    pub api_sock: PathBuf,
    /// The private key for SSH to the guest.
    pub ssh_key_path: PathBuf,
    /// No browser for the agent.
    pub skip_browser_install: bool,
    /// Provider keys.
    pub keys: ProviderKeys,
    /// The VMM that it runs on. Bash instances run on Firecracker.
    pub vmm: VmmKind,
    /// Whether that was chosen when it was made. What the Bash fireclaw made runs on whatever its host has.
    pub vmm_is_chosen: bool,
    /// Who keeps it running. Bash instances run under systemd.
    pub supervisor: SupervisorKind,
    /// How the gateway runs. Bash instances use Docker.
    pub runtime: Runtime,
    /// The base image's name, or `custom` for files that were named one by one.
    pub image: String,
    /// What its disks are. Instances of before have a copy.
    pub disks: DiskKind,
    /// The kernel command line of the image.
    pub cmdline: String,
    /// Resolvers of the guest.
    pub dns: Vec<Ipv4Addr>,
    /// RFC 3339, UTC. Empty for Bash instances.
    pub created_at: String,
    /// The network that it lives in.
    pub network: NetworkSpec,
    /// Whether the guest was provisioned once: from then on a failure keeps the instance.
    pub provisioned: bool,
    /// Egress policy, where keys are.
    pub containment: Containment,
    /// How fast it may use network and disk.
    pub rates: Rates,
    /// When it sleeps by itself.
    pub idle: Idle,
    /// Keys of other versions, kept on rewrite.
    pub unknown: Vec<(String, String)>,
    /// The same of `provision.vars`.
    pub unknown_vars: Vec<(String, String)>,
}

impl InstanceRecord {
    /// The names of keys that only another version knows.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().chain(&self.unknown_vars).map(|(key, _)| key.as_str())
    }

    /// Reads the two files; an error names the file. `defaults` is the network for instances that do not record theirs (the Bash fireclaw's).
    pub fn parse(
        what: &str,
        env: &str,
        provision_vars: Option<&str>,
        defaults: &NetworkSpec,
    ) -> Result<Self> {
        Self::read(what, env, provision_vars, defaults).map_err(|error| match error.operation() {
            "read" => error,
            // A value's own error speaks of the flag that it would have come by.
            _ => Error::new("read", what).source(error).kind(Kind::Failed).hint(RESTORE),
        })
    }

    fn read(what: &str, env: &str, provision_vars: Option<&str>, defaults: &NetworkSpec) -> Result<Self> {
        let mut lines = Lines::parse(what, env)?;
        let mut vars = match provision_vars {
            // A crash of the Bash fireclaw may leave it empty.
            Some(text) if !text.trim().is_empty() => {
                Lines::parse(&format!("provision.vars beside {what}"), text)?
            }
            _ => Lines::default(),
        };
        let format = lines.format;
        let network = match (lines.take("BRIDGE_NAME"), lines.take("BRIDGE_ADDR"), lines.take("SUBNET_CIDR"))
        {
            (Some(bridge), Some(addr), Some(subnet)) => NetworkSpec::new(&bridge, &addr, &subnet)?,
            _ => defaults.clone(),
        };
        let containment = Containment::take(&mut lines)?;
        let rates = Rates::take(&mut lines)?;
        let idle = Idle::take(&mut lines)?;
        let mut fields = Fields { what, lines: &mut lines };
        let id: InstanceId = fields.parsed("INSTANCE_ID")?;
        let vm_ip = fields.parsed("VM_IP")?;
        // Values beyond addresses are checked where they are used or changed: one odd value must not make an
        // instance unreadable.
        let secret = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Secret::new);
        let users = fields.lines.take("TELEGRAM_USERS").unwrap_or_default();
        let (telegram_users, odd_users) = value::recorded_users(&users);
        let vmm = fields.lines.take("VMM").filter(|text| !text.is_empty());
        let parsed = |text: &String| text.parse().map_err(|_| fields.damaged("VMM", UNREADABLE));
        let (vmm, vmm_is_chosen) = (vmm.as_ref().map_or(Ok(VmmKind::Firecracker), parsed)?, vmm.is_some());
        Ok(Self {
            format,
            vm_ip,
            host_port: fields.parsed("HOST_PORT")?,
            vm_tap: fields.parsed("VM_TAP")?,
            vm_mac: fields.parsed_or("VM_MAC", || MacAddr::for_ip(vm_ip))?,
            gateway_token: Secret::new(fields.lines.take("GATEWAY_TOKEN").unwrap_or_default()),
            model: fields.lines.take("MODEL").unwrap_or_else(|| defaults::MODEL.to_owned()),
            skills: value::skills(&fields.lines.take("SKILLS").unwrap_or_default())?,
            telegram_token: secret(vars.take("TELEGRAM_TOKEN")),
            telegram_users,
            odd_users,
            openclaw_image: fields
                .lines
                .take("OPENCLAW_IMAGE")
                .unwrap_or_else(|| defaults::OPENCLAW_IMAGE.to_owned()),
            vcpu: fields.parsed_or("VM_VCPU", || defaults::VCPU)?,
            mem_mib: fields.parsed_or("VM_MEM_MIB", || defaults::MEM_MIB)?,
            disk_size: fields
                .parsed_or("DISK_SIZE", || DiskSize::DEFAULT.parse().expect("the default is valid"))?,
            api_sock: fields.lines.take("API_SOCK").unwrap_or_default().into(),
            ssh_key_path: fields.lines.take("SSH_KEY_PATH").unwrap_or_default().into(),
            skip_browser_install: fields
                .lines
                .take("SKIP_BROWSER_INSTALL")
                .is_some_and(|text| text == "true" || text == "1"),
            keys: ProviderKeys {
                anthropic: secret(fields.lines.take("ANTHROPIC_API_KEY")),
                openai: secret(fields.lines.take("OPENAI_API_KEY")),
                minimax: secret(fields.lines.take("MINIMAX_API_KEY")),
            },
            vmm,
            vmm_is_chosen,
            supervisor: fields.parsed_or("SUPERVISOR", || SupervisorKind::Systemd)?,
            runtime: fields.parsed_or("RUNTIME", || Runtime::Docker)?,
            image: fields.lines.take("IMAGE").unwrap_or_else(|| defaults::CUSTOM_IMAGE.to_owned()),
            disks: fields.parsed_or("DISKS", || DiskKind::Copy)?,
            cmdline: fields.lines.take("KERNEL_CMDLINE").unwrap_or_else(|| defaults::CMDLINE.to_owned()),
            dns: match fields.lines.take("DNS") {
                Some(text) => value::dns(&text)?,
                None => Vec::new(),
            },
            created_at: fields.lines.take("CREATED_AT").unwrap_or_default(),
            // The Bash fireclaw removes an instance whose setup failed: one that is there was provisioned.
            provisioned: fields.lines.take("PROVISIONED").is_none_or(|text| text == "true")
                || format != Format::PlainV2,
            network,
            containment,
            rates,
            idle,
            id,
            unknown: lines.rest(),
            unknown_vars: vars.rest().into_iter().filter(|(key, _)| !VARS.contains(&key.as_str())).collect(),
        })
    }

    /// Whether it asks somebody for messages, who would wait while it sleeps.
    pub const fn has_channel(&self) -> bool {
        self.telegram_token.is_some()
    }

    /// The text of `.env`. Refuses a value that would not come back the same.
    pub fn render_env(&self) -> Result<String> {
        let key = |secret: &Option<Secret>| self.key_line(secret.as_ref());
        let mut lines = Lines::default();
        lines.push("INSTANCE_ID", self.id.as_str());
        lines.push("HOST_PORT", self.host_port.to_string());
        lines.push("VM_IP", self.vm_ip.to_string());
        lines.push("VM_TAP", self.vm_tap.as_str());
        lines.push("VM_MAC", self.vm_mac.to_string());
        lines.push("GATEWAY_TOKEN", self.gateway_token.expose());
        lines.push("MODEL", &self.model);
        lines.push("SKILLS", self.skills.join(","));
        lines.push("TELEGRAM_USERS", self.users());
        lines.push("OPENCLAW_IMAGE", &self.openclaw_image);
        lines.push("VM_VCPU", self.vcpu.to_string());
        lines.push("VM_MEM_MIB", self.mem_mib.to_string());
        lines.push("DISK_SIZE", self.disk_size.as_str());
        lines.push("API_SOCK", self.api_sock.to_string_lossy());
        lines.push("SSH_KEY_PATH", self.ssh_key_path.to_string_lossy());
        lines.push("SKIP_BROWSER_INSTALL", self.skip_browser_install.to_string());
        lines.push("ANTHROPIC_API_KEY", key(&self.keys.anthropic));
        lines.push("OPENAI_API_KEY", key(&self.keys.openai));
        lines.push("MINIMAX_API_KEY", key(&self.keys.minimax));
        if self.vmm_is_chosen {
            lines.push("VMM", self.vmm.as_str());
        }
        lines.push("SUPERVISOR", self.supervisor.as_str());
        lines.push("RUNTIME", self.runtime.as_str());
        lines.push("IMAGE", &self.image);
        lines.push("DISKS", self.disks.as_str());
        lines.push("KERNEL_CMDLINE", &self.cmdline);
        if !self.dns.is_empty() {
            lines.push("DNS", join(&self.dns));
        }
        lines.push("CREATED_AT", &self.created_at);
        lines.push("BRIDGE_NAME", self.network.bridge.as_str());
        lines.push("BRIDGE_ADDR", self.network.gateway.to_string());
        lines.push("SUBNET_CIDR", self.network.subnet.to_string());
        lines.push("PROVISIONED", self.provisioned.to_string());
        self.containment.push(&mut lines);
        self.rates.push(&mut lines);
        self.idle.push(&mut lines);
        for (name, text) in &self.unknown {
            lines.push(name, text);
        }
        lines.render()
    }

    /// The text of the file with the keys, where they stay on the host; the other two files then leave them out.
    pub fn render_keys(&self) -> Result<Option<String>> {
        let here = self.containment.keys == KeyMode::Broker;
        here.then(|| self.keys.render()).transpose()
    }

    fn key_line(&self, key: Option<&Secret>) -> String {
        match key {
            Some(key) if self.containment.keys == KeyMode::Guest => key.expose().to_owned(),
            _ => String::new(),
        }
    }

    /// The text of `provision.vars`.
    pub fn render_provision_vars(&self) -> Result<String> {
        let key = |secret: &Option<Secret>| self.key_line(secret.as_ref());
        let mut lines = Lines::default();
        lines.push("INSTANCE_ID", self.id.as_str());
        lines.push("TELEGRAM_TOKEN", self.telegram_token.as_ref().map(Secret::expose).unwrap_or_default());
        lines.push("TELEGRAM_USERS", self.users());
        lines.push("MODEL", &self.model);
        lines.push("SKILLS", self.skills.join(","));
        lines.push("GATEWAY_TOKEN", self.gateway_token.expose());
        lines.push("OPENCLAW_IMAGE", &self.openclaw_image);
        lines.push("SKIP_BROWSER_INSTALL", self.skip_browser_install.to_string());
        lines.push("DISK_SIZE", self.disk_size.as_str());
        lines.push("ANTHROPIC_API_KEY", key(&self.keys.anthropic));
        lines.push("OPENAI_API_KEY", key(&self.keys.openai));
        lines.push("MINIMAX_API_KEY", key(&self.keys.minimax));
        for (name, text) in &self.unknown_vars {
            lines.push(name, text);
        }
        lines.render()
    }

    fn users(&self) -> String {
        join(
            &self.telegram_users.iter().map(u64::to_string).chain(self.odd_users.clone()).collect::<Vec<_>>(),
        )
    }
}

/// What `provision.vars` has, most of it twice: `.env` counts.
const VARS: &[&str] = &[
    "INSTANCE_ID",
    "TELEGRAM_TOKEN",
    "TELEGRAM_USERS",
    "MODEL",
    "SKILLS",
    "GATEWAY_TOKEN",
    "OPENCLAW_IMAGE",
    "SKIP_BROWSER_INSTALL",
    "DISK_SIZE",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "MINIMAX_API_KEY",
];

const UNREADABLE: &str = "has a value that cannot be read";

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

struct Fields<'a> {
    what: &'a str,
    lines: &'a mut Lines,
}

impl Fields<'_> {
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Result<T> {
        let text = self.lines.take(key).ok_or_else(|| self.damaged(key, "is missing"))?;
        text.parse().map_err(|_| self.damaged(key, UNREADABLE))
    }

    fn parsed_or<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        key: &str,
        default: impl FnOnce() -> T,
    ) -> Result<T> {
        match self.lines.take(key) {
            Some(text) if !text.is_empty() => text.parse().map_err(|_| self.damaged(key, UNREADABLE)),
            _ => Ok(default()),
        }
    }

    fn damaged(&self, key: &str, why: &str) -> Error {
        Error::new("read", self.what).because(format!("{key} {why}")).hint(RESTORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "FIRECLAW_STATE_FORMAT=plain-v1\nINSTANCE_ID=my-bot\nHOST_PORT=18891\nVM_IP=172.16.0.2\nVM_TAP=tmybot2\nVM_MAC=06:fc:00:10:00:02\nGATEWAY_TOKEN=abc\nMODEL=anthropic/claude-opus-4-6\nSKILLS=github,tmux\nTELEGRAM_USERS=1,2\nOPENCLAW_IMAGE=ghcr.io/openclaw/openclaw:latest\nVM_VCPU=4\nVM_MEM_MIB=8192\nDISK_SIZE=40G\nAPI_SOCK=/srv/firecracker/vm-demo/my-bot/firecracker.socket\nSSH_KEY_PATH=/home/ubuntu/.ssh/vmdemo_vm\nSKIP_BROWSER_INSTALL=false\nANTHROPIC_API_KEY=sk-\"$'x\nOPENAI_API_KEY=\nMINIMAX_API_KEY=\nSOMETHING_NEW=kept\n";
    const V1_VARS: &str = "FIRECLAW_STATE_FORMAT=plain-v1\nINSTANCE_ID=my-bot\nTELEGRAM_TOKEN=1:a\nTELEGRAM_USERS=1,2\nMODEL=m\n";

    #[test]
    fn a_bash_instance_is_read_with_its_defaults() {
        let record = InstanceRecord::parse(".env", V1, Some(V1_VARS), &NetworkSpec::default()).unwrap();
        assert_eq!(
            (record.vmm, record.supervisor, record.runtime),
            (VmmKind::Firecracker, SupervisorKind::Systemd, Runtime::Docker)
        );
        assert!(record.provisioned);
        assert_eq!(record.telegram_token.as_ref().unwrap().expose(), "1:a");
        assert_eq!(record.keys.anthropic.as_ref().unwrap().expose(), "sk-\"$'x");
        assert_eq!(record.unknown, [("SOMETHING_NEW".to_owned(), "kept".to_owned())]);
    }

    #[test]
    fn a_record_is_rewritten_as_plain_v2_with_nothing_lost() {
        let record = InstanceRecord::parse(".env", V1, Some(V1_VARS), &NetworkSpec::default()).unwrap();
        let again = InstanceRecord::parse(
            ".env",
            &record.render_env().unwrap(),
            Some(&record.render_provision_vars().unwrap()),
            &NetworkSpec::new("other", "10.0.0.1/24", "10.0.0.0/24").unwrap(),
        )
        .unwrap();
        assert_eq!(again, InstanceRecord { format: Format::PlainV2, ..record });
    }

    #[test]
    fn the_text_of_plain_v2_is_pinned() {
        let record = InstanceRecord::parse(".env", V1, Some(V1_VARS), &NetworkSpec::default()).unwrap();
        insta::assert_snapshot!(record.render_env().unwrap());
        insta::assert_snapshot!(record.render_provision_vars().unwrap());
    }

    #[test]
    fn a_legacy_file_is_read() {
        let text = "INSTANCE_ID=old\nHOST_PORT=18892\nVM_IP=172.16.0.3\nVM_TAP=told3\nMODEL=anthropic/claude-opus-4-6\nSKILLS=github\\,tmux\nTELEGRAM_USERS=''\nANTHROPIC_API_KEY=a\\ b\n";
        let record = InstanceRecord::parse(".env", text, None, &NetworkSpec::default()).unwrap();
        assert_eq!(record.format, Format::Legacy);
        assert_eq!(record.skills, ["github", "tmux"]);
        assert_eq!(record.vm_mac.to_string(), "06:fc:00:10:00:03");
    }

    #[test]
    fn words_that_the_bash_fireclaw_took_are_kept_and_a_vmm_that_nobody_chose_stays_open() {
        let text = V1.replace("USERS=1,2", "USERS=1,@alice").replace("=40G", "=1.5T");
        let vars = format!("{V1_VARS}NEW_VAR=x\n");
        let record = InstanceRecord::parse(".env", &text, Some(&vars), &NetworkSpec::default()).unwrap();
        assert_eq!(
            (record.telegram_users.as_slice(), record.odd_users.as_slice()),
            (&[1][..], &["@alice".to_owned()][..])
        );
        assert_eq!(record.disk_size.bytes(), 1536 << 30);
        assert!(!record.vmm_is_chosen);
        let (env, vars) = (record.render_env().unwrap(), record.render_provision_vars().unwrap());
        assert!(env.contains("USERS=1,@alice\n") && !env.contains("VMM=") && vars.contains("NEW_VAR=x\n"));
        let again = InstanceRecord::parse(".env", &env, Some(&vars), &NetworkSpec::default()).unwrap();
        assert_eq!(again, InstanceRecord { format: Format::PlainV2, ..record });
    }

    #[test]
    fn a_value_that_no_flag_would_take_is_told_of_with_its_file() {
        let text = format!("{}EGRESS=bogus\n", V1.replace("plain-v1", "plain-v2"));
        let error = InstanceRecord::parse("/x/.env", &text, None, &NetworkSpec::default()).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Failed);
        assert!(
            error.one_line().contains("/x/.env") && error.one_line().contains("bogus"),
            "{}",
            error.one_line()
        );
        assert!(InstanceRecord::parse(".env", V1, Some(""), &NetworkSpec::default()).is_ok());
    }

    #[test]
    fn a_damaged_file_names_its_key() {
        let text = V1.replace("HOST_PORT=18891", "HOST_PORT=x");
        let error = InstanceRecord::parse(".env", &text, None, &NetworkSpec::default()).unwrap_err();
        assert!(error.one_line().contains("HOST_PORT"), "{}", error.one_line());
        let error =
            InstanceRecord::parse(".env", "\u{0}\u{1}garbage", None, &NetworkSpec::default()).unwrap_err();
        assert!(error.get_hint().is_some());
    }
}
