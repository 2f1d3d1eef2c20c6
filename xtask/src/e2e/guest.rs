//! What is seen and changed inside the guest.

use fireclaw_core::error::{Context, Result};
use serde_json::{Value, json};

use super::{
    agent, internet,
    setup::{NASTY_KEY, NASTY_MODEL},
    world::{ID, World, ensure, same},
};
use crate::say;

/// Exit codes, streams and bytes come through.
pub fn shell(world: &mut World) -> Result<()> {
    same("whoami", &world.guest("whoami")?.as_str(), &"ubuntu")?;
    for code in [0, 1, 3, 42, 255] {
        world.expect(code, &["shell", ID, &format!("exit {code}")])?;
    }
    let output = world.ok(&["shell", ID, "printf out; printf err >&2"])?;
    same("stdout", &output.stdout, &b"out".to_vec())?;
    same("stderr", &output.stderr, &b"err".to_vec())?;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let cmd = world.cmd(&["shell", ID, "cat"]).stdin_bytes(bytes.clone());
    let back = world.ask_cmd(cmd, "shell … cat (300,000 bytes)")?;
    ensure(back.stdout == bytes, || format!("{} bytes came back and differ", back.stdout.len()))?;
    // The words of a command, as with ssh.
    same("words", &world.ok(&["shell", ID, "echo", "a", "b"])?.text().as_str(), &"a b")?;
    Ok(())
}

/// A link, and what is told of where it leads. Node follows it where it looks, and OpenClaw's modules are not looked for, but for those
/// whose importer was named with a query: what follows it is no path.
const LINKED: &str = "set -eu
    cd \"$(mktemp -d)\"
    for folder in openclaw/dist other/dist; do
        mkdir -p $folder
        echo 'export const at = import.meta.url.split(\"/\").pop()' > $folder/real.mjs
        ln -s real.mjs $folder/link.mjs
        echo 'export { at } from \"./link.mjs\"' > $folder/again.mjs
        echo 'import { at } from \"./link.mjs\"
            import { at as again } from \"./again.mjs?at=/other/place/\"
            console.log(at, again)' > $folder/main.mjs
        /opt/openclaw/node/bin/node --import /usr/local/lib/fireclaw/preload.mjs $folder/main.mjs
    done";

/// The script that is loaded before OpenClaw does its work in the image's Node.
pub fn preload(world: &mut World) -> Result<()> {
    same("where modules are", &world.guest(LINKED)?.as_str(), &"link.mjs real.mjs\nreal.mjs real.mjs")?;
    let unit = world.guest(&format!("systemctl cat openclaw-{ID}.service"))?;
    ensure(unit.contains("--import /usr/local/lib/fireclaw/preload.mjs"), || unit.clone())
}

/// Nothing of the boot was left out because units wait for one another, nothing failed, and names are resolved by who should.
pub fn boot(world: &mut World) -> Result<()> {
    let skipped =
        world.guest("sudo journalctl -b --no-pager -o cat _PID=1 | grep -ci 'ordering cycle' || true")?;
    same("units left out of an ordering cycle", &skipped.trim(), &"0")?;
    let failed = world.guest("systemctl list-units --failed --no-legend --plain")?;
    same("units that failed", &failed.trim(), &"")?;
    let needed = "systemctl is-active fireclaw-seed ssh systemd-networkd systemd-resolved";
    same("the units of a boot", &world.guest(needed)?.trim(), &"active\nactive\nactive\nactive")
}

/// The environment of the running gateway.
fn gateway_environment(world: &World) -> Result<Vec<String>> {
    let unit = format!("openclaw-{ID}.service");
    let pid = world.guest(&format!("systemctl show -p MainPID --value {unit}"))?;
    let raw = world.ok(&["shell", ID, &format!("sudo cat /proc/{pid}/environ")])?.stdout;
    Ok(String::from_utf8_lossy(&raw).split('\0').map(str::to_owned).collect())
}

/// OpenClaw's configuration in the guest.
pub fn configuration(world: &World) -> Result<Value> {
    let text = world.guest("cat /home/ubuntu/.openclaw/openclaw.json")?;
    serde_json::from_str(&text).context("read", "openclaw.json")
}

/// Values that a shell would choke on are in the gateway as they were said.
pub fn values(world: &mut World) -> Result<()> {
    let environment = gateway_environment(world)?;
    let wanted = format!("ANTHROPIC_API_KEY={}", agent::token(world)?);
    ensure(environment.contains(&wanted), || "the gateway has not the broker's token for a key".into())?;
    let modes =
        world.guest("stat -c '%a %U %n' /home/ubuntu/.openclaw /home/ubuntu/.openclaw/openclaw.json")?;
    ensure(modes.contains("700 ubuntu /home/ubuntu/.openclaw\n"), || modes.clone())?;
    ensure(modes.contains("600 ubuntu /home/ubuntu/.openclaw/openclaw.json"), || modes.clone())?;
    let configuration = configuration(world)?;
    same(
        "the model",
        &configuration["agents"]["defaults"]["model"]["primary"],
        &Value::from("anthropic/claude-opus-4-6"),
    )?;
    let origins = configuration["gateway"]["controlUi"]["allowedOrigins"].to_string();
    ensure(origins.contains("http://127.0.0.1:28891") && origins.contains("http://localhost:28891"), || {
        origins.clone()
    })
}

