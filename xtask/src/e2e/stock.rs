//! A root filesystem as a distribution's cloud image has it, without any of fireclaw's image code: an account by cloud-init, Docker from
//! a repository, OpenClaw's stand-in from a registry. Both are on the tests' internet.

use std::{path::Path, process::Child};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::exec::{Cmd, handover};
use fireclaw_testkit::oci::Layout;
use serde_json::Value;

use super::{
    internet::{self, Internet},
    world::{World, ensure, same},
};
use crate::{lab, say, shell};

const ID: &str = "stock";
/// Where its packages are served.
const REPOSITORY: &str = "203.0.113.10:8088";

/// Makes the root filesystem and the packages.
pub fn files(_: &World) -> Result<()> {
    lab::stock_root().map(drop)
}

/// From nothing to a healthy gateway, and once more after a restart.
pub fn provisioned(world: &mut World) -> Result<()> {
    let stock = lab::stock_root()?;
    let internet = world.internet.as_ref().ok_or_else(|| Error::new("find", "the internet"))?;
    let layout = Layout::create(&internet.dir.join("registry")).context("open", "the registry's layout")?;
    lab::small_container(&world.root, &layout, "small")?;
    let image = format!("{}:{}/openclaw:small", internet::HOST, internet::REGISTRY);
    let rootfs = world.root.join("stock.ext4");
    with_sources(&stock.join("rootfs.ext4"), &rootfs)?;
    let mut repository = serve(internet, &stock)?;
    let result = from_nothing(world, &stock, &rootfs, &image);
    let _ = repository.kill().and_then(|()| repository.wait());
    std::fs::remove_file(&rootfs).context("remove", rootfs.display())?;
    result
}

fn from_nothing(world: &World, stock: &Path, rootfs: &Path, image: &str) -> Result<()> {
    let file = |name: &str| stock.join(name).display().to_string();
    let (kernel, initrd, rootfs) = (file("vmlinuz"), file("initrd.img"), rootfs.display().to_string());
    let base = ["--base-kernel", &kernel, "--base-initrd", &initrd, "--base-rootfs", &rootfs];
    let size = ["--vm-vcpu", "2", "--vm-mem-mib", "1024", "--disk-size", "8G"];
    let gateway = ["--runtime", "docker", "--openclaw-image", image, "--skip-browser-install"];
    let network = ["--dns", "203.0.113.10", "--json"];
    let report =
        world.json(&[&["setup", "--instance", ID][..], &base, &size, &gateway, &network].concat())?;
    for step in report["steps"].as_array().into_iter().flatten() {
        say::detail(&format!("    {:<24} {:>8} ms", step["name"].as_str().unwrap_or(""), step["ms"]));
    }
    same("runtime", &report["runtime"], &Value::from("docker"))?;
    same("health", &report["health"], &Value::from("up"))?;
    let inside = |words: &str| world.ok(&["shell", ID, words]).map(|said| said.text());
    let containers = inside("sudo docker ps --format '{{.Image}} {{.Names}}'")?;
    ensure(containers.contains(image) && containers.contains(&format!("openclaw-{ID}")), || {
        format!("its containers are {containers}")
    })?;
    same("the account", &inside("id -un")?, &"ubuntu".to_owned())?;
    world.ok(&["restart", ID])?;
    same("health", &world.status(ID)?["health"], &Value::from("up"))?;
    world.ok(&["destroy", ID, "--force"]).map(drop)
}

/// A copy whose packages come from where this internet has them.
fn with_sources(from: &Path, to: &Path) -> Result<()> {
    let list = to.with_extension("list");
    std::fs::write(&list, format!("deb [trusted=yes] http://{REPOSITORY}/debian ./\n"))
        .context("write", list.display())?;
    let [from, to, list] = [from, to, &list].map(|path| path.display().to_string());
    shell::must("cp", &["--sparse=always", &from, &to])?;
    shell::must("debugfs", &["-w", "-R", "rm /etc/apt/sources.list", &to])?;
    shell::must("debugfs", &["-w", "-R", &format!("write {list} /etc/apt/sources.list"), &to]).map(drop)
}

/// The folder over HTTP, for as long as the process lives.
fn serve(internet: &Internet, folder: &Path) -> Result<Child> {
    let there = ["--target", &internet.pid(), "--net", "setpriv", "--pdeathsig", "KILL"];
    let server = ["busybox", "httpd", "-f", "-p", REPOSITORY, "-h"];
    handover::spawn(&Cmd::new("nsenter").args(there).args(server).arg(folder), None)
}
