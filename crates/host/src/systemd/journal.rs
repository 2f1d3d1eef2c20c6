//! What the units of an instance wrote, as the journal has it. Makes the command that reads it and understands its lines;
//! touches nothing itself.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use fireclaw_core::id::InstanceId;
use serde_json::Value;

use crate::{exec::Cmd, supervisor::Service};

/// Nobody follows a log for longer.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// `journalctl` over these services of an instance: their last lines, and when it follows, those to come.
pub fn command(id: &InstanceId, services: &[Service], lines: u32, follow: bool) -> Cmd {
    let mut cmd = Cmd::new("journalctl")
        .args(["--quiet", "--no-pager", "--all", "--output=json"])
        .arg("--output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT")
        .arg(format!("--lines={lines}"))
        .about(format!("the journal of `{id}`"));
    if follow {
        cmd = cmd.arg("--follow").deadline(FOREVER);
    }
    services.iter().fold(cmd, |cmd, service| cmd.arg(format!("--unit={}", service.unit(id))))
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub time: SystemTime,
    /// Whose unit it is about.
    pub service: Service,
    /// systemd said it, not the service.
    pub by_systemd: bool,
    /// What was written, without the means to repaint a terminal: a guest writes its console.
    pub text: String,
}

impl Line {
    /// Reads what `journalctl --output=json` wrote about an instance. `None` for what is not a line of its units.
    pub fn read(json: &str, id: &InstanceId) -> Option<Self> {
        let fields: Value = serde_json::from_str(json).ok()?;
        let field = |name: &str| fields.get(name).and_then(Value::as_str);
        let micros: u64 = field("__REALTIME_TIMESTAMP")?.parse().ok()?;
        let service_of =
            |unit: &str| Service::ALL.into_iter().find(|service| service.unit(id).as_str() == unit);
        let about = field("UNIT").and_then(service_of);
        let service = about.or_else(|| field("_SYSTEMD_UNIT").and_then(service_of))?;
        let text = match fields.get("MESSAGE")? {
            Value::String(text) => text.clone(),
            // What is no plain text comes as its bytes.
            Value::Array(bytes) => {
                let bytes: Vec<u8> =
                    bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => return None,
        };
        Some(Self {
            time: SystemTime::UNIX_EPOCH + Duration::from_micros(micros),
            service,
            by_systemd: about.is_some(),
            text: plain(&text),
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.service {
            Service::Vm => "vm",
            Service::Proxy => "proxy",
        };
        let speaker = if self.by_systemd { "systemd: " } else { "" };
        let time = humantime::format_rfc3339_seconds(self.time);
        write!(f, "{name:<7} {time} {speaker}{}", self.text)
    }
}

/// Text without escape sequences and control characters.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                // Parameters, then one letter that ends the sequence (ECMA-48).
                while rest.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
                rest.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
            }
            '\u{1b}' => {
                rest.next();
            }
            '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.truncate(plain.trim_end().len());
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> InstanceId {
        "bot".parse().unwrap()
    }

    #[test]
    fn the_command_names_both_units() {
        let line = command(&id(), &Service::ALL, 20, true).line();
        assert!(line.contains("--lines=20 --follow"), "{line}");
        for service in Service::ALL {
            assert!(line.contains(&format!("--unit={}", service.unit(&id()))), "{line}");
        }
    }

    #[test]
    fn lines_are_read_and_made_plain() {
        let vm = id().vm_unit();
        let read = |json: String| Line::read(&json, &id()).map(|line| line.to_string());
        let said = format!(
            r#"{{"__REALTIME_TIMESTAMP":"1700000000000001","MESSAGE":"\u001b[0;32mOK\u001b[0m up\r","_SYSTEMD_UNIT":"{vm}"}}"#
        );
        assert_eq!(read(said).unwrap(), "vm      2023-11-14T22:13:20Z OK up");
        let bytes = format!(
            r#"{{"__REALTIME_TIMESTAMP":"1700000000000000","MESSAGE":[104,105,27,99,255],"_SYSTEMD_UNIT":"{vm}"}}"#
        );
        assert_eq!(read(bytes).unwrap(), "vm      2023-11-14T22:13:20Z hi\u{fffd}");
        let proxy = id().proxy_unit();
        let about = format!(
            r#"{{"__REALTIME_TIMESTAMP":"1700000000000000","MESSAGE":"Started x","_SYSTEMD_UNIT":"init.scope","UNIT":"{proxy}"}}"#
        );
        assert_eq!(read(about).unwrap(), "proxy   2023-11-14T22:13:20Z systemd: Started x");
        let other = r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":"x","_SYSTEMD_UNIT":"ssh.service"}"#;
        assert_eq!(read(other.to_owned()), None);
        assert_eq!(read("-- No entries --".to_owned()), None);
    }
}
