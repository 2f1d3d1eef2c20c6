//! The gateway's unit in the guest. Touches nothing.
//!
//! It is ordered after nothing but what every service waits for, so that Node starts while the network and cloud-init are still
//! coming up: OpenClaw needs neither to start.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use super::{EXIT_CONFIGURATION, GATEWAY_PORT, STOP_SECONDS, USER, paths::PRELOAD};
use crate::id::InstanceId;

/// What the native runtime starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native<'a> {
    /// Node's program.
    pub node: &'a Path,
    /// OpenClaw's package folder.
    pub package: &'a Path,
    /// The user's home.
    pub home: &'a Path,
}

/// What the Docker runtime starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker<'a> {
    /// The image reference.
    pub image: &'a str,
    /// The state folder, which the container sees as its user's.
    pub state: &'a Path,
    /// Names of the variables in the environment file.
    pub variables: &'a [&'a str],
    /// Folders of the guest beside it, and where the container has them.
    pub volumes: &'a [(PathBuf, &'static str)],
}

/// OpenClaw as a service of somebody else's: no second copy of itself, no update, no repair, no announcement.
const SERVICE: [(&str, &str); 4] = [
    ("OPENCLAW_NO_RESPAWN", "1"),
    ("OPENCLAW_NO_AUTO_UPDATE", "1"),
    ("OPENCLAW_DISABLE_BONJOUR", "1"),
    ("OPENCLAW_SERVICE_REPAIR_POLICY", "external"),
];

/// The folder of Node's compile cache, below /var/cache. Node keeps a folder a user in it: only one that this user has warmed is warm.
pub const COMPILE_CACHE: &str = "/var/cache/openclaw/compile";

/// What Node loads before OpenClaw, in one file, as each more costs a slow machine some time: gives OpenClaw time on machines that are too
/// slow for a limit of its own, and finds its modules without asking the file system for each. It lies at [`PRELOAD`].
pub const PRELOAD_SCRIPT: &str = concat!(include_str!("patience.mjs"), "\n", include_str!("resolve.mjs"));

/// The environment of the native gateway that is not secret. The last variable keeps OpenClaw's launcher from starting Node a
/// second time only to move the cache: one process and 60 MB less.
pub fn native_environment() -> Vec<(&'static str, &'static str)> {
    let cache = [("NODE_COMPILE_CACHE", COMPILE_CACHE), ("OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED", "1")];
    SERVICE.into_iter().chain(cache).collect()
}

/// The unit of the native runtime.
pub fn native(id: &InstanceId, environment: &Path, native: &Native<'_>) -> String {
    let mut unit = head(id, "");
    let _ = write!(
        unit,
        "User={USER}\n\
         Group={USER}\n\
         WorkingDirectory={home}\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\
         CacheDirectory=openclaw\n",
        home = native.home.display(),
    );
    for (name, value) in native_environment() {
        let _ = writeln!(unit, "Environment={name}={value}");
    }
    let _ = write!(
        unit,
        "Environment=PATH={bin}:/usr/local/bin:/usr/bin:/bin\n\
         EnvironmentFile={environment}\n\
         ExecStart={node} --import {PRELOAD} {package}/openclaw.mjs gateway run --bind lan --port {GATEWAY_PORT}\n",
        bin = native.node.parent().unwrap_or(Path::new("/usr/bin")).display(),
        environment = environment.display(),
        node = native.node.display(),
        package = native.package.display(),
    );
    unit + &tail(STOP_SECONDS)
}

/// The name of the container.
pub fn container(id: &InstanceId) -> String {
    format!("openclaw-{id}")
}

/// Arguments of `docker run` that the gateway and the check of its configuration share.
pub fn docker_mounts(docker: &Docker<'_>) -> Vec<String> {
    let more = docker.volumes.iter().map(|(from, to)| format!("{}:{to}", from.display()));
    [format!("{}:/home/node/.openclaw", docker.state.display()), format!("{PRELOAD}:{PRELOAD}:ro")]
        .into_iter()
        .chain(more)
        .flat_map(|volume| ["--volume".to_owned(), volume])
        .collect()
}

/// The unit of the Docker runtime. The container is a child of the unit in all but its processes: it starts and ends with it,
/// logs through it, and leaves nothing. Secrets come by their names from the client's environment.
pub fn docker(id: &InstanceId, environment: &Path, docker: &Docker<'_>) -> String {
    let name = container(id);
    let mut unit = head(id, "Requires=docker.service\nAfter=docker.service\n");
    let _ = writeln!(unit, "EnvironmentFile={}", environment.display());
    let _ = writeln!(unit, "ExecStartPre=-/usr/bin/docker rm --force {name}");
    let _ = write!(
        unit,
        "ExecStart=/usr/bin/docker run --rm --init --network host --pull never --log-driver none --name {name}"
    );
    for (variable, value) in SERVICE {
        let _ = write!(unit, " --env {variable}={value}");
    }
    for variable in docker.variables {
        let _ = write!(unit, " --env {variable}");
    }
    for argument in docker_mounts(docker) {
        let _ = write!(unit, " {argument}");
    }
    let _ = writeln!(
        unit,
        " {} node --import {PRELOAD} dist/index.js gateway --bind lan --port {GATEWAY_PORT}",
        docker.image
    );
    let _ = writeln!(unit, "ExecStop=/usr/bin/docker stop -t {STOP_SECONDS} {name}");
    unit + &tail(STOP_SECONDS + 15)
}

fn head(id: &InstanceId, order: &str) -> String {
    format!(
        "# Written by fireclaw, and again by every `fireclaw provision`. For changes of your own: systemctl edit {unit}\n\
         [Unit]\n\
         Description=OpenClaw gateway {id}\n\
         After=nss-lookup.target\n\
         {order}\
         \n\
         [Service]\n\
         Type=exec\n",
        unit = id.guest_unit(),
    )
}

/// A gateway that is cut short loses a running answer, so it gets all the time that it takes for itself; one that refuses its
/// configuration is not started again; one whose child ran out of memory goes on.
fn tail(stop: u64) -> String {
    format!(
        "Restart=always\n\
         RestartSec=5\n\
         RestartPreventExitStatus={EXIT_CONFIGURATION}\n\
         SuccessExitStatus=143\n\
         TimeoutStopSec={stop}\n\
         KillMode=mixed\n\
         OOMPolicy=continue\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_unit() {
        let native_parts = Native {
            node: Path::new("/opt/openclaw/node/bin/node"),
            package: Path::new("/opt/openclaw/lib/node_modules/openclaw"),
            home: Path::new("/home/ubuntu"),
        };
        let id = "my-bot".parse().unwrap();
        insta::assert_snapshot!(native(&id, Path::new("/etc/fireclaw/openclaw-my-bot.env"), &native_parts));
    }

    #[test]
    fn the_docker_unit() {
        let parts = Docker {
            image: "ghcr.io/openclaw/openclaw:latest",
            state: Path::new("/home/ubuntu/.openclaw"),
            variables: &["OPENCLAW_GATEWAY_TOKEN", "ANTHROPIC_API_KEY"],
            volumes: &[],
        };
        let id = "my_bot-2".parse().unwrap();
        insta::assert_snapshot!(docker(&id, Path::new("/etc/fireclaw/openclaw-my_bot-2.env"), &parts));
    }
}
