//! apt's package lists, on the host and in a guest. Runs the command that it is given.

use std::time::Duration;

use fireclaw_core::error::{Kind, Result};

use crate::{
    exec::{Cmd, Exec, Stream},
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

/// How long another apt may hold the lists: a new machine's first update, or the daily one.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs `apt-get update`. apt waits for who holds the lock of the packages (`DPkg::Lock::Timeout`), and not for who holds that of
/// the lists: that is waited for here. Lists that cannot be had otherwise are told of by what is returned, and may do as they are.
pub fn update(
    exec: &dyn Exec,
    interrupt: &Interrupt,
    cmd: &dyn Fn() -> Cmd,
    on_line: &mut dyn FnMut(Stream, &str),
) -> Result<Option<String>> {
    let requirement = Requirement {
        description: "the lock of apt's lists".to_owned(),
        deadline: PATIENCE,
        hint: "another apt-get runs; see `ps -C apt-get`".to_owned(),
    };
    let updated = until(&requirement, interrupt, || match exec.check_stream(cmd(), on_line) {
        Ok(_) => Probed::Ready(None),
        Err(error) if error.get_kind() == Kind::Interrupted => Probed::Never(error),
        Err(error) if error.one_line().contains("/lists/lock") => {
            Probed::NotYet("another apt holds it".to_owned())
        }
        Err(error) => Probed::Ready(Some(error.one_line())),
    })?;
    Ok(updated)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::exec::{Output, fake::FakeExec};

    fn updated(answers: &'static [&'static str]) -> Option<String> {
        let turn = AtomicUsize::new(0);
        let exec = FakeExec::new(move |_| {
            let said = answers[turn.fetch_add(1, Ordering::SeqCst)];
            Ok(Output::made(if said.is_empty() { 0 } else { 100 }, "", said))
        });
        let cmd = || Cmd::new("apt-get").arg("update");
        update(&exec, &Interrupt::default(), &cmd, &mut |_, _| {}).unwrap()
    }

    #[test]
    fn whoever_holds_the_lists_is_waited_for() {
        const HELD: &str = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)";
        assert_eq!(updated(&[HELD, HELD, ""]), None);
    }

    #[test]
    fn a_source_that_is_gone_is_told_of_and_stops_nothing() {
        let told = updated(&["E: The repository 'https://gone.example' does not have a Release file."]);
        assert!(told.unwrap().contains("gone.example"));
    }
}
