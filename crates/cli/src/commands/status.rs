//! `status ID`

use fireclaw_core::{
    error::{Kind, Result},
    report::{BaseReport, ContainmentReport, StatusReport},
    spec::Rates,
};

use crate::{app::App, fleet};

/// Shows one instance in depth.
pub fn run(app: &App, id: &str, json: bool) -> Result<()> {
    let id = id.parse()?;
    let report = match app.store().load(&id) {
        Ok(record) => fleet::status(app, &record)?,
        // What cannot be read is a state like another; that there is none, or that somebody may not look, is an answer.
        Err(error) if error.get_kind() == Kind::Failed => fleet::status_of_damaged(app, &id, &error),
        Err(error) => return Err(error),
    };
    if json { app.ui.json(&report) } else { app.ui.result(&text(&report)) }
}

/// The report for a person.
pub fn text(report: &StatusReport) -> String {
    let row = &report.row;
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut lines: Vec<(&str, String)> = vec![
        ("instance", row.id.clone()),
        ("health", row.health.as_str().to_owned()),
        ("url", dash(&report.url)),
        ("vm", row.vm.as_str().to_owned()),
        ("proxy", row.proxy.as_str().to_owned()),
        ("guest", row.guest.as_str().to_owned()),
        ("model", dash(&row.model)),
        ("runtime", dash(&row.runtime)),
        ("image", dash(&row.image)),
        ("vmm", format!("{}, supervised by {}", dash(&row.vmm), dash(&row.supervisor))),
        ("address", dash(&row.vm_ip)),
    ];
    if let Some(allocation) = &report.allocation {
        lines.push((
            "network",
            format!("tap {} ({}) on {}", allocation.vm_tap, allocation.vm_mac, allocation.bridge),
        ));
    }
    if let (Some(vcpu), Some(mem)) = (report.vcpu, report.mem_mib) {
        lines.push(("size", format!("{vcpu} vCPU, {mem} MiB")));
    }
    if let Some(disk) = &report.disk {
        lines.push((
            "disk",
            format!("{} of {} in use on the host", mib(disk.allocated_bytes), mib(disk.size_bytes)),
        ));
        lines.extend(disk.base.as_ref().map(|base| ("base", base_text(base))));
    }
    if let Some(bytes) = row.snapshot_bytes {
        lines.push((
            "memory",
            format!("kept on the host's disk, {}; `fireclaw start {}` goes on with it", mib(bytes), row.id),
        ));
    }
    lines.extend(report.sleeps.as_ref().map(|when| ("sleeps", when.clone())));
    lines.extend(rates(&report.rates).map(|text| ("rates", text)));
    if let Some(seconds) = report.uptime_s {
        lines.push(("uptime", format!("{}h {:02}m {:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60)));
    }
    if let Some(containment) = &report.containment {
        lines.extend(containment_lines(containment));
    }
    lines.push(("created", dash(&row.created_at)));
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:<10} {value}\n"));
    }
    text.push_str("\nchecks\n");
    for check in &report.checks {
        text.push_str(&format!(
            "  {} {}: {}\n",
            if check.ok { "ok  " } else { "FAIL" },
            check.name,
            check.detail
        ));
        if let Some(hint) = &check.hint {
            text.push_str(&format!("       hint: {hint}\n"));
        }
    }
    text.push_str("\npaths\n");
    for (name, path) in &report.paths {
        text.push_str(&format!("  {name:<12} {}\n", path.display()));
    }
    text
}

/// What is limited, if anything.
fn rates(rates: &Rates) -> Option<String> {
    let all = [
        rates.net_mbit.map(|rate| format!("network {rate} Mbit/s each way")),
        rates.disk_iops.map(|rate| format!("disk {rate} operations/s")),
        rates.disk_mbyte.map(|rate| format!("disk {rate} MB/s")),
    ];
    let limited: Vec<String> = all.into_iter().flatten().collect();
    (!limited.is_empty()).then(|| limited.join(", "))
}

fn base_text(base: &BaseReport) -> String {
    if base.size_bytes.is_none() {
        return "missing".to_owned();
    }
    let of = if base.current { "as in the image" } else { "kept: the image was rebuilt or removed" };
    format!("{}, read-only and shared; {of}", mib(base.allocated_bytes))
}

fn containment_lines(report: &ContainmentReport) -> Vec<(&'static str, String)> {
    let list = |all: &[String], none: &str| if all.is_empty() { none.to_owned() } else { all.join(", ") };
    let allow = if report.egress == "allow" {
        format!(": {}", list(&report.allow, "nothing"))
    } else {
        String::new()
    };
    let refused =
        report.refused.map_or_else(String::new, |refused| format!("; {refused} refused by the sidecar"));
    let mut lines = vec![("egress", format!("{}{allow}{refused}", report.egress))];
    let mut keys = format!("{}: {}", report.keys, list(&report.providers, "none yet"));
    if let Some(budget) = report.budget_requests_per_hour {
        let used = report.requests_last_hour.map_or_else(|| "?".to_owned(), |used| used.to_string());
        keys.push_str(&format!("; {used} of {budget} requests in the last hour"));
    }
    lines.push(("keys", keys));
    for (provider, usage) in &report.usage {
        lines.push((
            "usage",
            format!(
                "{provider}: {} requests ({} failed), {} KiB up, {} KiB down, {} tokens in, {} out",
                usage.requests,
                usage.failed,
                usage.bytes_up >> 10,
                usage.bytes_down >> 10,
                usage.tokens.input,
                usage.tokens.output
            ),
        ));
    }
    lines
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
