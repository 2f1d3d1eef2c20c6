//! What the kernel adds up of a process's memory. Reads `/proc/PID/smaps_rollup` (`proc_pid_smaps(5)`).

use fireclaw_core::error::{Context, Error, Result};

/// The sums of one process at one moment.
pub struct Rollup {
    path: String,
    text: String,
}

impl Rollup {
    /// Fails where there is no such process.
    pub fn of(pid: impl std::fmt::Display) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).context("read", &path)?;
        Ok(Self { path, text })
    }

    /// A field, such as `Rss`, `Pss` or `Anonymous`, in KiB.
    pub fn kib(&self, name: &str) -> Result<u64> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Error::new("find", format!("{name} in {}", self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_no_field_is_made_up() {
        let own = Rollup::of(std::process::id()).unwrap();
        let (all, anonymous) = (own.kib("Rss").unwrap(), own.kib("Anonymous").unwrap());
        assert!(all >= anonymous && anonymous > 0, "{all} and {anonymous}");
        assert!(own.kib("Rs").is_err());
        assert!(Rollup::of(u32::MAX).is_err());
    }
}
