//! What a test could leave on the machine: processes, links, rules, sockets, mounts, files, users. Reads; changes nothing.

use std::collections::BTreeSet;

use fireclaw_core::error::Result;

use super::world::{World, names};
use crate::shell;

/// A look at the machine.
pub struct Traces {
    things: BTreeSet<String>,
}

impl Traces {
    /// Looks.
    pub fn take(world: &World) -> Result<Self> {
        let mut things = BTreeSet::new();
        let root = world.root.display().to_string();
        for pid in names(std::path::Path::new("/proc"))
            .iter()
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = line.contains("qemu-system")
                || (line.contains("/fireclaw ") && !line.contains("xtask"))
                || line.contains("ControlPath=/run/fireclaw");
            if ours && in_our_namespace(pid) {
                things.insert(format!("process {line}"));
            }
        }
        for line in shell::must("ip", &["-o", "link"])?.lines() {
            if let Some(name) = line.split(": ").nth(1) {
                things.insert(format!("link {}", name.split('@').next().unwrap_or(name)));
            }
        }
        for line in shell::must("nft", &["list", "tables"])?.lines() {
            things.insert(format!("rules {line}"));
        }
        for line in std::fs::read_to_string("/proc/net/unix")
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains(&root) || line.contains("/run/fireclaw"))
        {
            things.insert(format!("socket {}", line.split_whitespace().last().unwrap_or("")));
        }
        for line in std::fs::read_to_string("/proc/mounts")
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains(&root))
        {
            things.insert(format!("mount {line}"));
        }
        for (dir, skip) in [("state", &[".lock", ".journal"][..]), ("fc", &[]), ("state/.journal", &[])] {
            for name in names(&world.root.join(dir)).iter().filter(|name| !skip.contains(&name.as_str())) {
                things.insert(format!("file {dir}/{name}"));
            }
        }
        for name in names(std::path::Path::new("/run/fireclaw/ssh")) {
            things.insert(format!("file /run/fireclaw/ssh/{name}"));
        }
        for line in std::fs::read_to_string("/etc/passwd").unwrap_or_default().lines() {
            things.insert(format!("user {}", line.split(':').next().unwrap_or("")));
        }
        Ok(Self { things })
    }

    /// What is there now and was not then.
    pub fn left_behind(&self, world: &World) -> Result<Vec<String>> {
        Ok(Self::take(world)?.things.difference(&self.things).cloned().collect())
    }
}

fn in_our_namespace(pid: &str) -> bool {
    let ours = std::fs::read_link("/proc/self/ns/net").ok();
    ours.is_some() && std::fs::read_link(format!("/proc/{pid}/ns/net")).ok() == ours
}
