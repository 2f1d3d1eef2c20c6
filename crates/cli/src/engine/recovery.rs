//! What an operation that was cut short (kill -9, power cut, full disk) left, and how the next run deals with it. Works on
//! the journal and through [`Effects`].

use fireclaw_core::{
    error::Result,
    plan::{Operation, Plan, Step},
};

use super::{Effects, Engine, Past, journal::Journal, together};

/// What recovery found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// There was nothing to recover.
    Nothing,
    /// A half-made instance was removed.
    RemovedHalfMade,
    /// A destroy was finished.
    FinishedDestroy,
    /// The instance is there; its last operation did not end.
    Kept(Operation),
}

impl Recovered {
    /// Whether the instance is gone now.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::RemovedHalfMade | Self::FinishedDestroy)
    }
}

impl Engine<'_> {
    /// Deals with a journal that an earlier run left. The caller holds the instance's lock, so nobody is writing it.
    pub fn recover(&mut self, effects: &mut dyn Effects) -> Result<Recovered> {
        let Some(past) = Past::read(self.journal)? else { return Ok(Recovered::Nothing) };
        let operation = past.plan.operation;
        let id = &past.plan.id;
        let recovered = match operation {
            Operation::Destroy => {
                self.observer.warn(&format!("finishing the destroy of `{id}` that was interrupted"));
                self.undo_all(&past.plan, effects)?;
                Recovered::FinishedDestroy
            }
            Operation::Setup | Operation::Clone if !past.is_committed() => {
                self.observer
                    .warn(&format!("removing the half-made `{id}`: its {operation} was interrupted"));
                self.undo_begun(&past, effects)?;
                Recovered::RemovedHalfMade
            }
            Operation::Provision if !past.is_committed() => {
                // Once the guest had begun to change, the new settings are what the user wants and the guest may
                // have: they go into the record. Before that nothing had changed.
                if past.begun.iter().any(|action| action.step == Step::ProvisionGuest) {
                    self.observer
                        .warn(&format!("the last provision of `{id}` was interrupted; its settings are kept: run `fireclaw provision {id}`"));
                    effects.apply(Step::CommitSettings, self.observer)?;
                } else {
                    self.undo_begun(&past, effects)?;
                }
                Recovered::Kept(operation)
            }
            Operation::Hibernate => {
                self.observer.warn(&format!("the last hibernate of `{id}` was interrupted"));
                if past.is_committed() {
                    effects.apply(Step::EndVm, self.observer)?;
                } else {
                    self.undo_begun(&past, effects)?;
                }
                Recovered::Kept(operation)
            }
            _ => {
                self.observer.warn(&format!("the last {operation} of `{id}` was interrupted"));
                Recovered::Kept(operation)
            }
        };
        Journal::open(self.journal)?.remove()?;
        Ok(recovered)
    }

    fn undo_begun(&mut self, past: &Past, effects: &mut dyn Effects) -> Result<()> {
        let mut journal = Journal::open(self.journal)?;
        self.undo(&past.begun, &mut journal, effects)
    }

    /// A destroy is only inverses already; all of them are carried out again, for a missing thing is fine.
    fn undo_all(&mut self, plan: &Plan, effects: &mut dyn Effects) -> Result<()> {
        let mut failures = Vec::new();
        for action in &plan.actions {
            if let Err(error) = self.act(*action, effects) {
                failures.push(error);
            }
        }
        together(failures).map_or(Ok(()), Err)
    }
}
