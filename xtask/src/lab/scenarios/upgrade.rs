//! fireclaw itself: a new one while instances run, and many instances of one.

use fireclaw_core::error::Result;
use serde_json::Value;

use super::figures::median;
use crate::{
    lab::host::{Lab, ensure, same},
    say,
};

/// Another file of the program under the same name: VM and proxy do not notice, and the new one manages them.
pub fn binary(lab: &mut Lab) -> Result<()> {
    const ID: &str = "stays";
    lab.setup_tiny(ID, &[])?;
    let (vm, proxy) = (lab.vm_pid(ID)?, proxy(lab)?);
    ensure(vm.is_some(), || "there is no VMM".into())?;
    // An upgrade is a rename, and what ran goes on with what it had open.
    let program = lab.program.clone();
    lab.remote.put(&program, "/usr/local/bin/fireclaw", "755")?;
    lab.ok(&["doctor", "--fix"])?;
    same("the VM's process", &lab.vm_pid(ID)?, &vm)?;
    same("the proxy's process", &self::proxy(lab)?, &proxy)?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))?;
    lab.ok(&["shell", ID, "true"])?;
    lab.ok(&["restart", ID])?;
    same("health", &lab.field(ID, "health")?, &Value::from("up"))
}

fn proxy(lab: &Lab) -> Result<String> {
    Ok(lab.remote.ask(&["pgrep", "-f", "fireclaw.proxy.stays"])?.text())
}

/// How many.
const MANY: usize = 16;

/// All are begun at the same time, are listed meanwhile, and leave nothing.
pub fn sixteen(lab: &mut Lab) -> Result<()> {
    let list = lab.remote.script(include_str!("../files/many.sh"), &[&MANY.to_string(), lab.vmm])?;
    say::detail(&list);
    let rows = lab.json(&["list", "--json"])?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    same("instances", &rows.len(), &MANY)?;
    for field in ["vm_ip", "host_port"] {
        let mut values: Vec<String> = rows.iter().map(|row| row[field].to_string()).collect();
        values.sort();
        values.dedup();
        same(field, &values.len(), &MANY)?;
    }
    for row in &rows {
        same(&format!("health of {}", row["id"]), &row["health"], &Value::from("up"))?;
    }
    shared(lab)?;
    lab.remote.script(
        "seq 1 \"$1\" | xargs -P 8 -I N fireclaw destroy many-N --force --quiet",
        &[&MANY.to_string()],
    )?;
    same("list", &lab.json(&["list", "--json"])?, &Value::Array(Vec::new()))?;
    let links = lab.remote.must(&["ip", "-br", "link"])?;
    ensure(!links.lines().any(|line| line.starts_with("tmany") || line.starts_with("fc-br")), || {
        links.clone()
    })?;
    let tables = lab.remote.must(&["nft", "list", "tables"])?;
    ensure(!tables.contains("fireclaw"), || tables.clone())
}

/// They run on one file, which the host's memory holds once; a guest's own memory is nobody else's (docs/adr/0011).
fn shared(lab: &Lab) -> Result<()> {
    let said = lab.remote.script(include_str!("../files/shared.sh"), &[&MANY.to_string(), lab.vmm])?;
    same("bases", &median(&said, "inodes")?, &1)?;
    let (size, cached) = (median(&said, "size")?, median(&said, "cached")?);
    ensure(cached <= size.next_multiple_of(4096), || {
        format!("{cached} bytes of a base of {size} are cached")
    })?;
    say::line(&format!(
        "     {MANY} VMs on a base of {} MiB: {} MiB of it in the host's memory, once; a VM's own, median: {} MiB, \
         its share of files {} KiB",
        size >> 20,
        cached >> 20,
        median(&said, "own")? >> 10,
        median(&said, "shared")?,
    ));
    Ok(())
}
