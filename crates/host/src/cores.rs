//! No core dumps: the memory of what runs here holds keys, tokens and, in a VMM, a whole guest. Changes this process.

use fireclaw_core::error::{Context, Result};
use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, setrlimit},
};

/// For this process, and by the limit for everything that it starts or becomes: core(5), `RLIMIT_CORE`. A limit of 0 alone still
/// hands a core to a program that the kernel's `core_pattern` pipes to; one of a process that is not dumpable it does not.
pub fn forbid() -> Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbid", "core dumps")?;
    forbid_again()
}

/// After a change of user: the kernel then sets anew whether the process is dumpable, by `fs.suid_dumpable`.
pub fn forbid_again() -> Result<()> {
    set_dumpable(false).context("forbid", "core dumps")
}
