//! What a gateway's probe addresses say, as one word. Used inside the guest and through the host's proxy. Touches nothing:
//! whoever asks brings the way to ask.
//!
//! OpenClaw 2026.8 and later answer `/startupz` (the start gate) and `/readyz` (channels too) in JSON; before, only
//! `/healthz` and `/health`. An address that a version does not know gives 404 or, with status 200, the page of the UI: only a JSON
//! body counts.

use serde::Serialize;
use serde_json::Value;

use crate::report::Health;

/// The start gate.
pub const STARTUP: &str = "/startupz";
/// Liveness.
pub const LIVE: &str = "/healthz";
/// Readiness, channels included.
pub const READY: &str = "/readyz";

/// The answer to one GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nobody answered, and why.
    Silence(String),
    /// An HTTP response.
    Http {
        /// The status code.
        status: u16,
        /// The body.
        body: String,
    },
}

/// What the probes said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// In one word.
    pub health: Health,
    /// Whether the start gate is passed, which is what a setup waits for: channels may still fail.
    pub started: bool,
    /// OpenClaw's version, where it tells one (to local callers).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Asks a gateway: two GETs when it is new and runs, one when it does not answer, two when it is old.
pub fn read(mut get: impl FnMut(&str) -> Answer) -> Reading {
    let startup = get(STARTUP);
    if needs_live(&startup) {
        return judge(&startup, Some(&get(LIVE)), None);
    }
    let reading = judge(&startup, None, None);
    if reading.started { judge(&startup, None, Some(&get(READY))) } else { reading }
}

/// Whether the answer at [`STARTUP`] is from a gateway that has no such gate, so that [`LIVE`] decides.
pub fn needs_live(startup: &Answer) -> bool {
    matches!(startup, Answer::Http { .. }) && json(startup).is_none_or(|body| body.get("status").is_none())
}

/// Puts the answers together. `live` counts only where [`needs_live`] says so, `ready` only for a started gateway.
pub fn judge(startup: &Answer, live: Option<&Answer>, ready: Option<&Answer>) -> Reading {
    if let Answer::Silence(why) = startup {
        return Reading::new(Health::Down, false, Some(why.clone()));
    }
    let mut reading = match json(startup).filter(|body| body.get("status").is_some()) {
        Some(body) => startup_gate(&body),
        None => return before_start_gates(live.unwrap_or(startup)),
    };
    let not_ready =
        ready.and_then(json).filter(|body| body.get("ready").and_then(Value::as_bool) == Some(false));
    if let Some(body) = not_ready.filter(|_| reading.started) {
        reading.health = Health::Degraded;
        reading.detail = Some(failing(&body));
    }
    reading
}

impl Reading {
    fn new(health: Health, started: bool, detail: Option<String>) -> Self {
        Self { health, started, version: None, detail }
    }
}

fn startup_gate(body: &Value) -> Reading {
    let status = body.get("status").and_then(Value::as_str).unwrap_or_default();
    let started = status == "started" && body.get("ok").and_then(Value::as_bool) != Some(false);
    let detail = (!started).then(|| match body.get("pendingReason").and_then(Value::as_str) {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_owned(),
    });
    let health = if started { Health::Up } else { Health::Starting };
    Reading {
        version: body.get("version").and_then(Value::as_str).map(str::to_owned),
        ..Reading::new(health, started, detail)
    }
}

/// A gateway without start gates is started when it is live.
fn before_start_gates(live: &Answer) -> Reading {
    let ok = json(live).is_some_and(|body| body.get("ok").and_then(Value::as_bool) == Some(true));
    match live {
        _ if ok => Reading::new(Health::Up, true, None),
        Answer::Silence(why) => Reading::new(Health::Down, false, Some(why.clone())),
        Answer::Http { status, .. } => Reading::new(
            Health::Down,
            false,
            Some(format!("status {status} and no JSON: not a gateway's answer")),
        ),
    }
}

fn failing(body: &Value) -> String {
    let names: Vec<&str> = body
        .get("failing")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() { "not ready".to_owned() } else { format!("not ready: {}", names.join(", ")) }
}

fn json(answer: &Answer) -> Option<Value> {
    let Answer::Http { body, .. } = answer else { return None };
    serde_json::from_str::<Value>(body).ok().filter(Value::is_object)
}

/// What `fireclaw guest health` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// The gateway's unit.
    pub unit: GatewayUnit,
    /// What its probes said. `detail` also tells when the unit is why.
    #[serde(flatten)]
    pub reading: Reading,
    /// OpenClaw refused its configuration or its state: the unit stays down until that is mended.
    pub refused: bool,
    /// The last lines of the gateway's log, when it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// A unit as systemd knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatewayUnit {
    /// Its name.
    pub name: String,
    /// `loaded`, `not-found`, …
    pub load: String,
    /// `active`, `inactive`, `activating`, `deactivating`, `failed`, …
    pub active: String,
    /// `running`, `auto-restart`, …
    pub sub: String,
    /// `success`, `exit-code`, `signal`, `oom-kill`, …
    pub result: String,
    /// The exit status of the last main process; 0 while the first one runs.
    pub exit_status: i32,
    /// How often it was started again by itself.
    pub restarts: u32,
}

/// The properties to ask `systemctl show` for.
pub const UNIT_PROPERTIES: &str = "LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts";

impl GatewayUnit {
    /// Reads the output of `systemctl show --property=…` for a unit.
    pub fn parse(name: &str, text: &str) -> Self {
        let find = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
        };
        Self {
            name: name.to_owned(),
            load: find("LoadState").to_owned(),
            active: find("ActiveState").to_owned(),
            sub: find("SubState").to_owned(),
            result: find("Result").to_owned(),
            exit_status: find("ExecMainStatus").parse().unwrap_or(0),
            restarts: find("NRestarts").parse().unwrap_or(0),
        }
    }

    /// Whether a process of it may be there.
    pub fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "deactivating" | "reloading" | "refreshing")
    }

    /// Whether its last run failed: it gave up, or it waits to be started again.
    pub fn has_failed(&self) -> bool {
        self.active == "failed" || self.sub == "auto-restart"
    }

    /// Whether it is up, or about to be without anybody's doing.
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading" | "refreshing")
    }
}

impl GatewayUnit {
    fn why_down(&self, refused: bool) -> String {
        let Self { name, load, active, sub, result, exit_status, restarts } = self;
        match (load.as_str(), sub.as_str()) {
            _ if refused => format!(
                "OpenClaw will not start (exit code {exit_status}): its configuration or its state needs mending"
            ),
            ("not-found", _) => format!("there is no {name}"),
            (_, "auto-restart") => format!(
                "{name} ended with {exit_status} ({result}) and is started again, for the {}. time",
                restarts + 1
            ),
            _ => format!("{name} is {active} ({result})"),
        }
    }
}

impl HealthReport {
    /// A unit's state and its gateway's answers as one report.
    pub fn new(unit: GatewayUnit, mut reading: Reading, log: Vec<String>) -> Self {
        let refused = unit.active == "failed" && unit.exit_status == super::EXIT_CONFIGURATION;
        if reading.health == Health::Down {
            if unit.is_up() && !unit.has_failed() {
                reading.health = Health::Starting;
            } else {
                reading.detail = Some(unit.why_down(refused));
            }
        }
        Self { unit, reading, refused, log }
    }
}

#[cfg(test)]
mod tests;
