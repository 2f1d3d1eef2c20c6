//! The Docker runtime on this host: with a real OpenClaw and Docker for the agent, and on a root filesystem that knows nothing of
//! fireclaw. Images come from a registry on the lab's outside, packages from a repository there.

use std::time::{Duration, Instant};

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::neighbours::outside;
use crate::{
    lab::{
        host::{Lab, ensure, same, show_steps},
        stock,
    },
    shell,
};

const ID: &str = "boxed";
/// The registry on the outside.
pub(super) const REGISTRY: &str = "203.0.113.10:5000";
/// Where the large images lie on the host.
pub(super) const FILES: &str = "/srv/firecracker/lab";

/// The seed's default: OpenClaw's container in our image, and the agent's own containers beside it.
pub fn runtime(lab: &mut Lab) -> Result<()> {
    with_registry(lab, |lab| {
        let image = format!("{REGISTRY}/openclaw:real");
        let report = setup(lab, &image, &["--image", "default", "--vm-vcpu", "1", "--vm-mem-mib", "3072"])?;
        same("runtime", &report["runtime"], &Value::from("docker"))?;
        same("health", &report["health"], &Value::from("up"))?;
        show_steps(&report);
        runs_in_a_container(lab, ID, &image)?;
        // What an agent does: another container, on Docker's own bridge, that reaches the outside.
        let small = format!("{REGISTRY}/openclaw:tiny");
        // By `nc`: the `wget` of a static busybox ends in a fault where there is no libc beside it.
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 20 203.0.113.10 80";
        let page =
            lab.ok(&["shell", ID, &format!("sudo docker run --rm {small} busybox sh -c \"{ask}\"")])?;
        same("the page, out of a container", &page.lines().last(), &Some("outside"))?;
        let begun = Instant::now();
        lab.ok(&["stop", ID])?;
        let took = begun.elapsed();
        ensure(took < Duration::from_secs(330), || format!("a graceful stop took {} s", took.as_secs()))
    })
}

/// Somebody else's root filesystem: an account by cloud-init, Docker from a mirror, OpenClaw from a registry.
pub fn stock(lab: &mut Lab) -> Result<()> {
    with_registry(lab, |lab| {
        let file = |name: &str| format!("{FILES}/stock/{name}");
        let image = format!("{REGISTRY}/openclaw:tiny");
        let report = setup(
            lab,
            &image,
            &[
                "--base-kernel",
                &file("vmlinuz"),
                "--base-initrd",
                &file("initrd.img"),
                "--base-rootfs",
                &file("rootfs.ext4"),
                "--vm-vcpu",
                "1",
                "--vm-mem-mib",
                "1024",
            ],
        )?;
        same("runtime", &report["runtime"], &Value::from("docker"))?;
        same("health", &report["health"], &Value::from("up"))?;
        show_steps(&report);
        runs_in_a_container(lab, ID, &image)?;
        let who = lab.ok(&["shell", ID, "id", "-un"])?;
        same("the account", &who, &"ubuntu".to_owned())?;
        let sources = lab.ok(&["shell", ID, "cat", "/etc/apt/sources.list"])?;
        ensure(sources.contains(stock::REPOSITORY), || format!("its sources are {sources}"))?;
        // It comes back by itself, with what was installed.
        lab.ok(&["restart", ID])?;
        same("health", &lab.field(ID, "health")?, &Value::from("up"))
    })
}

pub(super) fn setup(lab: &Lab, image: &str, more: &[&str]) -> Result<Value> {
    let args = [
        "setup",
        "--instance",
        ID,
        "--vmm",
        lab.vmm,
        "--runtime",
        "docker",
        "--openclaw-image",
        image,
        "--disk-size",
        "8G",
        "--dns",
        "203.0.113.10",
        "--skip-browser-install",
        "--json",
    ];
    // A layer of a gigabyte is unpacked for a quarter of an hour by a processor that is emulated twice.
    let words = [&["fireclaw"][..], &args, more].concat();
    let output = lab.remote.ask_with(&words, Vec::new(), Duration::from_hours(1))?;
    ensure(output.status.success(), || output.last_words())?;
    serde_json::from_str(&output.text()).context("read the JSON of", "setup")
}

pub(super) fn runs_in_a_container(lab: &Lab, id: &str, image: &str) -> Result<()> {
    let seen = lab.ok(&["shell", id, "sudo", "docker", "ps", "--no-trunc"])?;
    ensure(seen.contains(image) && seen.contains(&format!("openclaw-{id}")), || {
        format!("its containers are {seen}")
    })
}

/// The outside with the registry and the repository on it, and guests that take this registry without TLS.
pub(super) fn with_registry(lab: &mut Lab, run: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    outside(lab)?;
    let program = std::env::current_exe().context("find", "this program")?;
    let bare = shell::target().join("lab/run/internet");
    shell::must("strip", &["-o", &bare.display().to_string(), &program.display().to_string()])?;
    lab.remote.put(&bare, "/usr/local/bin/lab-internet", "755")?;
    lab.remote.must(&["ln", "-sfn", &format!("{FILES}/stock/debian"), "/run/outside/debian"])?;
    lab.remote.must(&[
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=lab-internet",
        "--property=NetworkNamespacePath=/run/netns/outside",
        "/usr/local/bin/lab-internet",
        "internet",
        "--registry-only",
        "--dir",
        FILES,
    ])?;
    let url = format!("http://{REGISTRY}/v2/");
    let result = lab
        .until("the registry", 60, || {
            Ok(lab.remote.ask(&["curl", "-fsS", "-m", "5", &url])?.status.success())
        })
        .and_then(|()| lab.with_config(&format!("insecure_registries = [\"{REGISTRY}\"]\n"), run));
    lab.remote.must(&["systemctl", "stop", "lab-internet"])?;
    result
}
