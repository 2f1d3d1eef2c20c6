//! Attacks by root in a real guest with a real `OpenClaw`: at the broker that holds its keys, and under a policy of names. What the
//! tests' internet heard is the judge, and every way is seen to be open first.

use fireclaw_core::error::{Context, Error, Result};
use serde_json::{Value, json};

use super::{
    agent::token,
    guest::configuration,
    internet::HOST,
    world::{ID, World, ensure, same},
};
use crate::{attacker, say};

const ATTACK: &str = include_str!("files/attack.py");

/// Connections of the flood; the script ends it after some minutes at the latest.
const FLOOD: u32 = 100_000;

/// What the sidecar may ever have held in memory, in kB: a thousand connections and some.
const MEMORY_MAX: u64 = 40_000;
/// What it has when they have gone, in kB: what a few connections that come and go leave.
const MEMORY_AFTER: u64 = 8_000;

/// None gets through, nobody outside hears anything, and the gateway does not notice.
pub fn keys_and_names(world: &mut World) -> Result<()> {
    attack(world, "before")?;
    let mut held = attack(world, "keys").and_then(|said| attacker::judge(&said))?;
    world.ok(&["egress", ID, "set", "allow", "--allow", "allowed.test", "--allow", "*.wild.test"])?;
    let names = attack(world, "names");
    let log = world.ok(&["egress", ID, "log"])?.text();
    let status = world.status(ID)?;
    world.ok(&["egress", ID, "set", "public"])?;
    held += names.and_then(|said| attacker::judge(&said))?;
    silence(world)?;
    for refused in ["breach.test", "not the token", "dns", "tls", "http", "too many"] {
        ensure(log.contains(refused), || format!("nobody wrote down `{refused}`: {log}"))?;
    }
    same("the gateway's health", &status["health"], &Value::from("up"))?;
    let peak = memory("VmHWM:")?;
    ensure(peak < MEMORY_MAX, || format!("the sidecar has held {peak} kB"))?;
    world.until("the sidecar to give its memory back", 120, || Ok(memory("VmRSS:")? < MEMORY_AFTER))?;
    let after = memory("VmRSS:")?;
    say::line(&format!(
        "     {held} attacks, none got through; the sidecar held {peak} kB at most and {after} kB after"
    ));
    Ok(())
}

fn attack(world: &World, what: &str) -> Result<String> {
    let configuration = configuration(world)?;
    let url = &configuration["models"]["providers"]["anthropic"]["baseUrl"];
    let (gateway, port) = url
        .as_str()
        .and_then(address)
        .ok_or_else(|| Error::new("read", "the broker's address").because(url.to_string()))?;
    let all = json!({
        "what": what, "broker": [gateway, port], "gateway": gateway, "outside": HOST, "token": token(world)?, "flood": FLOOD,
    });
    // What JSON says of numbers, texts and lists, Python says alike.
    let script = [format!("WORLD = {all}\n").into_bytes(), attacker::script(ATTACK)].concat();
    let cmd = world.cmd(&["shell", ID, "sudo python3 -"]).stdin_bytes(script);
    let said = world.ask_cmd(cmd, &format!("shell … ({what})"))?;
    ensure(said.status.success(), || format!("{}; {}", said.text(), said.last_words()))?;
    Ok(said.text())
}

/// Of `http://ADDRESS:PORT/…`.
fn address(url: &str) -> Option<(&str, u16)> {
    let (address, port) = url.strip_prefix("http://")?.split('/').next()?.split_once(':')?;
    Some((address, port.parse().ok()?))
}

/// Nobody outside heard of what is marked; everybody heard the controls.
fn silence(world: &World) -> Result<()> {
    let internet = world.internet.as_ref().expect("the internet is open");
    for (file, control) in [("requests", "/control"), ("names", "www.wild.test")] {
        let path = internet.dir.join(file);
        let heard = || std::fs::read_to_string(&path).context("read", path.display());
        world.until(&format!("`{control}` among the {file}"), 10, || Ok(heard()?.contains(control)))?;
        let breach = heard()?.lines().find(|line| line.contains("breach")).map(str::to_owned);
        ensure(breach.is_none(), || format!("the internet heard {breach:?}"))?;
    }
    Ok(())
}

/// The sidecar's memory in kB, by a line of its process's status.
fn memory(what: &str) -> Result<u64> {
    let pid = World::process(&format!("proxy {ID}$"))?;
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).context("read", &path)?;
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Error::new("read", path).because(format!("`{what}` has no number")))
}
