//! The contract's defaults of an instance, for new ones and for records that leave a key out. Touches nothing.

/// The model.
pub const MODEL: &str = "anthropic/claude-opus-4-6";
/// The bundled skills.
pub const SKILLS: &str = "github,tmux,coding-agent,session-logs,skill-creator";
/// The container image.
pub const OPENCLAW_IMAGE: &str = "ghcr.io/openclaw/openclaw:latest";
/// Virtual CPUs.
pub const VCPU: u32 = 4;
/// Memory in MiB.
pub const MEM_MIB: u32 = 8192;
/// The image name of an instance whose kernel and root filesystem were given as files.
pub const CUSTOM_IMAGE: &str = "custom";
/// The kernel command line of images that have no manifest: the first virtio disk is the root.
pub const CMDLINE: &str = "root=/dev/vda rw";
