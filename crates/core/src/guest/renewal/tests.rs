use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::json;

use super::*;

/// A disk of names and texts.
#[derive(Default)]
struct Disk(BTreeMap<String, String>);

const USERS: Owner = Owner { uid: 1000, gid: 1000, mode: 0o600 };

impl Look for Disk {
    fn file(&self, path: &str) -> Result<Option<Found>> {
        Ok(self.0.get(path).map(|text| Found { text: text.clone(), owner: USERS }))
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.0.keys().any(|name| name == path || name.starts_with(&format!("{path}/"))))
    }

    fn is_file(&self, path: &str) -> Result<bool> {
        Ok(self.0.contains_key(path))
    }

    fn files(&self, path: &str) -> Result<Vec<String>> {
        let below = format!("{path}/");
        let names = self.0.keys().filter_map(|name| name.strip_prefix(&below));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }
}

fn disk(root: &str, home: &str, config: &Value) -> Disk {
    let state = format!("{home}/ubuntu/.openclaw");
    let files = [
        (format!("{root}/var/lib/fireclaw/openclaw-old_1.json"), "{}".to_owned()),
        (format!("{root}/etc/systemd/system/openclaw-old_1.service.d/override.conf"), String::new()),
        (
            format!("{home}/ubuntu/.ssh/authorized_keys"),
            "ssh-ed25519 AAAA ours\nssh-ed25519 BBBB a friend's\n".into(),
        ),
        (format!("{state}/openclaw.json"), config.to_string()),
        (format!("{state}/openclaw.json.bak"), "{}".to_owned()),
        (format!("{state}/.env"), "A=1\nOPENCLAW_GATEWAY_TOKEN=old\nDISCORD_BOT_TOKEN=\n".to_owned()),
    ];
    Disk(files.into_iter().collect())
}

fn renewal(disks: DiskKind, without_channels: bool) -> Renewal {
    Renewal {
        from: "old_1".parse().unwrap(),
        to: "new".parse().unwrap(),
        disks,
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        host_key: GuestHostKey { private: Secret::new("PRIVATE"), public: "ssh-ed25519 CCCC new".into() },
        token: Secret::new("c0ffee"),
        old_login: None,
        without_channels,
    }
}

fn text(edits: &Edits) -> String {
    let mut text = format!("channels: {:?}\n", edits.channels);
    for edit in &edits.edits {
        let _ = match edit {
            Edit::Remove(path) => writeln!(text, "remove {path}"),
            Edit::Rename(from, to) => writeln!(text, "rename {from}\n    to {to}"),
            Edit::Write { path, text: content, owner } => writeln!(
                text,
                "write  {path} {}:{} {:04o}\n    {}",
                owner.uid,
                owner.gid,
                owner.mode,
                content.expose().replace('\n', "\n    ").trim_end()
            ),
        };
    }
    text
}

#[test]
fn the_state_disk_over_a_shared_base() {
    let config = json!({"gateway": {"mode": "local", "auth": {"mode": "token", "token": "old"}}});
    let disk = disk("/upper", "/plain/home", &config);
    insta::assert_snapshot!(text(&renewal(DiskKind::Shared, false).edits(&disk).unwrap()));
}

#[test]
fn a_disk_of_its_own_without_channels_and_without_the_old_login() {
    let config = json!({
        "channels": {"telegram": {"enabled": true, "allowFrom": [1]}, "slack": {"botToken": "xoxb"}},
        "plugins": {"entries": {"telegram": {"enabled": true}}},
    });
    let mut disk = disk("", "/home", &config);
    disk.0.insert("/var/lib/dbus/machine-id".into(), "old".into());
    let renewal = Renewal {
        old_login: Some("ssh-ed25519 AAAA another comment".into()),
        ..renewal(DiskKind::Copy, true)
    };
    insta::assert_snapshot!(text(&renewal.edits(&disk).unwrap()));
}

#[test]
fn channels_are_refused_by_name_with_the_way_out() {
    let disk = disk("", "/home", &json!({"channels": {"telegram": {"enabled": true}, "irc": {"host": "x"}}}));
    let error = renewal(DiskKind::Copy, false).edits(&disk).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("irc, telegram"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("--without-channels"));
}

#[test]
fn a_guest_that_another_tool_made_is_refused() {
    for missing in ["/var/lib/fireclaw/openclaw-old_1.json", "/home/ubuntu/.openclaw/openclaw.json"] {
        let mut disk = disk("", "/home", &json!({}));
        disk.0.remove(missing);
        let error = renewal(DiskKind::Copy, true).edits(&disk).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Refused, "{missing}");
        assert!(error.get_hint().unwrap().contains("fireclaw provision old_1"), "{missing}");
    }
    let mut odd = disk("", "/home", &json!({}));
    odd.0.insert("/home/ubuntu/.openclaw/openclaw.json".into(), "[]".into());
    renewal(DiskKind::Copy, true).edits(&odd).unwrap_err();
}

#[test]
fn a_refusal_shows_no_secret() {
    let disk = disk("", "/home", &json!({"channels": {"telegram": {"botToken": "1:secret"}}}));
    let error = renewal(DiskKind::Copy, false).edits(&disk).unwrap_err();
    let all = format!("{error:?} {} {:?}", error.one_line(), error.get_hint());
    assert!(!all.contains("secret"), "{all}");
    assert!(!format!("{:?}", renewal(DiskKind::Copy, true).edits(&disk).unwrap()).contains("secret"));
}
