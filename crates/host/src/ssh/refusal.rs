//! What OpenSSH's client means by its last words. Touches nothing.

use fireclaw_core::error::Error;

use super::{Guest, LoginState};

/// Reads the client's standard error after exit code 255. What is not known to be final counts as "not yet": a wait has a
/// deadline, and shows these words when it passes.
pub(super) fn read(guest: &Guest, stderr: &str) -> LoginState {
    let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    // pam_nologin speaks while the guest boots and while it shuts down.
    if has(&["System is booting up", "System is going down"]) {
        return LoginState::NotYet("the guest is not open for logins yet".into());
    }
    if has(&["HOST IDENTIFICATION HAS CHANGED", "Host key verification failed"]) {
        return LoginState::OtherHostKey(
            failed(guest).because("it shows another host key than the one that is pinned").hint(format!(
                "another machine may have its address; if the guest was rebuilt on purpose, remove {}",
                guest.known_hosts.display()
            )),
        );
    }
    if has(&["Permission denied", "Too many authentication failures"]) {
        return LoginState::Denied(
            failed(guest)
                .because(format!("it does not let {} in with the key {}", guest.user, guest.key.display()))
                .hint("SSH_KEY_PATH must name the key that the instance was made with"),
        );
    }
    LoginState::NotYet(last_line(stderr))
}

pub(super) fn failed(guest: &Guest) -> Error {
    Error::new("log into", format!("the guest at {}", guest.ip))
}

fn last_line(stderr: &str) -> String {
    let line = stderr.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.unwrap_or("the SSH client failed without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(stderr: &str) -> &'static str {
        let guest = Guest {
            ip: [172, 16, 0, 2].into(),
            port: 22,
            user: "ubuntu".into(),
            key: "/k".into(),
            known_hosts: "/h".into(),
            control: "/c".into(),
        };
        match read(&guest, stderr) {
            LoginState::In => "in",
            LoginState::NotYet(_) => "not yet",
            LoginState::Denied(_) => "denied",
            LoginState::OtherHostKey(_) => "other host key",
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for (stderr, expected) in [
            ("ssh: connect to host 172.16.0.2 port 22: Connection refused", "not yet"),
            ("ssh: connect to host 172.16.0.2 port 22: No route to host", "not yet"),
            ("ssh: connect to host 172.16.0.2 port 22: Connection timed out", "not yet"),
            ("kex_exchange_identification: Connection closed by remote host", "not yet"),
            ("Connection closed by 172.16.0.2 port 22", "not yet"),
            ("Connection timed out during banner exchange", "not yet"),
            (
                "\"System is booting up. Unprivileged users are not permitted to log in yet.\"\nPermission denied",
                "not yet",
            ),
            ("", "not yet"),
            ("ubuntu@172.16.0.2: Permission denied (publickey).", "denied"),
            ("Received disconnect from 172.16.0.2 port 22:2: Too many authentication failures", "denied"),
            (
                "No ED25519 host key is known for 172.16.0.2 and you have requested strict checking.\r\nHost key verification failed.",
                "other host key",
            ),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                "other host key",
            ),
        ] {
            assert_eq!(kind(stderr), expected, "{stderr}");
        }
    }
}
