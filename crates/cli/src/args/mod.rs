//! The command line as types. The doc comments are the help. Touches nothing.

mod clone;
mod containment;
mod setup;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use clone::CloneArgs;
pub use containment::{EgressAction, KeyArgs, KeysAction};
pub use setup::{ChangeFlags, ProvisionArgs, SetupArgs, SupervisorFlag, VmmFlag};

/// Run OpenClaw gateways, each in its own microVM.
///
/// Settings come from flags, then the environment (`STATE_ROOT`, `FC_ROOT`, `BASE_PORT`, …), then /etc/fireclaw/config.toml;
/// `fireclaw doctor` shows each with its origin. Exit codes: 0 done, 1 failed, 2 refused, 3 no such instance, 4 the host
/// is not ready, 5 made but not healthy, 6 held by another fireclaw, 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "fireclaw",
    version,
    propagate_version = true,
    max_term_width = 110,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results and progress are written.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Output {
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write no progress, only warnings, errors and the result
    #[arg(long, short)]
    pub quiet: bool,
}

/// Only the form of the result, for commands that change nothing.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Json {
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// An instance, and how to write the result.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The instance
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an instance and provision it
    Setup(Box<SetupArgs>),
    /// Change settings and provision the guest again
    Provision(Box<ProvisionArgs>),
    /// Show all instances
    #[command(visible_alias = "ls")]
    List(Json),
    /// Show one instance in depth, or all without an ID
    Status {
        /// The instance
        #[arg(value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        json: Json,
    },
    /// Start an instance, or wake it, and wait until its gateway is up
    Start(Target),
    /// Stop an instance: proxy, gateway, VM; it stays stopped across reboots
    Stop(StopArgs),
    /// Keep an instance's memory on the disk and end its VM; `start` goes on where it was
    ///
    /// For VMs on Firecracker. The guest writes its disk out first. The memory is good for one start on this host with the same
    /// versions and an untouched disk; where it does not fit any more, the instance boots and loses nothing on its disk. `stop`
    /// drops it.
    Hibernate(Target),
    /// Stop, then start
    Restart(StopArgs),
    /// Follow the gateway's log, or the VM's and proxy's on the host
    Logs(LogsArgs),
    /// A terminal in the VM, or one command in it
    Shell {
        /// The instance
        #[arg(value_name = "ID")]
        id: String,
        /// The command; its exit code, stdout and stderr come through unchanged
        #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print the gateway token
    Token {
        /// The instance
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Where an instance may connect to, and what was refused
    Egress {
        /// The instance
        #[arg(value_name = "ID")]
        id: String,
        /// What to do
        #[command(subcommand)]
        action: EgressAction,
    },
    /// Provider keys that stay on the host
    Keys {
        /// The instance
        #[arg(value_name = "ID")]
        id: String,
        /// What to do
        #[command(subcommand)]
        action: KeysAction,
    },
    /// Copy a stopped instance: the same disk, another identity
    ///
    /// Address, port, machine-id, SSH host key and token are new. Provider keys, egress policy, rates and size are those of the
    /// source. What the agent had scheduled, both do from then on.
    Clone(CloneArgs),
    /// Remove an instance and everything of it
    Destroy(DestroyArgs),
    /// Check the host, and mend it with --fix
    Doctor {
        /// Do what each failed check names
        #[arg(long)]
        fix: bool,
        /// Install Firecracker and its jailer from a release's tarball, its address, or a folder with both [default: the
        /// release on GitHub]
        #[arg(long, value_name = "DIR|TARBALL|URL", requires = "fix")]
        firecracker_from: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
    /// What an outsider could reach of all instances; exit code 0 when nothing is found, else 1
    Audit(Json),
    /// Base images: kernel, initrd, root filesystem
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print shell completions
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page a command into a folder
    Man {
        /// The folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Become the VM of an instance (what a supervisor runs)
    #[command(hide = true)]
    Run {
        /// The instance
        id: String,
        /// Leave the VMM in a PID namespace of its own and end, for a supervisor that follows it
        #[arg(long)]
        forking: bool,
    },
    /// Ask an instance's guest to shut down and wait (what a supervisor runs)
    #[command(hide = true)]
    Halt {
        /// The instance
        id: String,
        /// Seconds until the VM is cut off
        #[arg(long, default_value_t = 330)]
        timeout: u64,
    },
    /// Load the memory that a VM is to go on from (what a supervisor runs after `run`)
    #[command(hide = true)]
    Resume {
        /// The instance
        id: String,
        /// The VMM, which is ended when the memory cannot be loaded
        #[arg(long)]
        vmm_pid: Option<i32>,
        /// Do it in the background
        #[arg(long, requires = "vmm_pid")]
        detach: bool,
    },
    /// Wake an instance, or put it to sleep, as its proxy asks (what a supervisor runs)
    #[command(hide = true)]
    Attend {
        /// The instance
        id: String,
    },
    /// Remove what a run left on the host (what a supervisor runs)
    #[command(hide = true)]
    Clean {
        /// The instance
        id: String,
        /// A run has just ended: exit with 75 when its guest restarts and is to be started again
        #[arg(long)]
        ended: bool,
    },
    /// Keep an instance's services running, where there is no systemd
    #[command(hide = true)]
    Supervise {
        /// The instance
        id: String,
    },
    /// Serve `127.0.0.1:HOST_PORT` (what a supervisor runs)
    #[command(hide = true)]
    Proxy {
        /// The instance
        id: String,
    },
    /// The side of fireclaw that runs in a guest
    #[command(subcommand, hide = true)]
    Guest(GuestCommand),
}

/// Verbs inside a guest.
#[derive(Debug, Clone, Subcommand)]
pub enum GuestCommand {
    /// Configure and start OpenClaw from a JSON request on stdin
    Provision,
    /// Report the gateway's state as JSON
    Health {
        /// The instance
        id: String,
    },
    /// Let the gateway finish and stop it
    Stop {
        /// The instance
        id: String,
        /// Seconds until it is cut off
        #[arg(long, default_value_t = 330)]
        timeout: u64,
    },
    /// Report versions as JSON
    Info,
    /// Drop what memory holds of the disk, and clear what that frees: before memory is written to a snapshot
    Trim,
    /// Become the machine that the seed disk describes; an image's first unit of a boot starts it
    Seed,
}

/// `stop` and `restart`.
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// Seconds that the gateway may take to finish what it is doing
    #[arg(long, value_name = "SECONDS", default_value_t = 330)]
    pub timeout: u64,
    /// Do not wait for the gateway: cut the VM off
    #[arg(long, conflicts_with = "timeout")]
    pub now: bool,
}

/// `logs`
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The instance
    #[arg(value_name = "ID")]
    pub id: String,
    /// Whose log
    #[arg(value_enum, default_value_t = LogSource::Guest)]
    pub source: LogSource,
    /// How many lines to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    pub lines: u32,
    /// Print them and end
    #[arg(long)]
    pub no_follow: bool,
}

/// Whose log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogSource {
    /// The gateway's, from the guest's journal
    Guest,
    /// The VM's console and the proxy's, from the host
    Host,
}

