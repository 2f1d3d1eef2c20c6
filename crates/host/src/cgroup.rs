//! The control group of a VM on a host without systemd: made and joined by the process that becomes the VMM, removed after its
//! end. Writes below the kernel's own /sys/fs/cgroup.
//!
//! What a kernel does not offer is told and left out: a VM without a limit is better than none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::InstanceId,
    render::cgroup::{Controller, Disk, Entry, Version},
};

/// The folder of all groups of ours, in each hierarchy.
const OURS: &str = "fireclaw";

/// Where this kernel has its controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controllers {
    /// Their interface.
    pub version: Version,
    roots: BTreeMap<Controller, PathBuf>,
}

impl Controllers {
    /// What is mounted for this process; `None` where there is nothing.
    pub fn find() -> Result<Option<Self>> {
        let path = "/proc/self/mountinfo";
        let text = fs::read_to_string(path).context("read", path)?;
        Ok(Self::read(&text, |root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()))
    }

    /// Version 1 where it has controllers, else version 2: a kernel can have both, and each controller is in one of them.
    fn read(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        let mut one = BTreeMap::new();
        let mut two = None;
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(root) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut words = after.split(' ');
            match words.next() {
                Some("cgroup") => {
                    let options: Vec<&str> = words.nth(1).unwrap_or_default().split(',').collect();
                    for controller in Controller::ALL {
                        if options.contains(&controller.name(Version::One)) {
                            one.insert(controller, root.clone());
                        }
                    }
                }
                Some("cgroup2") => two = Some(root),
                _ => {}
            }
        }
        if !one.is_empty() {
            return Some(Self { version: Version::One, roots: one });
        }
        let root = two?;
        let offered = controllers(&root);
        let roots: BTreeMap<_, _> = Controller::ALL
            .into_iter()
            .filter(|it| offered.split_whitespace().any(|name| name == it.name(Version::Two)))
            .map(|controller| (controller, root.clone()))
            .collect();
        (!roots.is_empty()).then_some(Self { version: Version::Two, roots })
    }

    fn groups(&self, id: &InstanceId) -> BTreeSet<PathBuf> {
        self.roots.values().map(|root| root.join(OURS).join(id.as_str())).collect()
    }

    /// Makes the group with these limits and puts a process into it. What could not be done is told, one line each.
    pub fn join(&self, id: &InstanceId, pid: u32, entries: &[Entry]) -> Vec<String> {
        let mut told = Vec::new();
        let mut failed: BTreeSet<Controller> = BTreeSet::new();
        for entry in entries {
            if failed.contains(&entry.controller) {
                continue;
            }
            if let Err(error) = self.limit(id, entry) {
                failed.insert(entry.controller);
                told.push(error.one_line());
            }
        }
        let wanted = entries.iter().filter(|entry| !failed.contains(&entry.controller));
        let groups: BTreeSet<PathBuf> = wanted
            .filter_map(|entry| Some(self.roots.get(&entry.controller)?.join(OURS).join(id.as_str())))
            .collect();
        for group in groups {
            let joined = write(&group.join("cgroup.procs"), &pid.to_string());
            told.extend(joined.err().map(|error| error.one_line()));
        }
        told
    }

    fn limit(&self, id: &InstanceId, entry: &Entry) -> Result<()> {
        let name = entry.controller.name(self.version);
        let Some(root) = self.roots.get(&entry.controller) else {
            return Err(Error::new("limit", name).because("this kernel has no such controller"));
        };
        let ours = root.join(OURS);
        let group = ours.join(id.as_str());
        fs::create_dir_all(&group).context("create the control group", group.display())?;
        if self.version == Version::Two {
            for parent in [root, &ours] {
                write(&parent.join("cgroup.subtree_control"), &format!("+{name}"))?;
            }
        }
        write(&group.join(entry.file), &entry.value)
    }

    /// Whether there is a group of an instance.
    pub fn has(&self, id: &InstanceId) -> bool {
        self.groups(id).iter().any(|group| group.exists())
    }

    /// Removes the group; what still runs in it keeps it.
    pub fn leave(&self, id: &InstanceId) -> Result<()> {
        for group in self.groups(id) {
            match fs::remove_dir(&group) {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
                    return Err(
                        Error::new("remove the control group", group.display().to_string()).source(error)
                    );
                }
                _ => {}
            }
            // The last one takes the folder of all along.
            if let Some(ours) = group.parent() {
                let _ = fs::remove_dir(ours);
            }
        }
        Ok(())
    }
}

/// The kernel takes a value in one write, and says no by its error.
fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).context("write", format!("{value} to {}", path.display()))
}

/// The whole disk below the filesystem of a path; `None` where there is none, as below a tmpfs or a btrfs.
pub fn disk_of(path: &Path) -> Option<Disk> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition's limits are those of its disk.
    let whole = if block.join("partition").exists() { block.parent()?.to_owned() } else { block };
    let text = fs::read_to_string(whole.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(Disk { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests;
