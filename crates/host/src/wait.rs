//! Waiting: one driver for "poll this until it holds, at most so long". The only place that sleeps.

use std::time::{Duration, Instant};

use fireclaw_core::error::{Error, Result};

use crate::interrupt::Interrupt;

/// What is waited for, and what to say when it does not come.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// "SSH login as ubuntu at 172.16.0.2"
    pub description: String,
    /// At most so long.
    pub deadline: Duration,
    /// The next command or place to look.
    pub hint: String,
}

/// The answer of one probe.
#[derive(Debug)]
pub enum Probed<T> {
    /// It holds.
    Ready(T),
    /// Not yet, and why.
    NotYet(String),
    /// It never will; waiting on is pointless.
    Never(Error),
}

/// The shortest and the longest pause between two probes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Probes until the requirement holds. The pause grows from 20 ms to 500 ms: a thing that is there at once costs
/// nothing, a thing that takes minutes costs two probes a second.
pub fn until<T>(
    requirement: &Requirement,
    interrupt: &Interrupt,
    probe: impl FnMut() -> Probed<T>,
) -> Result<T> {
    until_extended(requirement, &mut || requirement.deadline, interrupt, probe)
}

/// As [`until`], for what takes the longer the more others do the same, who may have come after the wait began: when the deadline
/// has passed, `by_now` tells what it would be if it were set now, and a later one counts.
pub fn until_extended<T>(
    requirement: &Requirement,
    by_now: &mut dyn FnMut() -> Duration,
    interrupt: &Interrupt,
    mut probe: impl FnMut() -> Probed<T>,
) -> Result<T> {
    let begun = Instant::now();
    let mut deadline = requirement.deadline;
    let mut pause = PAUSES.0;
    loop {
        interrupt.check()?;
        let last = match probe() {
            Probed::Ready(value) => return Ok(value),
            Probed::Never(error) => {
                return Err(Error::new("wait for", &requirement.description)
                    .hint(&requirement.hint)
                    .source(error));
            }
            Probed::NotYet(why) => why,
        };
        let left = |deadline: Duration| deadline.saturating_sub(begun.elapsed());
        if left(deadline).is_zero() {
            deadline = deadline.max(by_now());
        }
        let left = left(deadline);
        if left.is_zero() {
            return Err(Error::new("wait for", &requirement.description)
                .hint(&requirement.hint)
                .because(format!("not within {}: {last}", humanly(deadline))));
        }
        pause_for(pause.min(left));
        pause = (pause * 3 / 2).min(PAUSES.1);
    }
}

/// The one sleep, shared with loops that poll a child or a socket.
#[expect(clippy::disallowed_methods, reason = "this is the one place that sleeps, always between two probes")]
pub(crate) fn pause_for(pause: Duration) {
    std::thread::sleep(pause);
}

fn humanly(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(ms: u64) -> Requirement {
        Requirement {
            description: "a thing".into(),
            deadline: Duration::from_millis(ms),
            hint: "look".into(),
        }
    }

    #[test]
    fn a_deadline_says_what_was_last_seen_and_where_to_look() {
        let error = until::<()>(&requirement(30), &Interrupt::default(), || Probed::NotYet("refused".into()))
            .unwrap_err();
        assert!(error.one_line().contains("not within 30 ms: refused"), "{}", error.one_line());
        assert_eq!(error.get_hint(), Some("look"));
    }

    #[test]
    fn a_deadline_that_has_become_later_counts() {
        let mut asked = 0;
        let mut by_now = || {
            asked += 1;
            Duration::from_millis(if asked == 1 { 60 } else { 20 })
        };
        let error = until_extended::<()>(&requirement(20), &mut by_now, &Interrupt::default(), || {
            Probed::NotYet("refused".into())
        })
        .unwrap_err();
        assert!(error.one_line().contains("not within 60 ms: refused"), "{}", error.one_line());
        assert_eq!(asked, 2);
    }

    #[test]
    fn a_hopeless_wait_ends_at_once() {
        let mut probes = 0;
        let result = until::<()>(&requirement(60_000), &Interrupt::default(), || {
            probes += 1;
            Probed::Never(Error::new("find", "the process"))
        });
        assert!(result.is_err());
        assert_eq!(probes, 1);
    }
}
