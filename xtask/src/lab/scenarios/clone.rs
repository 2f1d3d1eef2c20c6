//! A clone beside its source: both run, nobody is anybody else, and the clone has what its source had.

use fireclaw_core::error::{Error, Result};
use serde_json::Value;

use crate::{
    lab::host::{Lab, ensure, same, show_steps},
    say,
};

const SOURCE: &str = "first_one";
const CLONE: &str = "second-one";

/// What tells guests apart, one value a line.
const IDENTITY: &str = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; hostname; \
                        cat /sys/class/net/eth0/address; hostname --all-ip-addresses";

/// All that names the source in the clone's files. Its logs may: they are of that time.
const TRACES: &str = "sudo find /etc /var/lib/fireclaw /home/ubuntu/.openclaw -xdev -name '*first[_-]one*'; \
                      sudo grep -rlE 'first[_-]one' /etc /var/lib/fireclaw /home/ubuntu/.openclaw || true";

/// Made, stopped, copied; then both at once.
pub fn side_by_side(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(SOURCE, &["--egress", "none"])?;
    guest(lab, SOURCE, "echo learnt >/home/ubuntu/kept; echo 7 | sudo tee /opt/kept; sync")?;
    let before = identity(lab, SOURCE)?;
    let running = lab.expect(2, &["clone", SOURCE, CLONE])?;
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    ensure(said.contains(&format!("fireclaw stop {SOURCE}")), || said.clone())?;
    lab.ok(&["stop", SOURCE])?;
    let report = lab.json(&["clone", SOURCE, CLONE, "--json"])?;
    show_steps(&report);
    lab.ok(&["start", SOURCE])?;
    for id in [SOURCE, CLONE] {
        same(&format!("health of {id}"), &lab.field(id, "health")?, &Value::from("up"))?;
    }
    let (source, clone) = (identity(lab, SOURCE)?, identity(lab, CLONE)?);
    same("the source", &source, &before)?;
    for (one, other) in source.iter().zip(&clone) {
        ensure(one != other, || format!("both are {one}"))?;
    }
    let token = |id| lab.ok(&["token", id]);
    ensure(token(SOURCE)? != token(CLONE)?, || "they have one token".into())?;
    for field in ["host_port", "vm_ip"] {
        ensure(lab.field(SOURCE, field)? != lab.field(CLONE, field)?, || format!("they have one {field}"))?;
    }
    same("egress", &lab.field(CLONE, "containment")?["egress"], &Value::from("none"))?;
    // What it learnt is there, and what says that it was another is not.
    same("kept", &guest(lab, CLONE, "cat /home/ubuntu/kept /opt/kept")?, &"learnt\n7".to_owned())?;
    same("traces", &guest(lab, CLONE, TRACES)?, &String::new())?;
    never_ran_the_old_gateway(lab)?;
    room(lab)?;
    // Each goes its own way.
    guest(lab, CLONE, "rm /home/ubuntu/kept")?;
    same("kept", &guest(lab, SOURCE, "cat /home/ubuntu/kept")?, &"learnt".to_owned())?;
    lab.ok(&["destroy", SOURCE, "--force"])?;
    lab.ok(&["restart", CLONE])?;
    same("health", &lab.field(CLONE, "health")?, &Value::from("up"))?;
    killed(lab)
}

/// A script in a guest, over standard input all the way.
fn guest(lab: &Lab, id: &str, script: &str) -> Result<String> {
    lab.remote.must_with(&["fireclaw", "shell", id, "bash", "-s"], script.as_bytes().to_vec())
}

/// What a guest is, line by line.
fn identity(lab: &Lab, id: &str) -> Result<Vec<String>> {
    let lines: Vec<String> = guest(lab, id, IDENTITY)?.lines().map(str::to_owned).collect();
    ensure(lines.len() == 5, || format!("{lines:?}"))?;
    Ok(lines)
}

/// The clone's own journal begins with its machine id, and knows one gateway only.
fn never_ran_the_old_gateway(lab: &Lab) -> Result<()> {
    let units = guest(lab, CLONE, "sudo journalctl --no-pager --quiet --field UNIT")?;
    ensure(units.contains(&format!("openclaw-{CLONE}.service")), || units.clone())?;
    ensure(!units.contains(&format!("openclaw-{SOURCE}.service")), || units.clone())
}

fn room(lab: &Lab) -> Result<()> {
    let took = |id: &str| -> Result<u64> {
        let path = format!("/srv/firecracker/vm-demo/{id}/images/state.ext4");
        let said = lab.remote.must(&["stat", "--format", "%b", &path])?;
        said.trim().parse().map_err(|error| Error::new("read", said.clone()).source(error))
    };
    say::detail(&format!("    the source takes {} KiB, the clone {}", took(SOURCE)? / 2, took(CLONE)? / 2));
    Ok(())
}

/// Killed in the middle of a clone: the next one removes what is left and is whole.
fn killed(lab: &Lab) -> Result<()> {
    const THIRD: &str = "third";
    lab.ok(&["stop", CLONE])?;
    for seconds in ["0.2", "1", "4"] {
        // In the foreground it waits for the end of what it killed, which may be in the middle of a write and then still holds its
        // locks.
        let timeout = ["timeout", "--foreground", "--signal=KILL", seconds];
        lab.remote.ask(&[&timeout[..], &["fireclaw", "clone", CLONE, THIRD, "--quiet"]].concat())?;
    }
    let report = lab.json(&["clone", CLONE, THIRD, "--json"])?;
    same("health", &report["health"], &Value::from("up"))?;
    lab.ok(&["destroy", THIRD, "--force"])?;
    let left = lab.remote.must(&["ls", "-A", "/srv/firecracker/vm-demo", "/var/lib/fireclaw"])?;
    ensure(!left.contains(THIRD), || format!("left: {left}"))
}
