//! The Docker runtime: a container image made from the image's own OpenClaw, pulled from the tests' registry.

use std::path::Path;

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_testkit::oci::{Layout, Runs};
use serde_json::Value;

use super::{
    internet,
    world::{World, ensure, same},
};
use crate::{say, shell};

const ID: &str = "box";

/// Makes the container image, sets an instance up on it, and sees it healthy.
pub fn runtime(world: &mut World) -> Result<()> {
    let begun = std::time::Instant::now();
    let dir = world
        .internet
        .as_ref()
        .map(|net| net.dir.clone())
        .ok_or_else(|| Error::new("find", "the internet"))?;
    let tree = container_tree(world)?;
    publish(&tree, &dir.join("registry"))?;
    let _ = std::fs::remove_dir_all(&tree);
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

/// The tree as the one layer of an image in the registry's layout.
fn publish(tree: &Path, registry: &Path) -> Result<()> {
    let tar = registry.with_extension("tar");
    shell::must(
        "tar",
        &[
            "--create",
            "--numeric-owner",
            "--file",
            &tar.display().to_string(),
            "--directory",
            &tree.display().to_string(),
            ".",
        ],
    )?;
    let layout = Layout::create(registry).context("open", "the registry's layout")?;
    let file = std::fs::File::open(&tar).context("read", tar.display())?;
    let layer = layout.layer(file).context("make", "the image's layer")?;
    layout.image("e2e", &[layer], &Runs::openclaw()).context("make", "the container image")?;
    std::fs::remove_file(&tar).context("remove", tar.display())
}

/// A root filesystem with Node and OpenClaw, cut out of the base image: `debugfs` reads it without a mount.
fn container_tree(world: &World) -> Result<std::path::PathBuf> {
    let tree = world.root.join("container");
    let _ = std::fs::remove_dir_all(&tree);
    std::fs::create_dir_all(&tree).context("create folder", tree.display())?;
    let rootfs = world.root.join("images/default/rootfs.ext4").display().to_string();
    let mount = world.root.join("mount");
    std::fs::create_dir_all(&mount).context("create folder", mount.display())?;
    let at = mount.display().to_string();
    shell::must("mount", &["-o", "loop,ro", &rootfs, &at])?;
    let copied = copy_parts(&at, &tree.display().to_string());
    shell::must("umount", &[&at])?;
    copied.map(|()| tree)
}

/// What the container needs of the image: the C library and a shell's worth of programs, Node, OpenClaw where the official
/// image has it.
fn copy_parts(from: &str, to: &str) -> Result<()> {
    for dir in ["etc", "home/node", "app", "tmp", "proc", "sys", "dev", "run", "var"] {
        shell::must("mkdir", &["-p", &format!("{to}/{dir}")])?;
    }
    let cmd = |args: &[&str]| shell::must("cp", &[&["-a"], args].concat());
    for link in ["bin", "lib", "lib64", "sbin"] {
        cmd(&[&format!("{from}/{link}"), &format!("{to}/{link}")])?;
    }
    shell::must(
        "mkdir",
        &[
            "-p",
            &format!("{to}/usr/lib"),
            &format!("{to}/usr/bin"),
            &format!("{to}/usr/sbin"),
            &format!("{to}/usr/lib64"),
        ],
    )?;
    for dir in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let lib = format!("{from}/usr/lib/{dir}");
        if Path::new(&lib).exists() {
            cmd(&[&lib, &format!("{to}/usr/lib/")])?;
        }
    }
    cmd(&[&format!("{from}/usr/lib64/."), &format!("{to}/usr/lib64/")])?;
    for program in ["sh", "dash", "bash", "cat", "ls", "env", "id", "sleep"] {
        let _ = cmd(&[&format!("{from}/usr/bin/{program}"), &format!("{to}/usr/bin/")]);
    }
    cmd(&[&format!("{from}/opt/openclaw/node/bin/node"), &format!("{to}/usr/bin/node")])?;
    cmd(&[&format!("{from}/opt/openclaw/lib/node_modules/openclaw/."), &format!("{to}/app/")])?;
    let write = |name: &str, text: &str| std::fs::write(format!("{to}/{name}"), text).context("write", name);
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n")?;
    write("etc/group", "root:x:0:\nnode:x:1000:\n")?;
    write("etc/os-release", "ID=debian\n")?;
    shell::must("chmod", &["1777", &format!("{to}/tmp")])?;
    shell::must("chown", &["-R", "1000:1000", &format!("{to}/home/node")])?;
    Ok(())
}
