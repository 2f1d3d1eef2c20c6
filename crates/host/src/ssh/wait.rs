//! Waiting for the first login of a guest that boots.

use std::time::{Duration, Instant};

use fireclaw_core::error::Result;

use super::{Guest, GuestShell, LoginState};
use crate::{
    interrupt::Interrupt,
    wait::{Probed, Requirement, until_extended},
};

/// How long a refusal may last before it is believed: sshd can be up before cloud-init has put our key and its host key
/// in place.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts after a refusal. OpenSSH 9.8 and later shuts an address out that fails more often than every
/// five seconds for some time.
const REST: Duration = Duration::from_secs(6);

/// Waits until we are in. A refusal ends the wait once it has lasted half a minute. `by_now` is that of [`until_extended`].
/// `meanwhile` is told after each attempt why we are not in yet; its error ends the wait, for a VM that has died.
pub fn wait_for_login(
    shell: &dyn GuestShell,
    guest: &Guest,
    requirement: &Requirement,
    by_now: &mut dyn FnMut() -> Duration,
    interrupt: &Interrupt,
    meanwhile: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut attempts = Attempts { shell, guest, patience: PATIENCE, rest: REST, refused: None };
    attempts.wait(requirement, by_now, interrupt, meanwhile)
}

struct Attempts<'a> {
    shell: &'a dyn GuestShell,
    guest: &'a Guest,
    patience: Duration,
    rest: Duration,
    refused: Option<Refused>,
}

/// A guest that has refused us, the last times without exception.
struct Refused {
    since: Instant,
    last: Instant,
    why: String,
}

impl Attempts<'_> {
    fn wait(
        &mut self,
        requirement: &Requirement,
        by_now: &mut dyn FnMut() -> Duration,
        interrupt: &Interrupt,
        meanwhile: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        until_extended(requirement, by_now, interrupt, || match self.attempt() {
            Probed::NotYet(why) => match meanwhile(&why) {
                Ok(()) => Probed::NotYet(why),
                Err(error) => Probed::Never(error),
            },
            ended => ended,
        })
    }

    fn attempt(&mut self) -> Probed<()> {
        if let Some(refused) = &self.refused
            && refused.last.elapsed() < self.rest
        {
            return Probed::NotYet(refused.why.clone());
        }
        match self.shell.login(self.guest) {
            Ok(LoginState::In) => Probed::Ready(()),
            Ok(LoginState::NotYet(why)) => {
                self.refused = None;
                Probed::NotYet(why)
            }
            Ok(LoginState::Denied(error) | LoginState::OtherHostKey(error)) => {
                let since = self.refused.as_ref().map_or_else(Instant::now, |refused| refused.since);
                if since.elapsed() >= self.patience {
                    return Probed::Never(error);
                }
                let why = error.one_line();
                self.refused = Some(Refused { since, last: Instant::now(), why: why.clone() });
                Probed::NotYet(why)
            }
            Err(error) => Probed::Never(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use fireclaw_core::error::Error;

    use super::*;
    use crate::ssh::fake::FakeShell;

    fn wait(
        shell: &FakeShell,
        patience_ms: u64,
        meanwhile: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let requirement = Requirement {
            description: "SSH login".into(),
            deadline: Duration::from_secs(20),
            hint: "look".into(),
        };
        let (patience, rest) = (Duration::from_millis(patience_ms), Duration::from_millis(10));
        let mut attempts = Attempts { shell, guest: &FakeShell::guest(), patience, rest, refused: None };
        attempts.wait(&requirement, &mut || requirement.deadline, &Interrupt::default(), meanwhile)
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
        wait(&shell, 60_000, &mut |_| Ok(())).unwrap();
        assert_eq!(shell.logins(), 4);
    }

    #[test]
    fn a_refusal_that_lasts_ends_the_wait() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Ok(denied()));
        let error = wait(&shell, 50, &mut |_| Ok(())).unwrap_err();
        assert!(error.one_line().contains("the key is not taken"), "{}", error.one_line());
        assert!((2..20).contains(&shell.logins()), "{} attempts", shell.logins());
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Err(Error::new("find", "program ssh")));
        wait(&shell, 60_000, &mut |_| Ok(())).unwrap_err();
        assert_eq!(shell.logins(), 1);
    }

    #[test]
    fn who_watches_hears_why_and_can_end_the_wait() {
        let shell = FakeShell::silent();
        shell.on_login(|_| Ok(LoginState::NotYet("refused".into())));
        let mut heard = 0;
        let error = wait(&shell, 60_000, &mut |why| {
            assert_eq!(why, "refused");
            heard += 1;
            if heard < 3 { Ok(()) } else { Err(Error::new("find", "the VM")) }
        })
        .unwrap_err();
        assert!(error.one_line().contains("cannot find the VM"), "{}", error.one_line());
        assert_eq!((heard, shell.logins()), (3, 3));
    }
}
