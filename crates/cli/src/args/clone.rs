//! The arguments of `clone`. Touches nothing.

use clap::Args;

use super::Output;

/// `clone`
#[derive(Debug, Clone, Args)]
pub struct CloneArgs {
    /// The instance to copy; it must be stopped
    #[arg(value_name = "ID")]
    pub id: String,
    /// The new instance's ID: a-z, 0-9, _ and -
    #[arg(value_name = "NEW")]
    pub new: String,
    /// Leave out the channels (Telegram and others) of the source: two gateways must not serve one
    #[arg(long)]
    pub without_channels: bool,
    /// Port on 127.0.0.1 [default: first free one above `BASE_PORT`]
    #[arg(long, value_name = "PORT")]
    pub host_port: Option<u32>,
    /// Virtual CPUs [default: those of the source]
    #[arg(long, value_name = "N")]
    pub vm_vcpu: Option<u32>,
    /// Memory in MiB [default: that of the source]
    #[arg(long, value_name = "MIB")]
    pub vm_mem_mib: Option<u32>,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}
