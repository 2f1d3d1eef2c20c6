//! Waiting for the first login of a guest that boots.

use std::time::{Duration, Instant};

use fireclaw_core::error::Result;

use super::{Guest, GuestShell, LoginState};
use crate::{
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

/// How long a refusal may last before it is believed: sshd can be up before cloud-init has put our key and its host key
/// in place.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts after a refusal. OpenSSH 9.8 and later shuts an address out that fails more often than every
/// five seconds for some time.
const REST: Duration = Duration::from_secs(6);

/// Waits until we are in. A refusal ends the wait once it has lasted half a minute. `meanwhile` is called after each
/// attempt with what it met; its error ends the wait.
pub fn wait_for_login(
    shell: &dyn GuestShell,
    guest: &Guest,
    requirement: &Requirement,
    interrupt: &Interrupt,
    meanwhile: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    wait_with(shell, guest, requirement, interrupt, (PATIENCE, REST), meanwhile)
}

fn wait_with(
    shell: &dyn GuestShell,
    guest: &Guest,
    requirement: &Requirement,
    interrupt: &Interrupt,
    (patience, rest): (Duration, Duration),
    meanwhile: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    // Since when the guest has refused us, and when it did so last.
    let mut refused: Option<(Instant, Instant, String)> = None;
    until(requirement, interrupt, || {
        if let Some((_, last, why)) = &refused
            && last.elapsed() < rest
        {
            return Probed::NotYet(why.clone());
        }
        match shell.login(guest) {
            Ok(LoginState::In) => Probed::Ready(()),
            Ok(LoginState::NotYet(why)) => {
                refused = None;
                match meanwhile(&why) {
                    Ok(()) => Probed::NotYet(why),
                    Err(error) => Probed::Never(error),
                }
            }
            Ok(LoginState::Denied(error) | LoginState::OtherHostKey(error)) => {
                let since = refused.as_ref().map_or_else(Instant::now, |(since, ..)| *since);
                if since.elapsed() >= patience {
                    return Probed::Never(error);
                }
                let why = error.one_line();
                refused = Some((since, Instant::now(), why.clone()));
                Probed::NotYet(why)
            }
            Err(error) => Probed::Never(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use fireclaw_core::error::Error;

    use super::*;
    use crate::ssh::fake::FakeShell;

    fn wait(shell: &FakeShell, patience_ms: u64) -> Result<()> {
        let requirement = Requirement {
            description: "SSH login".into(),
            deadline: Duration::from_secs(20),
            hint: "look".into(),
        };
        let guest = FakeShell::guest();
        let (patience, rest) = (Duration::from_millis(patience_ms), Duration::from_millis(10));
        wait_with(shell, &guest, &requirement, &Interrupt::default(), (patience, rest), &mut |_| Ok(()))
    }

    fn denied() -> LoginState {
        LoginState::Denied(Error::new("log into", "it").because("the key is not taken"))
    }

    #[test]
    fn a_refusal_that_passes_is_waited_out() {
        let shell = FakeShell::silent();
        shell.on_login(|attempt| {
            Ok(match attempt {
                0 => LoginState::NotYet("refused".into()),
                1 | 2 => denied(),
                _ => LoginState::In,
            })
        });
        wait(&shell, 60_000).unwrap();
        assert_eq!(shell.logins(), 4);
    }

    #[test]
    fn what_is_seen_meanwhile_can_end_the_wait() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Ok(LoginState::NotYet("no route".into())));
        let requirement = Requirement {
            description: "SSH login".into(),
            deadline: Duration::from_secs(20),
            hint: "look".into(),
        };
        let error =
            wait_for_login(&shell, &FakeShell::guest(), &requirement, &Interrupt::default(), &mut |_| {
                Err(Error::new("keep", "the VM running"))
            })
            .unwrap_err();
        assert!(error.one_line().contains("the VM running"), "{}", error.one_line());
        assert_eq!(shell.logins(), 1);
    }

    #[test]
    fn a_refusal_that_lasts_ends_the_wait() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Ok(denied()));
        let error = wait(&shell, 50).unwrap_err();
        assert!(error.one_line().contains("the key is not taken"), "{}", error.one_line());
        assert!((2..20).contains(&shell.logins()), "{} attempts", shell.logins());
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Err(Error::new("find", "program ssh")));
        wait(&shell, 60_000).unwrap_err();
        assert_eq!(shell.logins(), 1);
    }
}
