//! Instances of the Bash fireclaw that run on this host, with its records, scripts and units, their VMs without a jail. Ours
//! takes them over in place: one that a script makes as that one would, and one that the Bash fireclaw itself made, where
//! `BASH_FIRECLAW` names its folder.

use std::path::Path;

use fireclaw_core::error::{Error, Result};
use fireclaw_host::exec::{Cmd, Exec, SystemExec};
use serde_json::Value;

use super::{docker, figures::median};
use crate::{
    lab::host::{Lab, ensure, same, show_steps},
    say,
};

const ID: &str = "old-bot";
const BEFORE: &str = "before";
/// One that the Bash fireclaw itself makes; no name that a TAP could have.
const REAL: &str = "old_bot-2";
/// Where that one lies on the host, and the base that it can provision here.
const PROGRAM: &str = "/opt/bash-fireclaw";
const BASE: &str = "/srv/firecracker/lab/theirs";
/// Fails where the container of an instance does not see what was there before, and the browser's folder.
const KEPT: &str = r#"for path in .openclaw/kept .openclaw/workspace/kept clawd/tools; do
    fireclaw shell "$1" "sudo ls -d /proc/\$(sudo docker inspect --format '{{.State.Pid}}' openclaw-$1)/root/home/node/$path"
done"#;
/// The container image, at the guest's own loopback.
const IMAGE: &str = "127.0.0.1:5000/openclaw:tiny";

/// From its running VM to nothing.
pub fn takes_over(lab: &mut Lab) -> Result<()> {
    // Each had a root disk of its own: the same image as it was before bases were shared.
    lab.remote.script(include_str!("../files/image-before.sh"), &[BEFORE])?;
    lab.setup_small(ID, BEFORE, &[])?;
    lab.ok(&["stop", ID, "--now"])?;
    lab.remote.script(include_str!("../files/bash-instance.sh"), &[ID])?;
    lab.until("the old instance to answer", 420, || Ok(lab.field(ID, "health")? == "up"))?;
    let list = lab.json(&["list", "--json"])?;
    for (field, value) in [("id", ID), ("vm", "active"), ("proxy", "active"), ("vmm", "firecracker")] {
        same(field, &list[0][field], &Value::from(value))?;
    }
    // What its services do not do is not promised.
    lab.expect(2, &["hibernate", ID])?;
    lab.expect(2, &["egress", ID, "set", "none"])?;
    lab.ok(&["stop", ID])?;
    same("vm", &lab.field(ID, "vm")?, &Value::from("inactive"))?;
    let running = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!running.status.success(), || "its Firecracker runs still".into())?;
    lab.ok(&["start", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))?;
    in_services_of_ours(lab)?;
    beside_its_service(lab)?;
    // Not provisioned: such an instance has the Docker runtime, and the small image has no Docker.
    lab.ok(&["destroy", ID, "--force"])?;
    let units = lab.remote.must(&["ls", "/etc/systemd/system"])?;
    ensure(!units.contains(ID), || format!("a unit of it is left: {units}"))?;
    let running = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!running.status.success(), || "its Firecracker outlived it".into())
}

/// Started by ours it runs in ours: in a jail, behind our proxy, and it sleeps.
fn in_services_of_ours(lab: &Lab) -> Result<()> {
    for unit in [format!("firecracker-vmdemo-{ID}.service"), format!("vmdemo-proxy-{ID}.service")] {
        let text = lab.remote.must(&["cat", &format!("/etc/systemd/system/{unit}")])?;
        ensure(text.starts_with("# Written by fireclaw"), || format!("{unit} says {text}"))?;
    }
    let plain = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!plain.status.success(), || "its Firecracker has no jail".into())?;
    lab.ok(&["hibernate", ID])?;
    same("vm", &lab.field(ID, "vm")?, &Value::from("hibernated"))?;
    lab.ok(&["start", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))
}

/// Its script starts a VM that is in no service: a start finds it, and leaves it its disk, its tap and its socket; a stop ends it.
fn beside_its_service(lab: &Lab) -> Result<()> {
    lab.ok(&["stop", ID])?;
    let script = format!("/srv/firecracker/vm-demo/{ID}/start-vm.sh");
    lab.remote.must(&["systemd-run", "--quiet", "--collect", "--unit=by-hand", &script])?;
    lab.until("its Firecracker to run", 60, || Ok(lab.vm_pid(ID)?.is_some()))?;
    let before = lab.vm_pid(ID)?;
    lab.expect(2, &["start", ID])?;
    same("its Firecracker", &lab.vm_pid(ID)?, &before)?;
    lab.until("its gateway to answer", 420, || Ok(lab.field(ID, "guest")? == "active"))?;
    lab.ok(&["stop", ID, "--now"])?;
    same("its Firecracker", &lab.vm_pid(ID)?, &None)?;
    lab.ok(&["start", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))
}

/// The Bash fireclaw makes an instance on a stock root filesystem, Docker and container included; ours takes the running one
/// over, provisions it, and makes one on the same base files for comparison.
pub fn the_real_one(lab: &mut Lab) -> Result<()> {
    let Some(program) = lab.bash_fireclaw.clone() else {
        return Err(Error::new("find", "the Bash fireclaw"));
    };
    docker::with_registry(lab, |lab| {
        install(lab, &program)?;
        let result = theirs(lab).and_then(|(started, login)| compare(lab, started, login));
        // What it leaves to its user.
        for rule in [&["-t", "nat", "-F", "POSTROUTING"][..], &["-F", "FORWARD"]] {
            lab.remote.must(&[&["iptables"], rule].concat())?;
        }
        lab.remote.must(&["rm", "-r", BASE])?;
        result
    })
}

