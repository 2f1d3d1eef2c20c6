//! The gateway's secrets as an environment file of systemd, and the one of them that OpenClaw's command line needs as a line of
//! `~/.openclaw/.env`. Touches nothing.

use super::protocol::ProvisionRequest;

/// The gateway's token.
pub const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";
/// The bot's token.
pub const TELEGRAM_TOKEN: &str = "TELEGRAM_BOT_TOKEN";

/// The secrets of a request under the names by which OpenClaw knows them.
pub fn variables(request: &ProvisionRequest) -> Vec<(&'static str, &str)> {
    let keys = &request.keys;
    [
        (GATEWAY_TOKEN, Some(&request.gateway_token)),
        (TELEGRAM_TOKEN, request.telegram.as_ref().map(|telegram| &telegram.token)),
        ("ANTHROPIC_API_KEY", keys.anthropic.as_ref()),
        ("OPENAI_API_KEY", keys.openai.as_ref()),
        ("MINIMAX_API_KEY", keys.minimax.as_ref()),
    ]
    .into_iter()
    .filter_map(|(name, secret)| secret.map(|secret| (name, secret.expose())))
    .collect()
}

/// The environment file. Values are printable ASCII without spaces ([`crate::spec::value::api_key`]); in double quotes systemd
/// then takes everything as it stands but the four characters that are escaped here (systemd.exec(5), `EnvironmentFile=`).
pub fn render(request: &ProvisionRequest) -> String {
    let mut text = String::from("# Written by fireclaw. Secrets of the gateway; only root may read this.\n");
    for line in variables(request).into_iter().map(|(name, value)| line(name, value)) {
        text.push_str(&line);
    }
    text
}

fn line(name: &str, value: &str) -> String {
    let mut line = format!("{name}=\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push_str("\"\n");
    line
}

/// Whether a variable differs between two environment files. One that is missing differs from one that is not.
pub fn differs(name: &str, before: Option<&str>, now: &str) -> bool {
    let find = |text: &str| {
        text.lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
            .map(str::to_owned)
    };
    before.and_then(find) != find(now)
}

/// `~/.openclaw/.env` with the gateway's token in it and everything else as it was. The token has no character that this file's
/// format knows ([`ProvisionRequest::check`]).
pub fn dotenv(current: Option<&str>, token: &str) -> String {
    let ours = |line: &&str| {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(GATEWAY_TOKEN).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let mut text = String::new();
    for line in current.unwrap_or_default().lines().filter(|line| !ours(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text + GATEWAY_TOKEN + "=" + token + "\n"
}

#[cfg(test)]
mod tests;
