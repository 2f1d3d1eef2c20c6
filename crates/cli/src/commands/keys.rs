//! `keys ID set|rotate|remove`

use std::io::{IsTerminal, Read};

use fireclaw_core::{
    broker::Provider,
    error::{Context, Error, Result},
    id::InstanceId,
    secret::Secret,
    spec::value,
};

use crate::{
    app::App,
    args::{KeyArgs, KeysAction, Output},
    containment, secrets,
};

/// Changes a key of the broker; in force when this returns, for the next request.
pub fn run(app: &App, id: &str, action: &KeysAction) -> Result<()> {
    let id: InstanceId = id.parse()?;
    match action {
        KeysAction::Set(args) => change(app, &id, args.provider.into(), Some(key(args)?), false, args.output),
        KeysAction::Rotate(args) => {
            change(app, &id, args.provider.into(), Some(key(args)?), true, args.output)
        }
        KeysAction::Remove { provider, output } => change(app, &id, (*provider).into(), None, true, *output),
    }
}

/// From a file, the variable, or standard input; never from the command line, which every user of the host can read.
fn key(args: &KeyArgs) -> Result<Secret> {
    let provider: Provider = args.provider.into();
    let flag = provider.flag();
    let variable = format!("{}_API_KEY", provider.id().to_uppercase());
    let text = if let Some(file) = &args.file {
        secrets::read("--file", file)?
    } else if let Some(text) = std::env::var(&variable).ok().filter(|text| !text.is_empty()) {
        text
    } else if std::io::stdin().is_terminal() {
        return Err(Error::refused(flag, "<hidden>", "was not given").hint(format!(
            "use --file FILE, {variable}, or a pipe: `pass show key | fireclaw keys ID set {provider}`"
        )));
    } else {
        let mut text = String::new();
        std::io::stdin().take(64 << 10).read_to_string(&mut text).context("read", "standard input")?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    };
    value::api_key(flag, &text)
}

fn change(
    app: &App,
    id: &InstanceId,
    provider: Provider,
    key: Option<Secret>,
    must_be_there: bool,
    output: Output,
) -> Result<()> {
    containment::need_broker(&app.store().load(id)?)?;
    app.need_root()?;
    let mut progress = app.ui.progress();
    let _lock = app.hold_existing(id, &mut progress)?;
    let mut record = app.store().load(id)?;
    containment::need_broker(&record)?;
    let known = provider.key(&record.keys).is_some();
    if must_be_there && !known {
        return Err(Error::refused("provider", provider, "has no key here")
            .hint(format!("`fireclaw keys {id} set {provider}` gives it one")));
    }
    let told = containment::guest_keys(&record).1.contains_key(provider.id());
    let brings = key.is_some();
    provider.set_key(&mut record.keys, key);
    app.warn_of_unknown_keys(&record);
    app.store().save(&record)?;
    containment::apply(app, &record)?;
    if brings && !told {
        app.ui.note(&format!("the guest learns of {provider} with the next `fireclaw provision {id}`"));
    }
    if output.json {
        return app.ui.json(&containment::report(app, &record)?);
    }
    app.ui.note(&format!("{provider}: {}", if brings { "key in force" } else { "key removed" }));
    Ok(())
}
