//! The flags of `setup` and `provision`. Touches nothing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fireclaw_core::spec::{EgressMode, KeyMode, Runtime, SupervisorKind, VmmKind};

use super::Output;

/// What can be said at setup and changed by `provision`. Secrets also come from files and from the environment: what is
/// in argv is readable by every user of the host.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings of the guest")]
pub struct ChangeFlags {
    /// Telegram bot token; also from `TELEGRAM_TOKEN`. Empty turns Telegram off
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub telegram_token: Option<String>,
    /// File with the Telegram bot token
    #[arg(long, value_name = "FILE", conflicts_with = "telegram_token")]
    pub telegram_token_file: Option<PathBuf>,
    /// Numeric Telegram user IDs that may talk to the bot
    #[arg(long, value_name = "CSV")]
    pub telegram_users: Option<String>,
    /// Model as provider/name [default: anthropic/claude-opus-4-6]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Bundled skills [default: github,tmux,coding-agent,session-logs,skill-creator]
    #[arg(long, value_name = "CSV")]
    pub skills: Option<String>,
    /// OpenClaw's container image; implies the Docker runtime [default: ghcr.io/openclaw/openclaw:latest]
    #[arg(long, value_name = "IMAGE")]
    pub openclaw_image: Option<String>,
    /// Anthropic API key; also from `ANTHROPIC_API_KEY`
    #[arg(long, value_name = "KEY")]
    pub anthropic_api_key: Option<String>,
    /// File with the Anthropic API key
    #[arg(long, value_name = "FILE", conflicts_with = "anthropic_api_key")]
    pub anthropic_api_key_file: Option<PathBuf>,
    /// OpenAI API key; also from `OPENAI_API_KEY`
    #[arg(long, value_name = "KEY")]
    pub openai_api_key: Option<String>,
    /// File with the OpenAI API key
    #[arg(long, value_name = "FILE", conflicts_with = "openai_api_key")]
    pub openai_api_key_file: Option<PathBuf>,
    /// MiniMax API key; also from `MINIMAX_API_KEY`
    #[arg(long, value_name = "KEY")]
    pub minimax_api_key: Option<String>,
    /// File with the MiniMax API key
    #[arg(long, value_name = "FILE", conflicts_with = "minimax_api_key")]
    pub minimax_api_key_file: Option<PathBuf>,
    /// Give the agent no browser [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub skip_browser_install: Option<bool>,
    /// Where the instance may connect to [default: public]
    #[arg(long, value_name = "MODE", value_parser = super::containment::egress_mode(), help_heading = "Containment")]
    pub egress: Option<EgressMode>,
    /// What --egress allow lets through, as often as needed: HOST[:PORT], '*.example.com', CIDR:PORT, or a preset (anthropic
    /// openai minimax telegram github npm pypi debian docker)
    #[arg(long, value_name = "RULE", help_heading = "Containment")]
    pub allow: Vec<String>,
    /// Where provider keys are: on the host, in a broker, or in the guest [default at setup: broker where the model's provider
    /// is anthropic, openai or minimax]
    #[arg(long, value_name = "MODE", value_parser = super::containment::key_mode(), help_heading = "Containment")]
    pub keys: Option<KeyMode>,
    /// The most requests an hour that the broker forwards; 0 for no limit
    #[arg(long, value_name = "N", help_heading = "Containment")]
    pub budget_requests_per_hour: Option<u32>,
    /// Network, millions of bits a second each way; 0 or none lifts the limit
    #[arg(long, value_name = "N", help_heading = "Rates, changed while it runs")]
    pub net_mbit: Option<String>,
    /// Reads and writes of the disk a second; 0 or none lifts the limit
    #[arg(long, value_name = "N", help_heading = "Rates, changed while it runs")]
    pub disk_iops: Option<String>,
    /// Millions of bytes read and written a second; 0 or none lifts the limit
    #[arg(long, value_name = "N", help_heading = "Rates, changed while it runs")]
    pub disk_mbyte: Option<String>,
    /// Keep the instance's memory on the disk and end its VM after so long (30m, 2h) without a connection and without work of its
    /// own; the next connection wakes it. Timers of the gateway do not fire meanwhile. Off by default; `off` turns it off
    #[arg(long, value_name = "TIME", help_heading = "Sleep")]
    pub idle_after: Option<String>,
    /// Let --idle-after put an instance to sleep that has a channel, though messages wait there until something wakes it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Sleep")]
    pub idle_even_with_channels: Option<bool>,
}