/// `destroy`
#[derive(Debug, Clone, Args)]
pub struct DestroyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// Ask nothing, and clear half-made or unreadable instances too
    #[arg(long, short)]
    pub force: bool,
}

/// `image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build a base image from the distribution's packages and npm
    Build(Box<ImageBuildArgs>),
    /// Show all images
    List(Json),
    /// Show what is in an image
    Inspect {
        /// The image
        #[arg(value_name = "NAME", default_value = "default")]
        name: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        json: Json,
    },
    /// Remove an image; instances made from it keep their disks
    Remove {
        /// The image
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
    /// Make an image of files that somebody else built
    Import {
        /// The image
        #[arg(value_name = "NAME")]
        name: String,
        /// Kernel: ELF vmlinux or bzImage
        #[arg(long, value_name = "FILE")]
        kernel: PathBuf,
        /// Root filesystem: ext4 with cloud-init
        #[arg(long, value_name = "FILE")]
        rootfs: PathBuf,
        /// Initial ramdisk
        #[arg(long, value_name = "FILE")]
        initrd: Option<PathBuf>,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
}

/// `image build`
#[derive(Debug, Clone, Args)]
pub struct ImageBuildArgs {
    /// The image's name
    #[arg(value_name = "NAME", default_value = "default")]
    pub name: String,
    /// The distribution's release
    #[arg(long, default_value = "trixie")]
    pub suite: String,
    /// The package mirror, where it is not the distribution's own
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Leave Docker out
    #[arg(long)]
    pub no_docker: bool,
    /// Leave Chromium out
    #[arg(long)]
    pub no_browser: bool,
    /// The version of OpenClaw
    #[arg(long, value_name = "VERSION")]
    pub openclaw_version: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// The older names of the program: `vm-setup …` is `fireclaw setup …`, `vm-ctl …` the other commands.
pub fn by_older_name(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let name = argv
        .first()
        .map(PathBuf::from)
        .and_then(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()));
    if name.as_deref() == Some("vm-setup") {
        argv.insert(1, "setup".into());
    }
    argv
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn older_names_are_the_same_program() {
        let argv = |words: &[&str]| by_older_name(words.iter().map(OsString::from));
        assert_eq!(argv(&["/usr/bin/vm-setup", "--instance", "a"])[1], "setup");
        assert_eq!(argv(&["vm-ctl", "list"]).len(), 2);
    }

    /// Every page of help is a snapshot: what users read changes on purpose only.
    #[test]
    fn help_is_pinned() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut text = command.render_long_help().to_string();
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        {
            text.push_str(&format!("\n=== {} ===\n{}", sub.get_name().to_owned(), sub.render_long_help()));
        }
        insta::assert_snapshot!(text);
    }
}
