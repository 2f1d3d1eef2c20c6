//! Carries a plan out: journals each step, undoes on failure, and recovers what an earlier run left half-done.
//!
//! ```text
//!                 begin ──> begun(step) ──> done(step) ──> … ──> finished (journal removed)
//!                             │ failure, signal
//!                 before the commit step          after it, or no commit step
//!                             v                              v
//!                 undo begun steps, last first     keep; journal removed; error says so
//!                             │ kill -9, power cut at any point: the journal stays
//!                             v
//!                 the next run of any changing command calls `recover`
//! ```
//!
//! Touches the journal file; everything else goes through [`Effects`].

mod journal;
pub mod recovery;

use std::{path::Path, time::Instant};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::InstanceId,
    plan::{Action, Direction, Operation, Plan, Step},
    report::StepTime,
};
use fireclaw_host::interrupt::Interrupt;
pub use journal::{Entry, Journal, Past};
pub use recovery::Recovered;

/// What the steps do. The command line's is `steps::Steps`; tests have their own.
pub trait Effects {
    /// Carries a step out. Applying one that is done already must be fine.
    fn apply(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()>;
    /// Carries its inverse out. A thing that is not there is fine.
    fn undo(&mut self, step: Step, watch: &mut dyn Observer) -> Result<()>;
}

/// Who watches: the progress display, and the tests that kill us.
pub trait Observer {
    /// A plan begins.
    fn plan(&mut self, plan: &Plan);
    /// An action begins.
    fn begin(&mut self, action: Action);
    /// An action ended, well or not.
    fn end(&mut self, action: Action, ms: u64, ok: bool);
    /// Something happens inside the action.
    fn detail(&mut self, _text: &str) {}
    /// A journal entry is on the disk.
    fn journalled(&mut self, entry: &Entry);
    /// Something that the user should know and that stops nothing.
    fn warn(&mut self, text: &str);
}

/// A plan under way.
pub struct Engine<'a> {
    /// The instance's journal file.
    pub journal: &'a Path,
    /// Ctrl-C and SIGTERM.
    pub interrupt: &'a Interrupt,
    /// Who watches.
    pub observer: &'a mut dyn Observer,
}

impl Engine<'_> {
    /// Carries the plan out. On failure before its commit step everything that was begun is undone; after it, or in a
    /// plan without one, what is there is kept. A `destroy` goes on to its end and reports all that failed.
    pub fn run(&mut self, plan: &Plan, effects: &mut dyn Effects) -> Result<Vec<StepTime>> {
        self.observer.plan(plan);
        let mut journal = self.begin(plan)?;
        let mut times = Vec::new();
        let mut committed = plan.commit.is_none();
        let mut failures = Vec::new();
        for (index, action) in plan.actions.iter().enumerate() {
            let begun = Instant::now();
            let result = self.interrupt_check(plan, committed).and_then(|()| {
                self.note_for(plan, &mut journal, &Entry::Begun(index))?;
                self.act(*action, effects)
            });
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            match result {
                Ok(()) => {
                    self.note_for(plan, &mut journal, &Entry::Done(index))?;
                    times.push(StepTime { name: action.title().to_owned(), ms });
                    committed |= plan.commit == Some(action.step);
                }
                // A teardown goes on: what can be removed is removed.
                Err(error) if plan.operation == Operation::Destroy => failures.push(error),
                Err(error) if committed => {
                    journal.remove()?;
                    return Err(kept(plan, *action, error));
                }
                Err(error) => {
                    let undone = self.undo(&plan.actions[..=index], &mut journal, effects);
                    return Err(rolled_back(plan, error, undone.and_then(|()| journal.remove())));
                }
            }
        }
        if let Some(error) = together(failures) {
            return Err(error);
        }
        journal.remove()?;
        Ok(times)
    }

    /// On a full disk too an instance can be destroyed, which makes room: whatever a destroy does may be done again from its begin.
    fn begin(&mut self, plan: &Plan) -> Result<Journal> {
        match Journal::create(self.journal, plan) {
            Err(error) if plan.operation == Operation::Destroy && !self.journal.exists() => {
                self.observer.warn(&format!("it goes on without a journal: {}", error.one_line()));
                Ok(Journal::none(self.journal))
            }
            other => other,
        }
    }

    fn note_for(&mut self, plan: &Plan, journal: &mut Journal, entry: &Entry) -> Result<()> {
        if plan.operation == Operation::Destroy {
            self.note_if_possible(journal, entry);
            return Ok(());
        }
        self.note(journal, entry)
    }

    /// For inverses, which may all be carried out again.
    fn note_if_possible(&mut self, journal: &mut Journal, entry: &Entry) {
        if let Err(error) = self.note(journal, entry) {
            self.observer.warn(&error.one_line());
        }
    }

    /// A destroy is not cut short by a signal once it has begun: half of it is worth nothing. Nor is a hibernate whose memory is
    /// kept: what it left would be a VM that stands still.
    fn interrupt_check(&self, plan: &Plan, committed: bool) -> Result<()> {
        match plan.operation {
            Operation::Destroy => Ok(()),
            Operation::Hibernate if committed => Ok(()),
            _ => self.interrupt.check(),
        }
    }

    /// Carries the inverses of begun actions out, last first, to the end, whatever fails.
    fn undo(&mut self, begun: &[Action], journal: &mut Journal, effects: &mut dyn Effects) -> Result<()> {
        let _shield = self.interrupt.shield();
        let mut failures = Vec::new();
        for action in Plan::inverses(begun.iter()) {
            self.note_if_possible(journal, &Entry::Undoing(action.step));
            if let Err(error) = self.act(action, effects) {
                failures.push(error);
            }
        }
        together(failures).map_or(Ok(()), Err)
    }

    fn act(&mut self, action: Action, effects: &mut dyn Effects) -> Result<()> {
        self.observer.begin(action);
        let begun = Instant::now();
        let shield = (action.direction == Direction::Undo).then(|| self.interrupt.shield());
        let result = match action.direction {
            Direction::Apply => effects.apply(action.step, self.observer),
            Direction::Undo => effects.undo(action.step, self.observer),
        };
        drop(shield);
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.observer.end(action, ms, result.is_ok());
        result
    }

    fn note(&mut self, journal: &mut Journal, entry: &Entry) -> Result<()> {
        journal.append(entry)?;
        self.observer.journalled(entry);
        Ok(())
    }
}

