//! The Docker runtime: a container image made from the image's own OpenClaw, pulled from the tests' registry.

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_testkit::oci::Layout;
use serde_json::Value;

use super::{
    internet,
    world::{World, ensure, same},
};
use crate::{container, say};

const ID: &str = "box";

/// Makes the container image, sets an instance up on it, and sees it healthy.
pub fn runtime(world: &mut World) -> Result<()> {
    let begun = std::time::Instant::now();
    let dir = world
        .internet
        .as_ref()
        .map(|net| net.dir.clone())
        .ok_or_else(|| Error::new("find", "the internet"))?;
    let layout = Layout::create(&dir.join("registry")).context("open", "the registry's layout")?;
    container::openclaw(&world.root.join("images/default/rootfs.ext4"), &world.root, &layout, "e2e")?;
    say::detail(&format!("    container image made in {} s", begun.elapsed().as_secs()));
    let registry = format!("{}:{}", internet::HOST, internet::REGISTRY);
    let image = format!("{registry}/openclaw:e2e");
    let report = world.json(&[
        "setup",
        "--instance",
        ID,
        "--json",
        "--openclaw-image",
        &image,
        "--vm-vcpu",
        "2",
        "--vm-mem-mib",
        "3072",
        "--dns",
        "203.0.113.10",
        "--skip-browser-install",
    ])?;
    same("runtime", &report["runtime"], &Value::from("docker"))?;
    same("health", &report["health"], &Value::from("up"))?;
    let containers = world.ok(&["shell", ID, "sudo docker ps --format '{{.Image}} {{.Names}}'"])?.text();
    ensure(containers.contains(&image) && containers.contains(&format!("openclaw-{ID}")), || {
        containers.clone()
    })?;
    world.ok(&["destroy", ID, "--force"]).map(drop)
}
