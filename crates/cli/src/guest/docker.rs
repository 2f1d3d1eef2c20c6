//! The Docker runtime: the daemon and OpenClaw's image. Installs a package, writes `daemon.json`, drives Docker.

use std::{path::Path, time::Duration};

use fireclaw_core::{
    error::{Error, Result},
    guest::{
        daemon, environment,
        paths::{GuestFiles, GuestPaths},
        protocol::ProvisionRequest,
        unit::{self, Docker},
    },
};
use fireclaw_host::{
    exec::Cmd,
    wait::{self, Probed, Requirement},
};

use super::{Guest, account::Owner, events::Events, info, native::VALIDATE, packages, service::Service};

/// How long the daemon may take to answer. It takes most of a minute where the guest is emulated.
const DAEMON: Duration = Duration::from_mins(5);

/// How long an image may take to arrive.
const PULL: Duration = Duration::from_hours(1);

/// Makes Docker run with what the request needs.
pub(super) fn ensure_daemon(
    guest: &Guest<'_>,
    request: &ProvisionRequest,
    service: &Service<'_>,
    events: &mut Events<'_>,
    changed: &mut Vec<String>,
) -> Result<()> {
    if guest.exec.which("docker").is_none() {
        events.step("install Docker");
        packages::install(guest, &["docker.io", "ca-certificates"], events)?;
        if guest.exec.which("docker").is_none() {
            // Debian 13 has the client in a package of its own; before, there is none of this name.
            packages::install(guest, &["docker-cli"], events)?;
        }
        changed.push("docker".to_owned());
    }
    if lacks_apparmor_parser(guest)? {
        events.step("install AppArmor's parser");
        packages::install(guest, &["apparmor"], events)?;
        changed.push("apparmor".to_owned());
    }
    if configure(guest, request, false)? {
        events.step("configure Docker");
        restart(guest, service)?;
        changed.push("docker".to_owned());
    }
    if answers(guest)? {
        return Ok(());
    }
    events.step("start Docker");
    guest.exec.check(systemctl(&["enable", "--quiet", "docker.service"]))?;
    let started =
        guest.exec.check(systemctl(&["start", "docker.service"])).map(drop).and_then(|()| wait_for(guest));
    let Err(error) = started else { return Ok(()) };
    if has_netfilter(guest)? || !configure(guest, request, true)? {
        return Err(error);
    }
    events.warning("the guest's kernel has no packet filter: Docker runs without networks of its own");
    restart(guest, service)?;
    changed.push("docker".to_owned());
    wait_for(guest)
}

/// The first Docker that does without `AppArmor` where nothing loads its profile. Older ones (Debian 12 has 20.10) start no container
/// then, and Debian's package only recommends the parser.
const DOES_WITHOUT_PARSER: u32 = 23;

fn lacks_apparmor_parser(guest: &Guest<'_>) -> Result<bool> {
    let enabled = guest.files.read_system(&GuestPaths::apparmor())?;
    if enabled.is_none_or(|said| said.trim() != "Y") || guest.exec.which("apparmor_parser").is_some() {
        return Ok(false);
    }
    let major = info::docker(guest).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    Ok(major.is_none_or(|major| major < DOES_WITHOUT_PARSER))
}

/// Writes `daemon.json` where it lacks something; says whether it did.
fn configure(guest: &Guest<'_>, request: &ProvisionRequest, no_netfilter: bool) -> Result<bool> {
    let path = GuestPaths::docker_daemon();
    let current = guest.files.read_system(&path)?;
    let Some(text) = daemon::daemon_json(current.as_deref(), &request.insecure_registries, no_netfilter)?
    else {
        return Ok(false);
    };
    guest.files.system_dir(path.parent().unwrap_or(Path::new("/")))?;
    guest.files.write(&path, &text, 0o644)
}

