//! A clone of the shared instance, with a real OpenClaw: refused while it runs, then beside it.

use fireclaw_core::error::Result;
use serde_json::Value;

use super::world::{ID, World, ensure, has_started, same};
use crate::say;

/// The clone.
const CLONE: &str = "its-clone";

/// What tells guests apart, one value a line.
const IDENTITY: &str = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; hostname";

/// The source is stopped before and after.
pub fn clone(world: &mut World) -> Result<()> {
    world.ok(&["start", ID])?;
    let source = world.guest(IDENTITY)?;
    world.guest("echo learnt >/home/ubuntu/of-clone; sync")?;
    world.refused(2, &["clone", ID, CLONE], "is running")?;
    world.refused(2, &["clone", ID, ID], "exists already")?;
    world.refused(3, &["clone", "nobody", CLONE], "no such instance")?;
    world.ok(&["stop", ID])?;
    let plan = world.ok(&["clone", ID, CLONE, "--dry-run", "--without-channels"])?.text();
    ensure(plan.contains("renew identity") && !world.fc(CLONE, "").exists(), || plan.clone())?;
    let report = world.json(&["clone", ID, CLONE, "--without-channels", "--vm-mem-mib", "2048", "--json"])?;
    for step in report["steps"].as_array().into_iter().flatten() {
        say::line(&format!("    {:<24} {:>8} ms", step["name"].as_str().unwrap_or(""), step["ms"]));
    }
    ensure(has_started(&report), || report.to_string())?;
    let ask = |words: &str| Ok::<_, fireclaw_core::error::Error>(world.ok(&["shell", CLONE, words])?.text());
    let clone = ask(IDENTITY)?;
    for (one, other) in source.lines().zip(clone.lines()) {
        ensure(one != other, || format!("both are {one}"))?;
    }
    let tokens = [ID, CLONE].map(|id| world.ok(&["token", id]).map(|said| said.text()));
    let [one, other] = tokens;
    ensure(one? != other?, || "they have one token".into())?;
    // The gateway of the clone takes the clone's token alone.
    let env = ask(&format!("sudo cat /etc/fireclaw/openclaw-{CLONE}.env"))?;
    ensure(!env.contains(&world.ok(&["token", ID])?.text()), || "it has its source's token".into())?;
    same("what the source had written", &ask("cat /home/ubuntu/of-clone")?, &"learnt".to_owned())?;
    let config = ask("cat /home/ubuntu/.openclaw/openclaw.json")?;
    let config: Value = serde_json::from_str(&config).unwrap_or_default();
    same("telegram", &config["channels"]["telegram"]["enabled"], &Value::from(false))?;
    let origin = format!("http://127.0.0.1:{}", report["host_port"]);
    same("origin", &config["gateway"]["controlUi"]["allowedOrigins"][0], &Value::from(origin))?;
    world.ok(&["destroy", CLONE, "--force"])?;
    ensure(world.fc(ID, "images/state.ext4").exists(), || "the source went with its clone".into())
}
