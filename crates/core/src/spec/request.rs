//! What `setup` and `provision` are asked for: raw flags in, checked values out. Touches nothing.

use std::{net::Ipv4Addr, path::PathBuf};

use super::{
    DiskSize, EgressMode, KeyMode, Runtime, Settings, SupervisorKind, VmmKind, idle,
    rates::{self, RateFlag},
    value,
};
use crate::{
    broker::Provider,
    egress::EgressPolicy,
    error::{Error, Result},
    id::{ImageName, InstanceId},
    layout::check_socket_path,
    secret::Secret,
    state::{InstanceRecord, ProviderKeys, record_defaults as defaults},
};

/// What the user may change later, as said. `None` keeps what is there.
#[derive(Debug, Clone, Default)]
pub struct RawChanges {
    /// `--telegram-token`, its file or variable; an empty value turns Telegram off.
    pub telegram_token: Option<String>,
    /// `--telegram-users`
    pub telegram_users: Option<String>,
    /// `--model`
    pub model: Option<String>,
    /// `--skills`
    pub skills: Option<String>,
    /// `--openclaw-image`
    pub openclaw_image: Option<String>,
    /// `--anthropic-api-key`, its file or variable.
    pub anthropic_api_key: Option<String>,
    /// `--openai-api-key`, its file or variable.
    pub openai_api_key: Option<String>,
    /// `--minimax-api-key`, its file or variable.
    pub minimax_api_key: Option<String>,
    /// `--skip-browser-install`
    pub skip_browser_install: Option<bool>,
    /// `--egress`
    pub egress: Option<EgressMode>,
    /// `--allow`, as often as it was said.
    pub allow: Vec<String>,
    /// `--keys`
    pub key_mode: Option<KeyMode>,
    /// `--budget-requests-per-hour`; 0 is without end.
    pub budget: Option<u32>,
    /// `--net-mbit`
    pub net_mbit: Option<String>,
    /// `--disk-iops`
    pub disk_iops: Option<String>,
    /// `--disk-mbyte`
    pub disk_mbyte: Option<String>,
    /// `--idle-after`
    pub idle_after: Option<String>,
    /// `--idle-even-with-channels`
    pub idle_even_with_channels: Option<bool>,
}

/// The same, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    #[allow(clippy::option_option, reason = "not said, turned off, and a token are three things")]
    telegram_token: Option<Option<Secret>>,
    telegram_users: Option<Vec<u64>>,
    model: Option<String>,
    skills: Option<Vec<String>>,
    openclaw_image: Option<String>,
    keys: ProviderKeys,
    skip_browser_install: Option<bool>,
    egress: Option<EgressMode>,
    allow: Vec<String>,
    key_mode: Option<KeyMode>,
    budget: Option<u32>,
    #[allow(clippy::option_option, reason = "not said, lifted, and a rate are three things")]
    rates: [Option<Option<u32>>; 3],
    #[allow(clippy::option_option, reason = "not said, turned off, and a time are three things")]
    idle_after: Option<Option<std::time::Duration>>,
    idle_even_with_channels: Option<bool>,
}

impl RawChanges {
    /// Checks every value that was said.
    pub fn check(&self) -> Result<Changes> {
        let key = |flag: &str, text: &Option<String>| {
            text.as_deref().map(|text| value::api_key(flag, text)).transpose()
        };
        let rate =
            |flag: RateFlag, text: &Option<String>| text.as_deref().map(|text| flag.parse(text)).transpose();
        EgressPolicy::default().changed(self.egress, &self.allow)?;
        Ok(Changes {
            telegram_token: match self.telegram_token.as_deref() {
                None => None,
                Some("") => Some(None),
                Some(text) => Some(Some(value::telegram_token(text)?)),
            },
            telegram_users: self.telegram_users.as_deref().map(value::telegram_users).transpose()?,
            model: self.model.as_deref().map(value::model).transpose()?,
            skills: self.skills.as_deref().map(value::skills).transpose()?,
            openclaw_image: self.openclaw_image.as_deref().map(value::container_image).transpose()?,
            keys: ProviderKeys {
                anthropic: key("--anthropic-api-key", &self.anthropic_api_key)?,
                openai: key("--openai-api-key", &self.openai_api_key)?,
                minimax: key("--minimax-api-key", &self.minimax_api_key)?,
            },
            skip_browser_install: self.skip_browser_install,
            egress: self.egress,
            allow: self.allow.clone(),
            key_mode: self.key_mode,
            budget: self.budget,
            rates: [
                rate(rates::NET_MBIT, &self.net_mbit)?,
                rate(rates::DISK_IOPS, &self.disk_iops)?,
                rate(rates::DISK_MBYTE, &self.disk_mbyte)?,
            ],
            idle_after: self.idle_after.as_deref().map(idle::after).transpose()?,
            idle_even_with_channels: self.idle_even_with_channels,
        })
    }
}

