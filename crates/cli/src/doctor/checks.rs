//! The single looks. Reads the host; changes nothing.

use std::path::Path;

use fireclaw_core::{
    error::Result,
    id::{ImageName, InstanceId},
};
use fireclaw_host::{
    disk::space,
    nft::{self, Forwarding, Rules},
    vmm::kvm,
};

use super::{Finding, Fix};
use crate::{app::App, steps, store::Found};

pub(super) fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::good("root", "fireclaw is run as root")
    } else {
        Finding::bad("root", "fireclaw is not run as root", Fix::Command("sudo fireclaw doctor".to_owned()))
    }
}

pub(super) fn platform() -> Finding {
    match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => Finding::good("platform", format!("Linux on {arch}")),
        other => {
            Finding::bad("platform", format!("{other} is not a platform that VMs are run on"), Fix::None)
        }
    }
}

pub(super) fn tun() -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::good("tun", "/dev/net/tun opens"),
        Err(error) => Finding::bad(
            "tun",
            format!("/dev/net/tun does not open: {error}"),
            Fix::Command("modprobe tun".to_owned()),
        ),
    }
}

pub(super) fn kvm() -> Finding {
    match kvm::usable(Path::new("/")) {
        Ok(()) => Finding::good("kvm", "/dev/kvm runs stock kernels").advice(),
        Err(why) => {
            Finding::bad("kvm", format!("{why}; VMs are emulated, which is slow"), Fix::None).advice()
        }
    }
}

pub(super) fn memory(app: &App) -> Finding {
    let promised: u64 =
        app.store().records().map_or(0, |all| all.iter().map(|record| u64::from(record.mem_mib)).sum());
    match space::host_memory_mib(Path::new("/proc")) {
        Ok(total) if promised > total => {
            let detail = format!("instances may use {promised} MiB together and the host has {total}");
            Finding::bad("memory", detail, Fix::Command("stop instances, or make smaller ones".to_owned()))
                .advice()
        }
        Ok(total) => {
            Finding::good("memory", format!("{total} MiB, of which instances may use {promised}")).advice()
        }
        Err(error) => Finding::bad("memory", error.one_line(), Fix::None).advice(),
    }
}

/// Below this much an instance cannot be made and logs may fail.
const LOW_SPACE: u64 = 4 << 30;

pub(super) fn space(app: &App) -> Finding {
    let root = nearest(&app.settings.layout.fc_root);
    match space::free_bytes(&root) {
        Ok(free) if free < LOW_SPACE => {
            let detail = format!("{} MiB free under {}", free >> 20, root.display());
            Finding::bad("disk space", detail, Fix::Command(format!("df -h {}", root.display()))).advice()
        }
        Ok(free) => {
            Finding::good("disk space", format!("{} MiB free under {}", free >> 20, root.display())).advice()
        }
        Err(error) => Finding::bad("disk space", error.one_line(), Fix::None).advice(),
    }
}

/// The folder itself or the nearest parent that is there.
pub(super) fn nearest(path: &Path) -> std::path::PathBuf {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or_else(|| Path::new("/")).to_owned()
}

pub(super) fn forwarding(app: &App) -> Finding {
    let bridge = &app.settings.network.bridge;
    match nft::forwarding_elsewhere(app.host.exec.as_ref(), bridge.as_str()) {
        Ok(found) if found.is_empty() => {
            Finding::good("forwarding", "no other firewall stops what guests send").advice()
        }
        Ok(found) => {
            let (names, commands): (Vec<_>, Vec<_>) =
                found.iter().map(|firewall| mend_forwarding(firewall, bridge.as_str())).unzip();
            let detail =
                format!("guests may not reach the internet: {} stops what is forwarded", names.join(", "));
            Finding::bad("forwarding", detail, Fix::Command(commands.join(" && "))).advice()
        }
        Err(error) => Finding::bad("forwarding", error.one_line(), Fix::None).advice(),
    }
}

/// The name of a firewall, and how its owner lets the bridge through. What VMs may not reach is kept by our own rules.
fn mend_forwarding(firewall: &Forwarding, bridge: &str) -> (String, String) {
    match firewall {
        Forwarding::Ufw => {
            ("ufw".to_owned(), format!("ufw route allow in on {bridge} && ufw route allow out on {bridge}"))
        }
        Forwarding::Docker => (
            "Docker".to_owned(),
            format!(
                "iptables -I DOCKER-USER -i {bridge} -j ACCEPT && iptables -I DOCKER-USER -o {bridge} -j ACCEPT"
            ),
        ),
        Forwarding::Firewalld => (
            "firewalld".to_owned(),
            format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
            ),
        ),
        Forwarding::Chain(name) => (name.clone(), format!("allow packets from and to {bridge} in {name}")),
    }
}

pub(super) fn firewall(app: &App) -> Finding {
    let look = || -> Result<Finding> {
        let records = app.store().records()?;
        if records.is_empty() {
            return Ok(Finding::good("firewall", "no instances, no rules"));
        }
        let rules = steps::rules(app)?;
        let attached = app.attached(&records)? > 0;
        Ok(match rules {
            Rules::InForce => {
                Finding::good("firewall", "fireclaw's tables are in force, as the records demand")
            }
            // After a boot nothing has put them in yet, and nothing passes that they would judge.
            Rules::Gone(_) if !attached => {
                Finding::good("firewall", "no VM is attached; the next to start brings its rules")
            }
            Rules::Gone(tables) => Finding::bad(
                "firewall",
                format!("VMs are attached without their rules; gone: {}", tables.join(" and ")),
                Fix::Firewall,
            ),
            Rules::Changed(parts) => Finding::bad(
                "firewall",
                format!("fireclaw's rules are not as the records demand: {}", parts.join(", ")),
                Fix::Firewall,
            ),
            Rules::Unsure(why) => {
                Finding::good("firewall", format!("fireclaw's tables are there; not compared: {why}"))
            }
        })
    };
    look().unwrap_or_else(|error| Finding::bad("firewall", error.one_line(), Fix::None)).advice()
}

pub(super) fn image(app: &App) -> Finding {
    let image = app.settings.layout.image(&ImageName::default());
    if image.manifest.exists() || app.settings.layout.top_image().rootfs.exists() {
        return Finding::good("image", format!("the default image is in {}", image.dir.display())).advice();
    }
    Finding::bad("image", "there is no default base image", Fix::Command("fireclaw image build".to_owned()))
        .advice()
}

pub(super) fn instances(app: &App) -> Finding {
    let all = match app.store().all() {
        Ok(all) => all,
        Err(error) => return Finding::bad("instances", error.one_line(), Fix::None).advice(),
    };
    let damaged = || {
        all.iter().filter_map(|found| match found {
            Found::Damaged { name, error } => Some((name, error)),
            Found::Instance(_) => None,
        })
    };
    let Some((name, first)) = damaged().next() else {
        return Finding::good("instances", format!("{} readable", all.len())).advice();
    };
    let said: Vec<String> =
        damaged().map(|(name, error)| format!("`{name}`: {}", error.one_line())).collect();
    // Each error knows what helps; to destroy is the last of it.
    let fix = match (name.parse::<InstanceId>(), first.get_hint()) {
        (Err(_), _) => {
            format!(
                "move {} away: no instance has such a name",
                app.settings.layout.record_named(name).display()
            )
        }
        (Ok(_), Some(hint)) => hint.to_owned(),
        (Ok(id), None) => format!("fireclaw status {id}"),
    };
    Finding::bad("instances", said.join("; "), Fix::Command(fix)).advice()
}