/// `--vmm`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VmmFlag {
    /// Firecracker where it runs, else QEMU
    Auto,
    /// Firecracker through its jailer
    Firecracker,
    /// QEMU's microvm, emulated where there is no usable KVM
    Qemu,
}

/// `--supervisor`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SupervisorFlag {
    /// What fits the host
    Auto,
    /// systemd units
    Systemd,
    /// A small process of fireclaw's own
    Embedded,
}

/// `--runtime`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeFlag {
    /// OpenClaw from the base image
    Native,
    /// OpenClaw's container image
    Docker,
}

impl VmmFlag {
    /// `None` for auto.
    pub const fn wanted(self) -> Option<VmmKind> {
        match self {
            Self::Auto => None,
            Self::Firecracker => Some(VmmKind::Firecracker),
            Self::Qemu => Some(VmmKind::Qemu),
        }
    }
}

impl SupervisorFlag {
    /// `None` for auto.
    pub const fn wanted(self) -> Option<SupervisorKind> {
        match self {
            Self::Auto => None,
            Self::Systemd => Some(SupervisorKind::Systemd),
            Self::Embedded => Some(SupervisorKind::Embedded),
        }
    }
}

impl From<RuntimeFlag> for Runtime {
    fn from(flag: RuntimeFlag) -> Self {
        match flag {
            RuntimeFlag::Native => Self::Native,
            RuntimeFlag::Docker => Self::Docker,
        }
    }
}

/// `setup`
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct SetupArgs {
    /// The new instance's ID: a-z, 0-9, _ and -
    #[arg(long, value_name = "ID")]
    pub instance: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub changes: ChangeFlags,
    /// How the gateway runs in the guest [default: native when the base image carries OpenClaw, else docker]
    #[arg(long, value_enum, help_heading = "The VM")]
    pub runtime: Option<RuntimeFlag>,
    /// A base image made by `image build` or `image import` [default: default]
    #[arg(long, value_name = "NAME", help_heading = "The VM")]
    pub image: Option<String>,
    /// Port on 127.0.0.1 [default: first free one above `BASE_PORT`]
    #[arg(long, value_name = "PORT", help_heading = "The VM")]
    pub host_port: Option<u32>,
    /// Virtual CPUs [default: 4]
    #[arg(long, value_name = "N", help_heading = "The VM")]
    pub vm_vcpu: Option<u32>,
    /// Memory in MiB [default: 8192]
    #[arg(long, value_name = "MIB", help_heading = "The VM")]
    pub vm_mem_mib: Option<u32>,
    /// Size of the disk that the instance writes to [default: 40G]
    #[arg(long, value_name = "SIZE", help_heading = "The VM")]
    pub disk_size: Option<String>,
    /// The VMM's API socket [default: `FC_ROOT/ID/firecracker.socket`]
    #[arg(long, value_name = "PATH", help_heading = "The VM")]
    pub api_sock: Option<PathBuf>,
    /// Kernel [default: `BASE_IMAGES_DIR/vmlinux`]
    #[arg(long, value_name = "FILE", help_heading = "The VM")]
    pub base_kernel: Option<PathBuf>,
    /// Root filesystem: ext4 with cloud-init [default: `BASE_IMAGES_DIR/rootfs.ext4`]
    #[arg(long, value_name = "FILE", help_heading = "The VM")]
    pub base_rootfs: Option<PathBuf>,
    /// Initial ramdisk [default: `BASE_IMAGES_DIR/initrd.img`]
    #[arg(long, value_name = "FILE", help_heading = "The VM")]
    pub base_initrd: Option<PathBuf>,
    /// The virtual machine monitor [default: auto, or what the configuration says]
    #[arg(long, value_enum, help_heading = "The VM")]
    pub vmm: Option<VmmFlag>,
    /// Who keeps the VM running [default: auto, or what the configuration says]
    #[arg(long, value_enum, help_heading = "The VM")]
    pub supervisor: Option<SupervisorFlag>,
    /// Resolvers in the guest [default: the host's, else 1.1.1.1,8.8.8.8]
    #[arg(long, value_name = "CSV", help_heading = "The VM")]
    pub dns: Option<String>,
    /// Install Firecracker and its jailer from a release's tarball, its address, or a folder with both
    #[arg(long, value_name = "DIR|TARBALL|URL", help_heading = "The VM")]
    pub firecracker_from: Option<String>,
    /// Make the host ready and build the image without asking
    #[arg(long, short)]
    pub yes: bool,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// `provision`
#[derive(Debug, Clone, Args)]
pub struct ProvisionArgs {
    /// The instance
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub changes: ChangeFlags,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}