/// The error of a plan whose work is kept.
fn kept(plan: &Plan, action: Action, error: Error) -> Error {
    let kind = match error.get_kind() {
        Kind::Interrupted => Kind::Interrupted,
        _ if matches!(
            plan.operation,
            Operation::Setup
                | Operation::Clone
                | Operation::Provision
                | Operation::Start
                | Operation::Restart
        ) && matches!(action.step, Step::AwaitGates | Step::StartProxy | Step::AwaitLogin) =>
        {
            Kind::Unhealthy
        }
        other => other,
    };
    let made = matches!(plan.operation, Operation::Setup | Operation::Clone | Operation::Provision);
    let hint = error.get_hint().map_or_else(
        || format!("see `fireclaw status {}`", plan.id),
        |hint| {
            if made {
                format!("{hint}; `fireclaw provision {}` tries again", plan.id)
            } else {
                hint.to_owned()
            }
        },
    );
    Error::new(verb(plan.operation), format!("instance `{}`", plan.id)).source(error).kind(kind).hint(hint)
}

fn rolled_back(plan: &Plan, error: Error, undone: Result<()>) -> Error {
    let kind = error.get_kind();
    let hint = error.get_hint().map(str::to_owned);
    let outer = Error::new(verb(plan.operation), format!("instance `{}`", plan.id)).source(error);
    match undone {
        Ok(()) if hint.as_deref().is_some_and(|hint| leads_to(hint, &plan.id)) => outer.hint(GONE),
        Ok(()) => outer,
        Err(left) => {
            let text = format!("{}; and the undo failed: {}", outer.causes().join(": "), left.one_line());
            let hint = hint
                .unwrap_or_else(|| format!("run `fireclaw destroy {} --force` to remove the rest", plan.id));
            Error::new(verb(plan.operation), format!("instance `{}`", plan.id))
                .because(text)
                .kind(kind)
                .hint(hint)
        }
    }
}

/// What to do when a hint leads to an instance that was undone.
const GONE: &str =
    "what was begun is removed again; `fireclaw doctor` looks at the host, then run the command once more";

/// Whether a hint names a command of ours on this instance.
fn leads_to(hint: &str, id: &InstanceId) -> bool {
    let mut commands = hint.split('`').skip(1).step_by(2).filter(|command| command.starts_with("fireclaw "));
    commands.any(|command| command.split_whitespace().skip(2).any(|word| word == id.as_str()))
}

const fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Setup => "set up",
        Operation::Provision => "provision",
        Operation::Start => "start",
        Operation::Stop => "stop",
        Operation::Restart => "restart",
        Operation::Destroy => "destroy",
        Operation::Clone => "clone to",
        Operation::Hibernate => "hibernate",
    }
}

/// Several failures as one error.
pub fn together(mut failures: Vec<Error>) -> Option<Error> {
    if failures.len() < 2 {
        return failures.pop();
    }
    let text: Vec<String> = failures.iter().map(Error::one_line).collect();
    Some(Error::new("finish", format!("{} steps", failures.len())).because(text.join("; ")))
}

#[cfg(test)]
mod tests;