impl Changes {
    /// What `--keys` said.
    pub const fn key_mode(&self) -> Option<KeyMode> {
        self.key_mode
    }

    /// The record with the changes made, checked as a whole.
    pub fn apply(&self, record: &InstanceRecord) -> Result<InstanceRecord> {
        let mut new = record.clone();
        if let Some(token) = &self.telegram_token {
            new.telegram_token.clone_from(token);
        }
        if let Some(users) = &self.telegram_users {
            new.telegram_users.clone_from(users);
            new.odd_users.clear();
        }
        if let Some(model) = &self.model {
            new.model.clone_from(model);
        }
        if let Some(skills) = &self.skills {
            new.skills.clone_from(skills);
        }
        if let Some(image) = &self.openclaw_image {
            if record.runtime == Runtime::Native {
                return Err(Error::refused(
                    "--openclaw-image",
                    image,
                    format!("`{}` uses the native runtime", record.id),
                )
                .hint("the runtime is chosen at setup: `fireclaw setup --runtime docker`"));
            }
            new.openclaw_image.clone_from(image);
        }
        for (mine, theirs) in [
            (&mut new.keys.anthropic, &self.keys.anthropic),
            (&mut new.keys.openai, &self.keys.openai),
            (&mut new.keys.minimax, &self.keys.minimax),
        ] {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
        if let Some(skip) = self.skip_browser_install {
            new.skip_browser_install = skip;
        }
        new.containment.egress = record.containment.egress.changed(self.egress, &self.allow)?;
        new.containment.keys = self.key_mode.unwrap_or(record.containment.keys);
        if let Some(budget) = self.budget {
            new.containment.budget = (budget > 0).then_some(budget);
        }
        let rates = &mut new.rates;
        let mine = [&mut rates.net_mbit, &mut rates.disk_iops, &mut rates.disk_mbyte];
        for (mine, said) in mine.into_iter().zip(self.rates) {
            *mine = said.unwrap_or(*mine);
        }
        new.idle.after = self.idle_after.unwrap_or(record.idle.after);
        new.idle.even_with_channels = self.idle_even_with_channels.unwrap_or(record.idle.even_with_channels);
        if new.idle.is_watched() && new.vmm == VmmKind::Qemu {
            return Err(Error::refused(
                "--idle-after",
                "a time",
                format!("`{}` runs on qemu, whose memory is not kept", record.id),
            )
            .hint("instances on Firecracker can sleep; `--idle-after off` turns it off"));
        }
        if self.key_mode == Some(KeyMode::Broker) && Provider::of_model(&new.model).is_none() {
            return Err(Error::refused(
                "--keys",
                KeyMode::Broker,
                format!("the model {} is of none of anthropic, openai and minimax", new.model),
            )
            .hint("use --keys guest, or another --model"));
        }
        check_telegram(&new)?;
        Ok(new)
    }
}

/// Telegram needs somebody who may talk to the bot.
fn check_telegram(record: &InstanceRecord) -> Result<()> {
    if record.telegram_token.is_some()
        && let Some(odd) = record.odd_users.first()
    {
        return Err(Error::refused(
            "the recorded Telegram user",
            odd.escape_debug(),
            "is not a numeric user id",
        )
        .hint("say with --telegram-users who may talk to the bot; Telegram's @userinfobot tells an id"));
    }
    if record.telegram_token.is_some() && record.telegram_users.is_empty() {
        return Err(Error::refused(
            "--telegram-users",
            "",
            "names nobody, and a bot that answers everybody is not made",
        )
        .hint("add --telegram-users with at least one numeric id"));
    }
    Ok(())
}

/// Refuses a bot token that another instance polls with: Telegram answers the second poller with HTTP 409.
pub fn check_bot_is_free<'a>(
    record: &InstanceRecord,
    others: impl IntoIterator<Item = &'a InstanceRecord>,
) -> Result<()> {
    let Some(token) = &record.telegram_token else { return Ok(()) };
    match others
        .into_iter()
        .find(|other| other.id != record.id && other.telegram_token.as_ref() == Some(token))
    {
        Some(other) => Err(Error::refused(
            "--telegram-token",
            "<hidden>",
            format!("instance `{}` uses the same bot", other.id),
        )
        .hint("make another bot with @BotFather, or destroy the other instance")),
        None => Ok(()),
    }
}

