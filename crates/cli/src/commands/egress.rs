//! `egress ID show|set|allow|deny|log`

use fireclaw_core::{
    egress::EgressPolicy,
    error::{Error, Result},
    id::InstanceId,
    render::nft,
    sidecar::Refusal,
    spec::EgressMode,
    state::InstanceRecord,
};
use fireclaw_host::nft as firewall;
use serde::Serialize;

use crate::{app::App, args::EgressAction, containment, ui::table};

/// Shows or changes the policy; a change is in force when this returns.
pub fn run(app: &App, id: &str, action: &EgressAction) -> Result<()> {
    let id: InstanceId = id.parse()?;
    match action {
        EgressAction::Show(json) => show(app, &app.store().load(&id)?, json.json),
        EgressAction::Log(json) => log(app, &app.store().load(&id)?, json.json),
        EgressAction::Set { mode, allow, output } => {
            let change = |record: &InstanceRecord| record.containment.egress.changed(Some(*mode), allow);
            set(app, &id, output.json, change)
        }
        EgressAction::Allow { rules, output } => {
            set(app, &id, output.json, |record| listed(record)?.with(rules))
        }
        EgressAction::Deny { rules, output } => {
            set(app, &id, output.json, |record| listed(record)?.without(rules))
        }
    }
}

/// The policy, when there is a list in force that can be added to.
fn listed(record: &InstanceRecord) -> Result<EgressPolicy> {
    let policy = &record.containment.egress;
    if policy.mode == EgressMode::Allow {
        return Ok(policy.clone());
    }
    Err(Error::refused("egress", policy.mode, "is no list").hint(format!(
        "`fireclaw egress {} set allow --allow RULE` makes it one; then only the list is let through",
        record.id
    )))
}

fn set(
    app: &App,
    id: &InstanceId,
    json: bool,
    change: impl Fn(&InstanceRecord) -> Result<EgressPolicy>,
) -> Result<()> {
    change(&app.store().load(id)?)?;
    app.need_root()?;
    let mut progress = app.ui.progress();
    let _lock = app.hold_existing(id, &mut progress)?;
    // Read again: recovery may have changed it.
    let mut record = app.store().load(id)?;
    record.containment.egress = change(&record)?;
    if containment::needs_own_services(&record) {
        containment::need_own_services(app, id, "change", format!("the egress policy of `{id}`"))?;
    }
    containment::warn(app, &record);
    app.warn_of_unknown_keys(&record);
    app.store().save(&record)?;
    containment::apply(app, &record)?;
    show(app, &record, json)
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    mode: EgressMode,
    allow: &'a [fireclaw_core::egress::Rule],
}

fn show(app: &App, record: &InstanceRecord, json: bool) -> Result<()> {
    let policy = &record.containment.egress;
    if json {
        return app.ui.json(&Shown { id: record.id.as_str(), mode: policy.mode, allow: &policy.allow });
    }
    let mut text = format!("{}\n", policy.mode);
    for rule in &policy.allow {
        text.push_str(&format!(
            "  {rule}{}\n",
            match rule {
                fireclaw_core::egress::Rule::Preset(preset) => format!("  ({})", preset.hosts().join(", ")),
                _ => String::new(),
            }
        ));
    }
    if policy.mode != EgressMode::Allow && !policy.allow.is_empty() {
        text.push_str("the list rests: `egress ID set allow` puts it into force\n");
    }
    app.ui.result(&text)
}

/// What the sidecar refused by name, and what the firewall refused by address.
fn log(app: &App, record: &InstanceRecord, json: bool) -> Result<()> {
    let mut all = firewall::refused(&*app.host.exec, record.vm_ip)?;
    all.extend(containment::ask(app, record).map(|report| report.refusals).unwrap_or_default());
    if json {
        return app.ui.json(&all);
    }
    if all.is_empty() {
        app.ui.note(&format!("nothing was refused (rules of `{}` in force: {})", record.id, nft::TABLE));
        return Ok(());
    }
    app.ui.result(&table(&["TIMES", "VIA", "WHAT", "WHY"], all.iter().map(row)))
}

fn row(refusal: &Refusal) -> Vec<String> {
    vec![refusal.times.to_string(), refusal.via.clone(), refusal.what.clone(), refusal.why.clone()]
}
