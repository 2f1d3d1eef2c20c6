//! A whole turn of the agent in the guest, against the provider's stand-in.

use fireclaw_core::error::{Context, Result};

use super::{
    internet::{self, ANSWER},
    setup::NASTY_KEY,
    world::{World, ensure},
};

/// The user points the provider elsewhere by hand, asks, and reads the answer; the provider saw the key.
pub fn turn(world: &mut World) -> Result<()> {
    let url = format!("http://{}:{}", internet::HOST, internet::PROVIDER);
    let edit = format!(
        "sed -i '0,/{{/s||{{\\n  \"models\": {{\"providers\": {{\"anthropic\": {{\"baseUrl\": \"{url}\", \"models\": []}}}}}},|' \
         /home/ubuntu/.openclaw/openclaw.json"
    );
    world.guest(&edit)?;
    // Through the running gateway, as a person in the VM would ask. The gateway reads its configuration anew by itself.
    let said = world.guest("openclaw agent --agent main -m 'Has it landed?'")?;
    ensure(said.contains(ANSWER), || format!("the agent did not give the provider's answer: {said}"))?;
    let dir = &world.internet.as_ref().expect("the internet is open").dir;
    world.until("the recorded request", 10, || Ok(dir.join("requests").exists()))?;
    let requests = std::fs::read_to_string(dir.join("requests")).context("read", "the recorded requests")?;
    ensure(requests.contains("/v1/messages"), || "no request for a message".into())?;
    ensure(requests.contains(&format!("key: {NASTY_KEY}\n")), || {
        "the provider did not see the key byte for byte".into()
    })?;
    ensure(requests.contains("Has it landed?"), || "the provider did not see the question".into())
}