/// The flags of `setup`, as said.
#[derive(Debug, Clone, Default)]
pub struct RawSetup {
    /// `--instance`
    pub instance: String,
    /// What can be changed later as well.
    pub changes: RawChanges,
    /// `--runtime`
    pub runtime: Option<Runtime>,
    /// `--image`
    pub image: Option<String>,
    /// `--host-port`
    pub host_port: Option<u32>,
    /// `--vm-vcpu`
    pub vm_vcpu: Option<u32>,
    /// `--vm-mem-mib`
    pub vm_mem_mib: Option<u32>,
    /// `--disk-size`
    pub disk_size: Option<String>,
    /// `--api-sock`
    pub api_sock: Option<PathBuf>,
    /// `--base-kernel`
    pub base_kernel: Option<PathBuf>,
    /// `--base-rootfs`
    pub base_rootfs: Option<PathBuf>,
    /// `--base-initrd`
    pub base_initrd: Option<PathBuf>,
    /// `--vmm`, `Some(None)` for auto.
    #[allow(clippy::option_option, reason = "not said, auto, and one by its name are three things")]
    pub vmm: Option<Option<VmmKind>>,
    /// `--supervisor`, `Some(None)` for auto.
    #[allow(clippy::option_option, reason = "not said, auto, and one by its name are three things")]
    pub supervisor: Option<Option<SupervisorKind>>,
    /// `--dns`
    pub dns: Option<String>,
}

/// Where kernel and root filesystem come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An image of ours.
    Image(ImageName),
    /// Files of somebody else.
    Files {
        /// ELF or bzImage.
        kernel: PathBuf,
        /// ext4 with cloud-init.
        rootfs: PathBuf,
        /// Initial ramdisk, when the kernel needs one.
        initrd: Option<PathBuf>,
    },
}

/// What a new instance is to be, checked; addresses and what the host decides are still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// The id.
    pub id: InstanceId,
    /// Settings of the guest.
    pub changes: Changes,
    /// Where it boots from.
    pub base: Base,
    /// `None`: native when the image carries OpenClaw, else Docker.
    pub runtime: Option<Runtime>,
    /// `None`: the first free one.
    pub host_port: Option<u16>,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory.
    pub mem_mib: u32,
    /// Size of the root disk.
    pub disk_size: DiskSize,
    /// `None`: the instance's own.
    pub api_sock: Option<PathBuf>,
    /// `None`: decided by the host.
    pub vmm: Option<VmmKind>,
    /// `None`: decided by the host.
    pub supervisor: Option<SupervisorKind>,
    /// `None`: the host's resolvers.
    pub dns: Option<Vec<Ipv4Addr>>,
}

impl InstanceSpec {
    /// Checks the flags of `setup`.
    pub fn resolve(raw: &RawSetup, settings: &Settings) -> Result<Self> {
        let id: InstanceId = raw.instance.parse()?;
        settings.layout.instance(&id)?;
        let changes = raw.changes.check()?;
        if raw.runtime == Some(Runtime::Native) && raw.changes.openclaw_image.is_some() {
            return Err(Error::refused(
                "--runtime",
                "native",
                "contradicts --openclaw-image, which is a container",
            ));
        }
        let api_sock = raw.api_sock.clone().or_else(|| settings.api_sock.clone());
        if let Some(path) = &api_sock {
            if !path.is_absolute() {
                return Err(Error::refused("--api-sock", path.display(), "is not an absolute path"));
            }
            value::one_line("--api-sock", &path.to_string_lossy())?;
            check_socket_path("--api-sock", path)?;
        }
        Ok(Self {
            base: base(raw, settings)?,
            runtime: raw.runtime.or(raw.changes.openclaw_image.is_some().then_some(Runtime::Docker)),
            host_port: raw.host_port.map(value::host_port).transpose()?,
            vcpu: value::vcpu(raw.vm_vcpu.unwrap_or(defaults::VCPU))?,
            mem_mib: value::mem_mib(raw.vm_mem_mib.unwrap_or(defaults::MEM_MIB))?,
            disk_size: match &raw.disk_size {
                Some(text) => text.parse()?,
                None => settings.disk_size.clone(),
            },
            api_sock,
            vmm: raw.vmm.unwrap_or(settings.vmm),
            supervisor: raw.supervisor.unwrap_or(settings.supervisor),
            dns: match &raw.dns {
                Some(text) => Some(value::dns(text)?),
                None => settings.dns.clone(),
            },
            id,
            changes,
        })
    }
}