/// The program, and a base made of the stock root filesystem.
fn install(lab: &Lab, program: &Path) -> Result<()> {
    let tar = Cmd::new("tar").arg("-C").arg(program).args(["-cf", "-", "bin", "scripts"]);
    let packed = SystemExec::default().check(tar.about(program.display()))?.stdout;
    lab.remote.must(&["mkdir", "-p", PROGRAM, BASE])?;
    lab.remote.must_with(&["tar", "-C", PROGRAM, "-xf", "-"], packed)?;
    let stock = |name: &str| format!("{}/stock/{name}", docker::FILES);
    for name in ["vmlinux", "initrd.img"] {
        lab.remote.must(&["ln", &stock(name), &format!("{BASE}/{name}")])?;
    }
    let words = [&stock("rootfs.ext4"), &format!("{BASE}/rootfs.ext4"), docker::REGISTRY];
    lab.remote.script(include_str!("../files/bash-base.sh"), &words).map(drop)
}

/// Its instance, made by it and taken over. Gives after how many milliseconds its VM was started, and let in by SSH.
fn theirs(lab: &Lab) -> Result<(u64, u64)> {
    let said = lab.remote.script(include_str!("../files/bash-setup.sh"), &[REAL, BASE, IMAGE])?;
    let list = lab.json(&["list", "--json"])?;
    for (field, value) in [
        ("id", REAL),
        ("vm", "active"),
        ("proxy", "active"),
        ("health", "up"),
        ("vmm", "firecracker"),
        ("runtime", "docker"),
    ] {
        same(field, &list[0][field], &Value::from(value))?;
    }
    same("the account", &lab.ok(&["shell", REAL, "id", "-un"])?, &"ubuntu".to_owned())?;
    let token = lab.remote.must(&["cat", &format!("/var/lib/fireclaw/.vm-{REAL}/.token")])?;
    // Its VM goes on meanwhile.
    let pid = lab.remote.must(&["pgrep", "-f", "firecracker.--api-sock"])?;
    // What its agent knows, and works on.
    let kept = [
        format!("/home/ubuntu/.openclaw-{REAL}/config/kept"),
        format!("/home/ubuntu/openclaw-{REAL}/workspace/kept"),
    ];
    lab.ok(&["shell", REAL, "sudo", "touch", &kept[0], &kept[1]])?;
    lab.ok(&["provision", REAL, "--skills", "github,tmux"])?;
    lab.remote.script(KEPT, &[REAL])?;
    same("its VM", &lab.remote.must(&["pgrep", "-f", "firecracker.--api-sock"])?, &pid)?;
    same("health", &lab.field(REAL, "health")?, &Value::from("up"))?;
    docker::runs_in_a_container(lab, REAL, IMAGE)?;
    lab.ok(&["stop", REAL])?;
    same("vm", &lab.field(REAL, "vm")?, &Value::from("inactive"))?;
    lab.ok(&["start", REAL])?;
    same("health", &lab.field(REAL, "health")?, &Value::from("up"))?;
    docker::runs_in_a_container(lab, REAL, IMAGE)?;
    same("its token", &lab.ok(&["token", REAL])?, &token)?;
    lab.ok(&["destroy", REAL, "--force"])?;
    let left = lab.remote.must(&[
        "ls",
        "-A",
        "/etc/systemd/system",
        "/var/lib/fireclaw",
        "/srv/firecracker/vm-demo",
    ])?;
    ensure(!left.contains(REAL), || format!("it left {left}"))?;
    let running = lab.remote.ask(&["pgrep", "-f", "firecracker.--api-sock"])?;
    ensure(!running.status.success(), || "its Firecracker outlived it".into())?;
    Ok((median(&said, "started")?, median(&said, "login")?))
}

/// Ours on the same base files, of the same size.
fn compare(lab: &Lab, started: u64, login: u64) -> Result<()> {
    let file = |name: &str| format!("{BASE}/{name}");
    let (kernel, initrd, rootfs) = (file("vmlinux"), file("initrd.img"), file("rootfs.ext4"));
    let base = ["--base-kernel", &kernel, "--base-initrd", &initrd, "--base-rootfs", &rootfs];
    let report =
        docker::setup(lab, IMAGE, &[&base[..], &["--vm-vcpu", "1", "--vm-mem-mib", "1024"]].concat())?;
    same("health", &report["health"], &Value::from("up"))?;
    show_steps(&report);
    let until = |name: &str| {
        let steps: Vec<&Value> = report["steps"].as_array().into_iter().flatten().collect();
        let last = steps.iter().position(|step| step["name"] == name).map_or(0, |last| last + 1);
        steps[..last].iter().filter_map(|step| step["ms"].as_u64()).sum::<u64>()
    };
    say::line(&format!(
        "     setup until the VM was started: {} ms, by the Bash fireclaw {started} ms; until SSH {} ms, by it {login} ms",
        until("start VM"),
        until("wait for SSH login"),
    ));
    ensure(until("start VM") > 0, || "no step is called `start VM`".into())
}
