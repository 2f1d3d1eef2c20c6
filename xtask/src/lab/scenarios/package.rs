//! The Debian package on a host with systemd: installed, used, upgraded and removed while an instance runs.

use std::path::PathBuf;

use fireclaw_core::error::{Error, Result};
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
    let deb = newest()?;
    lab.remote.put(&deb, "/root/fireclaw.deb", "644")?;
    lab.remote.must(&["mv", BY_HAND, ASIDE])?;
    let result = installed(lab);
    lab.remote.must(&["cp", "-f", ASIDE, BY_HAND])?;
    let removed = lab.remote.must(&["dpkg", "--purge", "fireclaw"]).map(drop);
    result.and(removed)
}

fn newest() -> Result<PathBuf> {
    let dir = shell::target().join("dist");
    let names = fireclaw_host::fs::names(&dir)?;
    let deb = names
        .iter()
        .rfind(|name| std::path::Path::new(name).extension().is_some_and(|ending| ending == "deb"));
    deb.map(|name| dir.join(name)).ok_or_else(|| {
        Error::new("find", "the Debian package")
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
