//! What the guest's side of fireclaw decides: the request it reads, the events it answers with, and the text of every
//! file that it writes. The effects are in `cli::guest`. Touches nothing.
//!
//! ```text
//! ProvisionRequest ─┬─ settings ── merge ──> openclaw.json   (what the user changed by hand stays)
//!                   ├─ environment ────────> openclaw-ID.env (every secret, and nothing but secrets)
//!                   └─ unit ───────────────> openclaw-ID.service
//! ```

pub mod channels;
pub mod daemon;
pub mod environment;
pub mod gate;
pub mod merge;
pub mod paths;
pub mod protocol;
pub mod renewal;
pub mod seed;
pub mod settings;
pub mod system;
pub mod unit;

/// The script at [`paths::GuestPaths::shutdown_hook`].
pub const SHUTDOWN_HOOK: &str = include_str!("shutdown.sh");

/// The port of the gateway in the guest, on every address of it.
pub const GATEWAY_PORT: u16 = 18789;

/// The user that the gateway runs as and whose home holds its state.
pub const USER: &str = "ubuntu";

/// The uid and gid of that user, which are also those of `node` in OpenClaw's container image.
pub const USER_ID: u32 = 1000;

/// OpenClaw's exit code for a configuration, or a state on disk, that it does not take: starting it again would not help.
pub const EXIT_CONFIGURATION: i32 = 78;

/// The longest that a gateway takes to finish its running answers and to stop, in seconds. OpenClaw drains for up to 315 s
/// and gives itself 10 s more.
pub const STOP_SECONDS: u64 = 330;
