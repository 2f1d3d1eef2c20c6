//! Tables for people. Renders text; prints nothing.

use comfy_table::{Table, presets};
use fireclaw_core::report::InstanceRow;

/// A table with a head, without lines, wide as its content.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    // The preset pads each line on both sides; a script that cuts columns wants neither.
    let mut lines = String::new();
    for line in text.lines() {
        lines.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        lines.push('\n');
    }
    lines
}

/// The rows of `list`.
pub fn fleet(rows: &[InstanceRow]) -> String {
    if rows.is_empty() {
        return "no instances; `fireclaw setup --instance my-bot` makes one\n".to_owned();
    }
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut text = table(
        &["ID", "VM IP", "PORT", "VM", "PROXY", "GUEST", "HEALTH", "VMM", "MODEL"],
        rows.iter().map(|row| {
            vec![
                row.id.clone(),
                dash(row.vm_ip.clone()),
                dash(row.host_port.map(|port| port.to_string())),
                row.vm.as_str().to_owned(),
                row.proxy.as_str().to_owned(),
                row.guest.as_str().to_owned(),
                row.health.as_str().to_owned(),
                dash(row.vmm.clone()),
                dash(row.model.clone()),
            ]
        }),
    );
    for row in rows {
        if let Some(error) = &row.error {
            text.push_str(&format!("\n{}: {error}\n", row.id));
        }
    }
    text
}