fn base(raw: &RawSetup, settings: &Settings) -> Result<Base> {
    let files = [&raw.base_kernel, &raw.base_rootfs, &raw.base_initrd];
    if files.iter().all(|file| file.is_none()) {
        return Ok(Base::Image(raw.image.as_deref().unwrap_or(ImageName::DEFAULT).parse()?));
    }
    if let Some(image) = &raw.image {
        return Err(Error::refused(
            "--image",
            image,
            "contradicts --base-kernel, --base-rootfs and --base-initrd",
        ));
    }
    // What is not named comes from the top of BASE_IMAGES_DIR, as the contract's defaults say. A kernel of one's own
    // does not fit our initrd, so only an initrd that is named is used with it.
    let top = settings.layout.top_image();
    Ok(Base::Files {
        initrd: raw.base_initrd.clone().or_else(|| raw.base_kernel.is_none().then_some(top.initrd)),
        kernel: raw.base_kernel.clone().unwrap_or(top.vmlinux),
        rootfs: raw.base_rootfs.clone().unwrap_or(top.rootfs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn settings() -> Settings {
        Settings::resolve(&|_| None, None).unwrap()
    }

    fn raw() -> RawSetup {
        RawSetup { instance: "my-bot".into(), ..RawSetup::default() }
    }

    #[test]
    fn defaults() {
        let spec = InstanceSpec::resolve(&raw(), &settings()).unwrap();
        assert_eq!((spec.vcpu, spec.mem_mib, spec.disk_size.as_str()), (4, 8192, "40G"));
        assert_eq!(spec.base, Base::Image(ImageName::default()));
    }

    #[test]
    fn an_openclaw_image_means_docker() {
        let mut raw = raw();
        raw.changes.openclaw_image = Some("ghcr.io/openclaw/openclaw:2026.9.6".into());
        assert_eq!(InstanceSpec::resolve(&raw, &settings()).unwrap().runtime, Some(Runtime::Docker));
        raw.runtime = Some(Runtime::Native);
        assert_eq!(InstanceSpec::resolve(&raw, &settings()).unwrap_err().get_kind(), Kind::Refused);
    }

    #[test]
    fn a_flag_wins_over_the_configuration_with_auto_as_well() {
        let settings =
            Settings::resolve(&|_| None, Some("vmm = \"qemu\"\nsupervisor = \"systemd\"\n")).unwrap();
        let resolved = |vmm, supervisor| {
            let raw = RawSetup { vmm, supervisor, ..raw() };
            let spec = InstanceSpec::resolve(&raw, &settings).unwrap();
            (spec.vmm, spec.supervisor)
        };
        let configured = (Some(VmmKind::Qemu), Some(SupervisorKind::Systemd));
        assert_eq!(resolved(None, None), configured);
        assert_eq!(resolved(Some(None), Some(None)), (None, None));
        let named = (Some(VmmKind::Firecracker), Some(SupervisorKind::Embedded));
        assert_eq!(resolved(Some(named.0), Some(named.1)), named);
    }

    #[test]
    fn refused_values_name_their_flag() {
        type Spoil = fn(&mut RawSetup);
        let cases: &[(&str, Spoil)] = &[
            ("instance id", |raw| raw.instance = "My.Bot".into()),
            ("--host-port", |raw| raw.host_port = Some(80)),
            ("--host-port", |raw| raw.host_port = Some(65536)),
            ("--vm-vcpu", |raw| raw.vm_vcpu = Some(0)),
            ("--vm-mem-mib", |raw| raw.vm_mem_mib = Some(16)),
            ("disk size", |raw| raw.disk_size = Some("1X".into())),
            ("--api-sock", |raw| raw.api_sock = Some("relative.sock".into())),
            ("--api-sock", |raw| raw.api_sock = Some(format!("/{}", "x".repeat(120)).into())),
            ("--dns", |raw| raw.dns = Some("example.com".into())),
            ("--model", |raw| raw.changes.model = Some("a/b\nc".into())),
            ("--image", |raw| raw.image = Some("../x".into())),
            ("--net-mbit", |raw| raw.changes.net_mbit = Some("fast".into())),
            ("--disk-iops", |raw| raw.changes.disk_iops = Some("1".into())),
            ("--disk-mbyte", |raw| raw.changes.disk_mbyte = Some("-5".into())),
        ];
        for (flag, spoil) in cases {
            let mut raw = raw();
            spoil(&mut raw);
            let error = InstanceSpec::resolve(&raw, &settings()).map(drop).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused, "{flag}");
            assert!(error.to_string().contains(flag.trim_start_matches("--")), "{flag}: {error}");
        }
    }
}
