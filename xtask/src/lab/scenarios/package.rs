//! The packages on a host with systemd: installed, used, upgraded and removed while an instance runs.

use std::path::PathBuf;

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::exec::{Cmd, Exec, SystemExec};
use serde_json::Value;

use crate::{
    lab::host::{Lab, ensure, same},
    shell,
};

const ID: &str = "packaged";
const BY_HAND: &str = "/usr/local/bin/fireclaw";
const ASIDE: &str = "/root/fireclaw-by-hand";

/// The program that the other scenarios use steps aside meanwhile.
pub fn debian(lab: &mut Lab) -> Result<()> {
    let deb = newest("deb")?;
    lab.remote.put(&deb, "/root/fireclaw.deb", "644")?;
    lab.remote.must(&["mv", BY_HAND, ASIDE])?;
    let result = installed(lab);
    lab.remote.must(&["cp", "-f", ASIDE, BY_HAND])?;
    let removed = lab.remote.must(&["dpkg", "--purge", "fireclaw"]).map(drop);
    result.and(removed)
}

/// npm installs, runs, and removes: its Node is the one of the image with OpenClaw, npm itself comes from its registry.
pub fn npm(lab: &mut Lab) -> Result<()> {
    let ours = newest("tgz")?;
    lab.remote.put(&ours, "/root/fireclaw.tgz", "644")?;
    lab.remote.put(&npm_itself()?, "/root/npm.tgz", "644")?;
    lab.remote.must(&["mv", BY_HAND, ASIDE])?;
    let result = lab.remote.script(include_str!("../files/npm.sh"), &["install"]).and_then(|_| used(lab));
    let removed = lab.remote.script(include_str!("../files/npm.sh"), &["remove"]);
    lab.remote.must(&["cp", "-f", ASIDE, BY_HAND])?;
    result.and(removed.map(drop))
}

/// The program that npm put on the path, and what its units start.
fn used(lab: &Lab) -> Result<()> {
    same("the program", &lab.remote.must(&["which", "fireclaw"])?, &"/usr/local/bin/fireclaw".to_owned())?;
    for name in ["vm-setup", "vm-ctl"] {
        lab.remote.must(&[name, "--help"])?;
    }
    let report = lab.setup_tiny(ID, &[])?;
    same("health", &report["health"], &Value::from("up"))?;
    lab.ok(&["restart", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))?;
    lab.ok(&["destroy", ID, "--force"]).map(drop)
}

/// npm as npm publishes it.
fn npm_itself() -> Result<PathBuf> {
    let dir = shell::target().join("lab/npm");
    std::fs::create_dir_all(&dir).context("create folder", dir.display())?;
    // With the registry of whoever runs this.
    let cmd = Cmd::new("npm").inherit_env().args(["pack", "--silent", "--pack-destination"]).arg(&dir);
    let name = SystemExec::default().check(cmd.arg("npm@11").about("npm"))?.text();
    Ok(dir.join(name.lines().last().unwrap_or_default()))
}

fn newest(kind: &str) -> Result<PathBuf> {
    let dir = shell::target().join("dist");
    let names = fireclaw_host::fs::names(&dir)?;
    let deb = names
        .iter()
        .rfind(|name| std::path::Path::new(name).extension().is_some_and(|ending| ending == kind));
    deb.map(|name| dir.join(name)).ok_or_else(|| {
        Error::new("find", format!("the package (.{kind})"))
            .because(format!("there is none in {}", dir.display()))
            .hint("`cargo xtask dist` makes it; `cargo xtask ci` makes it before the lab")
    })
}

fn installed(lab: &Lab) -> Result<()> {
    let install = || lab.remote.must(&["dpkg", "--install", "/root/fireclaw.deb"]);
    install()?;
    same("the program", &lab.remote.must(&["which", "fireclaw"])?, &"/usr/bin/fireclaw".to_owned())?;
    let report = lab.setup_tiny(ID, &[])?;
    same("health", &report["health"], &Value::from("up"))?;
    let unit = format!("/etc/systemd/system/firecracker-vmdemo-{ID}.service");
    ensure(lab.remote.must(&["cat", &unit])?.contains("ExecStart=/usr/bin/fireclaw run"), || {
        "the unit starts another program".into()
    })?;
    let vm = lab.vm_pid(ID)?;
    ensure(vm.is_some(), || "there is no VMM".into())?;
    // The same version over itself: what an upgrade does.
    install()?;
    same("the VM's process", &lab.vm_pid(ID)?, &vm)?;
    lab.remote.must(&["dpkg", "--remove", "fireclaw"])?;
    same("the VM's process without the package", &lab.vm_pid(ID)?, &vm)?;
    let port = report["host_port"].to_string();
    lab.remote.must(&["curl", "-fsS", "--max-time", "20", &format!("http://127.0.0.1:{port}/health")])?;
    install()?;
    lab.ok(&["restart", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))?;
    lab.ok(&["destroy", ID, "--force"]).map(drop)
}