/// From inside: the internet is there; the host, the LAN and the metadata service are not.
pub fn walls(world: &mut World) -> Result<()> {
    let reach = |host: &str, port: u16| -> Result<bool> {
        // Bash's own sockets: no tool of the guest is needed.
        let command = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/{port}'");
        Ok(world.ask(&["shell", ID, &command])?.status.success())
    };
    ensure(reach(&internet::HOST.to_string(), internet::PROVIDER)?, || {
        "the guest cannot reach the internet".into()
    })?;
    // The bridge's address with the proxy's port, and a service that listens on all addresses of the host.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").context("listen on", "a port of the host")?;
    let port = listener.local_addr().context("read", "the port")?.port();
    for (host, port, what) in [
        ("172.30.0.1", port, "a service of the host by the bridge's address"),
        ("203.0.113.1", port, "a service of the host by another address"),
        ("169.254.169.254", internet::PROVIDER, "the metadata service"),
        ("192.168.77.10", internet::PROVIDER, "a host of the LAN"),
    ] {
        ensure(!reach(host, port)?, || format!("the guest reaches {what}"))?;
    }
    Ok(())
}

/// Changes arrive, hand edits stay, a second run changes nothing.
pub fn provision(world: &mut World) -> Result<()> {
    let elsewhere = format!("http://{}:{}", internet::HOST, internet::PROVIDER);
    world.guest(&format!(
        "python3 -c 'import json; path = \"/home/ubuntu/.openclaw/openclaw.json\"; all = json.load(open(path)); \
         all[\"models\"][\"providers\"][\"minimax\"] = {{\"baseUrl\": \"{elsewhere}\", \"models\": []}}; \
         json.dump(all, open(path, \"w\"))'"
    ))?;
    let report = world.json(&[
        "provision",
        ID,
        "--json",
        "--model",
        NASTY_MODEL,
        "--skills",
        "github,tmux",
        "--telegram-token",
        "123456:ABC-def_1",
        "--telegram-users",
        "42,43",
        "--openai-api-key",
        "sk-openai-1",
        "--keys",
        "guest",
        "--skip-browser-install",
    ])?;
    same("model", &report["model"], &Value::from(NASTY_MODEL))?;
    let seen = configuration(world)?;
    same("the model", &seen["agents"]["defaults"]["model"]["primary"], &Value::from(NASTY_MODEL))?;
    same("the skills", &seen["skills"]["allowBundled"], &json!(["github", "tmux"]))?;
    same("the users", &seen["channels"]["telegram"]["allowFrom"].to_string().contains("42"), &true)?;
    ensure(seen.to_string().contains(&elsewhere), || "the edited provider address was lost".into())?;
    ensure(!seen.to_string().contains("sk-openai-1"), || "a key is in openclaw.json".into())?;
    let environment = gateway_environment(world)?;
    ensure(environment.contains(&"OPENAI_API_KEY=sk-openai-1".to_owned()), || {
        "the new key did not arrive".into()
    })?;
    ensure(environment.contains(&format!("ANTHROPIC_API_KEY={NASTY_KEY}")), || {
        "the old key did not arrive as it is".into()
    })?;
    // Nothing to change: no restart.
    let pid = world.guest(&format!("systemctl show -p MainPID --value openclaw-{ID}.service"))?;
    let begun = std::time::Instant::now();
    world.ok(&["provision", ID])?;
    say::detail(&format!("    a provision without changes took {:.1} s", begun.elapsed().as_secs_f64()));
    let again = world.guest(&format!("systemctl show -p MainPID --value openclaw-{ID}.service"))?;
    same("the gateway's process", &again, &pid)
}

/// What is refused has changed nothing, neither here nor in the guest.
pub fn provision_refused(world: &mut World) -> Result<()> {
    let record = std::fs::read_to_string(world.state(ID, ".env")).context("read", ".env")?;
    let before = configuration(world)?;
    world.refused(2, &["provision", ID, "--model", "nonsense"], "model")?;
    world.refused(2, &["provision", ID, "--telegram-users", ""], "telegram-users")?;
    world.refused(2, &["provision", ID, "--openclaw-image", "x:1"], "native")?;
    // These VMs run on QEMU.
    world.refused(2, &["provision", ID, "--idle-after", "30m"], "qemu")?;
    world.refused(2, &["hibernate", ID], "qemu")?;
    same("the record", &std::fs::read_to_string(world.state(ID, ".env")).context("read", ".env")?, &record)?;
    same("openclaw.json", &configuration(world)?, &before)
}
