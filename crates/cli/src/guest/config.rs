//! openclaw.json in the guest: read, merged, checked by OpenClaw, and put in place. Writes in the gateway's state folder.

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::{
        merge::{self, Base, Merged},
        paths::GuestFiles,
        settings::Setting,
    },
};
use fireclaw_host::exec::{Cmd, Output};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Guest, account::Owner, events::Events};

/// A configuration that is ready to be put in place.
pub(super) struct Configuration {
    merged: Merged,
    asked: Base,
    /// Whether there was one before.
    pub(super) replaces: bool,
}

/// The base file.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    asked: Base,
}

/// What was asked for last time. A configuration that is gone takes what was asked for with it: all is written again.
pub(super) fn base(guest: &Guest<'_>, files: &GuestFiles, owner: &Owner) -> Result<Option<Base>> {
    if !guest.files.exists(&owner.state.config) {
        return Ok(None);
    }
    let Some(text) = guest.files.read(&files.base)? else { return Ok(None) };
    let stored: Stored = serde_json::from_str(&text).context("read", files.base.display())?;
    Ok(Some(stored.asked))
}

/// Merges settings into the configuration that is there.
pub(super) fn prepare(
    guest: &Guest<'_>,
    owner: &Owner,
    base: Option<&Base>,
    settings: &[Setting],
) -> Result<Configuration> {
    let current = guest.files.read(&owner.state.config)?;
    let value = match &current {
        Some(text) => merge::parse_config(text).map_err(|error| {
            error
                .kind(Kind::Refused)
                .hint("mend ~/.openclaw/openclaw.json in the guest (`fireclaw shell`), or move it away for a new one")
        })?,
        None => Value::Object(Map::new()),
    };
    Ok(Configuration {
        merged: merge::merge(&value, base, settings),
        asked: merge::base(settings),
        replaces: current.is_some(),
    })
}

impl Configuration {
    /// Whether the file has to be written.
    pub(super) fn changed(&self) -> bool {
        self.merged.changed || !self.replaces
    }

    /// Keys that somebody changed by hand and that stay so.
    pub(super) fn kept(&self) -> Vec<String> {
        self.merged.kept.clone()
    }

    /// Writes the candidate beside the configuration.
    pub(super) fn write_candidate(&self, guest: &Guest<'_>, owner: &Owner) -> Result<()> {
        let text = merge::render_config(&self.merged.config);
        guest.files.prepare_owned(&owner.state.candidate, &text, &owner.account)
    }

    /// Remembers what was asked for, when the candidate is in its place: a crash between the two is found as a request that is new and already
    /// fulfilled.
    pub(super) fn remember(&self, guest: &Guest<'_>, files: &GuestFiles) -> Result<bool> {
        let stored = Stored { format: 1, asked: self.asked.clone() };
        let text = serde_json::to_string_pretty(&stored).context("render", files.base.display())? + "\n";
        guest.files.write(&files.base, &text, 0o600)
    }
}

/// Has OpenClaw check the candidate: the one start of its command line that a provisioning costs. Refused, the candidate is
/// removed and nothing has changed.
pub(super) fn validate(guest: &Guest<'_>, owner: &Owner, cmd: Cmd, events: &mut Events<'_>) -> Result<()> {
    events.step("check the configuration");
    let verdict = guest.exec.run(cmd).and_then(|output| judge(&output, events));
    if verdict.is_err() {
        guest.files.remove(&owner.state.candidate)?;
    }
    verdict
}

/// What `openclaw config validate --json` prints.
#[derive(Deserialize)]
struct Verdict {
    valid: bool,
    #[serde(default)]
    issues: Vec<Issue>,
    #[serde(default)]
    warnings: Vec<Issue>,
}

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    path: String,
    #[serde(default)]
    message: String,
}

impl Issue {
    fn text(&self) -> String {
        format!("{}: {}", self.path, self.message)
    }
}

fn judge(output: &Output, events: &mut Events<'_>) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    // A line of a plugin may come before the object.
    let verdict = said.find('{').and_then(|at| {
        serde_json::Deserializer::from_str(&said[at..])
            .into_iter::<Verdict>()
            .next()
            .and_then(std::result::Result::ok)
    });
    let refused = || {
        Error::new("change", "openclaw.json")
            .kind(Kind::Refused)
            .hint("nothing was changed; the gateway goes on with its old configuration")
    };
    match verdict {
        Some(verdict) if verdict.valid => {
            for warning in &verdict.warnings {
                // The secrets are in the gateway's environment, not in the checker's.
                if !warning.message.starts_with("Missing env var") {
                    events.warning(format!("openclaw.json: {}", warning.text()));
                }
            }
            Ok(())
        }
        Some(verdict) => {
            let issues: Vec<String> = verdict.issues.iter().map(Issue::text).collect();
            Err(refused().because(format!("OpenClaw refuses it: {}", issues.join("; "))))
        }
        None if output.last_words().contains("unknown command") => {
            events.warning("this OpenClaw cannot check a configuration; the gateway itself will");
            Ok(())
        }
        None => Err(refused().because(format!(
            "OpenClaw could not check it (exit code {}): {}",
            output.code(),
            output.last_words()
        ))),
    }
}