/// A daemon that starts anew ends its containers: the gateway is given the time to finish before.
fn restart(guest: &Guest<'_>, service: &Service<'_>) -> Result<()> {
    service.stop(super::provision::STOP)?;
    guest.exec.check(systemctl(&["reset-failed", "docker.service", "docker.socket"]).about("Docker")).ok();
    guest.exec.check(systemctl(&["restart", "docker.service"])).map(drop)
}

fn systemctl(args: &[&str]) -> Cmd {
    Cmd::new("systemctl").args(args).deadline(DAEMON)
}

fn answers(guest: &Guest<'_>) -> Result<bool> {
    let version = docker(&["version", "--format", "{{.Server.Version}}"]).deadline(Duration::from_secs(30));
    Ok(guest.exec.run(version)?.status.success())
}

fn wait_for(guest: &Guest<'_>) -> Result<()> {
    let requirement = Requirement {
        description: "the Docker daemon".to_owned(),
        deadline: DAEMON,
        hint: "journalctl --unit docker.service (in the guest)".to_owned(),
    };
    wait::until(&requirement, &guest.interrupt, || match answers(guest) {
        Ok(true) => Probed::Ready(()),
        Ok(false) => Probed::NotYet("it does not answer".to_owned()),
        Err(error) => Probed::Never(error),
    })
}

/// Whether the kernel has the packet filter that Docker's networks are made of.
fn has_netfilter(guest: &Guest<'_>) -> Result<bool> {
    if guest.exec.which("iptables").is_none() {
        return Ok(true);
    }
    Ok(guest.exec.run(Cmd::new("iptables").args(["--table", "nat", "--list-rules"]))?.status.success())
}

/// Pulls the image; says whether it is another than before. An image that is there already does for one that cannot be had.
pub(super) fn pull(guest: &Guest<'_>, image: &str, events: &mut Events<'_>) -> Result<bool> {
    events.step(format!("pull {image}"));
    let before = image_id(guest, image)?;
    let cmd = docker(&["pull", image]).deadline(PULL).about(image);
    let pulled = guest.exec.check_stream(cmd, &mut |_, line| events.log(line));
    match (pulled, &before) {
        (Ok(_), _) => Ok(image_id(guest, image)? != before),
        (Err(error), Some(_)) => {
            events.warning(format!("the image that is here is used: {}", error.one_line()));
            Ok(false)
        }
        (Err(error), None) => Err(Error::new("pull", image.to_owned())
            .hint("check the name, and that the guest reaches its registry")
            .source(error)),
    }
}

fn image_id(guest: &Guest<'_>, image: &str) -> Result<Option<String>> {
    let output = guest.exec.run(docker(&["image", "inspect", "--format", "{{.Id}}", image]))?;
    Ok(output.status.success().then(|| output.text()))
}

fn docker(args: &[&str]) -> Cmd {
    Cmd::new("docker").args(args)
}

fn parts<'a>(request: &'a ProvisionRequest, owner: &'a Owner, variables: &'a [&'a str]) -> Docker<'a> {
    Docker { image: &request.openclaw_image, state: &owner.state.dir, variables, volumes: &owner.volumes }
}

/// The unit that starts the container.
pub(super) fn unit(request: &ProvisionRequest, files: &GuestFiles, owner: &Owner) -> String {
    let names: Vec<&str> = environment::variables(request).into_iter().map(|(name, _)| name).collect();
    unit::docker(&request.instance_id, &files.environment, &parts(request, owner, &names))
}

/// The check of the candidate configuration by the OpenClaw in the image.
pub(super) fn validate(request: &ProvisionRequest, owner: &Owner) -> Cmd {
    let candidate = owner.state.candidate.file_name().unwrap_or_default().to_string_lossy();
    docker(&["run", "--rm", "--network", "none", "--pull", "never"])
        .args(unit::docker_mounts(&parts(request, owner, &[])))
        .args(["--env", &format!("OPENCLAW_CONFIG_PATH=/home/node/.openclaw/{candidate}")])
        .args([&request.openclaw_image, "node", "dist/index.js", "config", "validate", "--json"])
        .deadline(VALIDATE)
        .about("the new configuration")
}
