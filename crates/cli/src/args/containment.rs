//! The arguments of `egress` and `keys`. Touches nothing.

use std::path::PathBuf;

use clap::{
    Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use fireclaw_core::{
    broker::Provider,
    spec::{EgressMode, KeyMode},
};

use super::{Json, Output};

/// The modes, with an error that names them.
pub(super) fn egress_mode() -> impl TypedValueParser<Value = EgressMode> {
    PossibleValuesParser::new(["public", "open", "none", "allow"]).try_map(|word| word.parse::<EgressMode>())
}

/// The same for where keys are.
pub(super) fn key_mode() -> impl TypedValueParser<Value = KeyMode> {
    PossibleValuesParser::new(["broker", "guest"]).try_map(|word| word.parse::<KeyMode>())
}

/// `egress ID …`
#[derive(Debug, Clone, Subcommand)]
pub enum EgressAction {
    /// Show the policy
    Show(Json),
    /// Change the mode, and with --allow the whole list
    Set {
        /// Where it may connect to: the internet, everywhere, nowhere, or what a list names
        #[arg(value_parser = egress_mode())]
        mode: EgressMode,
        /// A rule, as often as needed; replaces the list
        #[arg(long, value_name = "RULE")]
        allow: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
    /// Add rules to the list: HOST[:PORT], '*.example.com', CIDR:PORT, or a preset
    Allow {
        /// The rules
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
    /// Take rules off the list; what they let through ends at once
    Deny {
        /// The rules
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
    /// Show what was refused, the latest last
    Log(Json),
}

/// `keys ID …`
#[derive(Debug, Clone, Subcommand)]
pub enum KeysAction {
    /// Give the broker a provider's key, from a file, from the variable of its flag, or from standard input
    Set(KeyArgs),
    /// Replace a key that is there
    Rotate(KeyArgs),
    /// Take a key away
    Remove {
        /// Whose
        #[arg(value_enum)]
        provider: ProviderArg,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: Output,
    },
}

/// `keys ID set` and `keys ID rotate`
#[derive(Debug, Clone, clap::Args)]
pub struct KeyArgs {
    /// Whose
    #[arg(value_enum)]
    pub provider: ProviderArg,
    /// File with the key
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// A provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProviderArg {
    /// Anthropic
    Anthropic,
    /// `OpenAI`
    Openai,
    /// `MiniMax`
    Minimax,
}

impl From<ProviderArg> for Provider {
    fn from(arg: ProviderArg) -> Self {
        match arg {
            ProviderArg::Anthropic => Self::Anthropic,
            ProviderArg::Openai => Self::Openai,
            ProviderArg::Minimax => Self::Minimax,
        }
    }
}

impl EgressAction {
    /// Whether only warnings and results are wanted.
    pub const fn is_quiet(&self) -> bool {
        match self {
            Self::Show(_) | Self::Log(_) => false,
            Self::Set { output, .. } | Self::Allow { output, .. } | Self::Deny { output, .. } => output.quiet,
        }
    }
}

impl KeysAction {
    /// How the result is written.
    pub const fn output(&self) -> Output {
        match self {
            Self::Set(args) | Self::Rotate(args) => args.output,
            Self::Remove { output, .. } => *output,
        }
    }
}
