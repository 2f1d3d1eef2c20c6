//! A whole turn of the agent in the guest, against the provider's stand-in, with the provider's key on the host.

use std::path::PathBuf;

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::{
    internet::ANSWER,
    search,
    setup::NASTY_KEY,
    world::{ID, World, ensure, same},
};
use crate::say;

/// The user asks and reads the answer; the provider saw the key, byte for byte, and the guest's own token not at all.
pub fn turn(world: &mut World) -> Result<()> {
    // Through the running gateway, as a person in the VM would ask.
    let said = world.guest("openclaw agent --agent main -m 'Has it landed?'")?;
    ensure(said.contains(ANSWER), || format!("the agent did not give the provider's answer: {said}"))?;
    let dir = &world.internet.as_ref().expect("the internet is open").dir;
    world.until("the recorded request", 10, || Ok(dir.join("requests").exists()))?;
    let requests = std::fs::read_to_string(dir.join("requests")).context("read", "the recorded requests")?;
    ensure(requests.contains("/v1/messages"), || "no request for a message".into())?;
    ensure(requests.contains(&format!("key: {NASTY_KEY}\n")), || {
        "the provider did not see the key byte for byte".into()
    })?;
    ensure(requests.contains("Has it landed?"), || "the provider did not see the question".into())?;
    ensure(!requests.contains(&token(world)?), || "the provider saw the guest's token".into())?;
    let status = world.status(ID)?;
    same("the key mode", &status["containment"]["keys"], &Value::from("broker"))?;
    let usage = &status["containment"]["usage"]["anthropic"];
    ensure(usage["requests"].as_u64() >= Some(1), || format!("the use of the key is not counted: {status}"))
}

/// What the guest shows to the broker.
pub fn token(world: &World) -> Result<String> {
    let record = std::fs::read_to_string(world.state(ID, ".env")).context("read", ".env")?;
    let token = record.lines().find_map(|line| line.strip_prefix("BROKER_TOKEN="));
    ensure(token.is_some_and(|token| token.len() > 20), || {
        "the record holds no token for the broker".into()
    })?;
    Ok(token.unwrap_or_default().to_owned())
}

/// Neither on its disk nor in its memory after it was used; the token, which the guest must have, is in both.
pub fn key_is_nowhere(world: &mut World) -> Result<()> {
    world.guest("sync")?;
    let disk = PathBuf::from(world.status(ID)?["paths"]["disk"].as_str().unwrap_or_default());
    let (pid, token) = (world.vm_pid(ID)?, token(world)?);
    for (place, found) in [
        ("disk", search::in_file(&disk, token.as_bytes())?.is_some()),
        ("memory", search::in_memory(pid, token.as_bytes())?.is_some()),
    ] {
        ensure(found, || format!("the search does not find the guest's own token in its {place}"))?;
    }
    let escaped = serde_json::to_string(NASTY_KEY).context("escape", "the key")?;
    for key in [NASTY_KEY, escaped.trim_matches('"')] {
        let at = search::in_file(&disk, key.as_bytes())?;
        ensure(at.is_none(), || format!("the key is on the guest's disk at byte {at:?}"))?;
        let at = search::in_memory(pid, key.as_bytes())?;
        ensure(at.is_none(), || format!("the key is in the VM's memory: {at:?}"))?;
    }
    say::detail("    searched disk and memory, for the key and for the key as JSON has it");
    Ok(())
}
