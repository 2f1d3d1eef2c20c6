//! What fireclaw costs on this host, against the same done by hand in the same run. The figures are printed, for
//! docs/BENCHMARKS.md; only what cannot be on any machine fails.

use fireclaw_core::error::{Error, Result};

use crate::{
    lab::host::{Lab, same},
    say,
};

const ID: &str = "counted";

/// A start, the memory of what stays, a list of a hundred.
pub fn figures(lab: &mut Lab) -> Result<()> {
    lab.setup_tiny(ID, &[])?;
    resident(lab)?;
    let said = lab.remote.script(include_str!("../files/overhead.sh"), &[ID])?;
    let (ours, by_hand) = (median(&said, "fireclaw")?, median(&said, "hand")?);
    say::line(&format!("     start to the VMM's API, median of 5: {ours} ms; by hand {by_hand} ms"));
    let said = lab.remote.script(include_str!("../files/hundred.sh"), &[ID])?;
    say::line(&format!(
        "     list of 100 instances with their units, median of 5: {} ms",
        median(&said, "list")?
    ));
    same("instances", &said.lines().last().unwrap_or_default(), &"100")
}

/// The processes of ours that stay for one idle instance: the proxy, and nothing else.
fn resident(lab: &Lab) -> Result<()> {
    let pids = lab.remote.must(&["pgrep", "-x", "fireclaw"])?;
    same("processes of ours", &pids.lines().count(), &1)?;
    let status = lab.remote.must(&["cat", &format!("/proc/{}/status", pids.trim())])?;
    for name in ["VmRSS", "RssAnon", "RssFile"] {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        say::line(&format!("     the proxy of an idle instance, {}", line.replace('\t', " ")));
    }
    Ok(())
}

/// The value in the middle of those that lines of this name give.
pub fn median(said: &str, of: &str) -> Result<u64> {
    let values = sorted(said, of)?;
    Ok(values[values.len() / 2])
}

/// The largest of them.
pub fn worst(said: &str, of: &str) -> Result<u64> {
    let values = sorted(said, of)?;
    Ok(values[values.len() - 1])
}

/// At least one.
fn sorted(said: &str, of: &str) -> Result<Vec<u64>> {
    let mut values: Vec<u64> =
        said.lines().filter_map(|line| line.strip_prefix(of)?.trim().parse().ok()).collect();
    values.sort_unstable();
    if values.is_empty() {
        return Err(Error::new("measure", of.to_owned()).because(format!("the script said: {said}")));
    }
    Ok(values)
}
