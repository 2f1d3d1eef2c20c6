//! The engine under failure, interruption and a cut at every step, against effects that only remember.

use std::collections::BTreeSet;

use fireclaw_core::id::InstanceId;

use super::{recovery::Recovered, *};

/// Remembers which steps are in force; fails or interrupts where told.
#[derive(Default)]
struct World {
    there: BTreeSet<&'static str>,
    fail_at: Option<Step>,
    fail_undo_of: Option<Step>,
    applied: Vec<Step>,
    undone: Vec<Step>,
}

impl Effects for World {
    fn apply(&mut self, step: Step, _: &mut dyn Observer) -> Result<()> {
        self.applied.push(step);
        // A step that fails may have done half of its work.
        if step.undo_title().is_some() {
            self.there.insert(step.title());
        }
        if self.fail_at == Some(step) {
            return Err(Error::new("do", step.title())
                .because("injected")
                .hint("see `fireclaw logs my-bot host`"));
        }
        Ok(())
    }

    fn undo(&mut self, step: Step, _: &mut dyn Observer) -> Result<()> {
        self.undone.push(step);
        if self.fail_undo_of == Some(step) {
            return Err(Error::new("undo", step.title()).because("injected"));
        }
        self.there.remove(step.title());
        Ok(())
    }
}

#[derive(Default)]
struct Quiet {
    entries: usize,
    interrupt_after: Option<(usize, Interrupt)>,
}

impl Observer for Quiet {
    fn plan(&mut self, _: &Plan) {}
    fn begin(&mut self, _: Action) {}
    fn end(&mut self, _: Action, _: u64, _: bool) {}
    fn journalled(&mut self, _: &Entry) {
        self.entries += 1;
        if let Some((after, interrupt)) = &self.interrupt_after
            && self.entries == *after
        {
            interrupt.ask();
        }
    }
    fn warn(&mut self, _: &str) {}
}

fn id() -> InstanceId {
    "my-bot".parse().unwrap()
}

struct Bench {
    _dir: tempfile::TempDir,
    journal: std::path::PathBuf,
    interrupt: Interrupt,
    observer: Quiet,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            journal: dir.path().join("my-bot.jsonl"),
            _dir: dir,
            interrupt: Interrupt::default(),
            observer: Quiet::default(),
        }
    }

    fn run(&mut self, plan: &Plan, world: &mut World) -> Result<Vec<StepTime>> {
        Engine { journal: &self.journal, interrupt: &self.interrupt, observer: &mut self.observer }
            .run(plan, world)
    }

    fn recover(&mut self, world: &mut World) -> Result<Recovered> {
        Engine { journal: &self.journal, interrupt: &self.interrupt, observer: &mut self.observer }
            .recover(world)
    }
}

/// The plans that make an instance.
fn makers() -> [Plan; 2] {
    [Plan::setup(&id()), Plan::clone_to(&id())]
}

#[test]
fn a_failure_before_the_commit_leaves_nothing_and_one_after_it_keeps_all() {
    for plan in makers() {
        fails_at_each_step(&plan);
    }
}

fn fails_at_each_step(plan: &Plan) {
    let commit = plan.actions.iter().position(|action| Some(action.step) == plan.commit).unwrap();
    for (index, action) in plan.actions.iter().enumerate() {
        let mut bench = Bench::new();
        let mut world = World { fail_at: Some(action.step), ..World::default() };
        let error = bench.run(plan, &mut world).unwrap_err();
        assert!(error.one_line().contains("injected"), "{}", error.one_line());
        assert!(!bench.journal.exists(), "the journal of {} stayed", action.title());
        if index <= commit {
            // There are no logs of what is not there any more.
            assert!(!error.get_hint().unwrap().contains("logs"), "{:?}", error.get_hint());
            assert!(world.there.is_empty(), "{} left {:?}", action.title(), world.there);
        } else {
            assert!(
                world.there.contains(Step::SaveRecord.title()),
                "{} removed the instance",
                action.title()
            );
            assert_eq!(error.get_kind(), Kind::Unhealthy, "{}", action.title());
            assert!(
                error.get_hint().unwrap().contains("status")
                    || error.get_hint().unwrap().contains("provision")
            );
        }
    }
}

#[test]
fn an_interrupt_at_any_step_undoes_to_the_end() {
    for plan in makers() {
        interrupted_at_each_entry(&plan);
    }
}

fn interrupted_at_each_entry(plan: &Plan) {
    // Two entries a step: begun and done. Past the commit the instance stays.
    for after in 1..=20 {
        let mut bench = Bench::new();
        bench.observer.interrupt_after = Some((after, bench.interrupt.clone()));
        let mut world = World::default();
        let error = bench.run(plan, &mut world).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Interrupted);
        assert!(world.there.is_empty(), "after {after} entries: {:?}", world.there);
    }
}

#[test]
fn a_cut_at_any_entry_is_recovered_by_the_next_run() {
    for plan in makers().into_iter().chain([Plan::destroy(&id()), Plan::stop(&id()), Plan::provision(&id())])
    {
        let mut whole = Vec::new();
        for index in 0..plan.actions.len() {
            whole.extend([Entry::Begun(index), Entry::Done(index)]);
        }
        for cut in 0..=whole.len() {
            let mut bench = Bench::new();
            let mut journal = Journal::create(&bench.journal, &plan).unwrap();
            let mut world = World::default();
            if !matches!(plan.operation, Operation::Setup | Operation::Clone) {
                world.there.extend(
                    Plan::setup(&id())
                        .actions
                        .iter()
                        .filter(|a| a.step.undo_title().is_some())
                        .map(|a| a.step.title()),
                );
            }
            for entry in &whole[..cut] {
                journal.append(entry).unwrap();
                if let Entry::Begun(index) = entry {
                    let action = plan.actions[*index];
                    let _ = match action.direction {
                        Direction::Apply => world.apply(action.step, &mut Quiet::default()),
                        Direction::Undo => world.undo(action.step, &mut Quiet::default()),
                    };
                }
            }
            let committed = Past::read(&bench.journal).unwrap().unwrap().is_committed();
            let recovered = bench.recover(&mut world).unwrap();
            assert!(!bench.journal.exists());
            match plan.operation {
                Operation::Setup | Operation::Clone if !committed => {
                    assert_eq!(recovered, Recovered::RemovedHalfMade);
                    assert!(world.there.is_empty(), "cut {cut}: {:?}", world.there);
                }
                Operation::Destroy => {
                    assert!(recovered.is_gone());
                    assert!(world.there.is_empty(), "cut {cut}: {:?}", world.there);
                }
                _ => assert_eq!(recovered, Recovered::Kept(plan.operation)),
            }
            if plan.operation == Operation::Provision {
                assert!(!world.there.contains(Step::StageSettings.title()) || cut > 6, "cut {cut}");
            }
        }
    }
}

#[test]
fn a_teardown_goes_on_to_the_end_and_reports_all_that_failed() {
    let mut bench = Bench::new();
    let mut world = World { fail_undo_of: Some(Step::StartVm), ..World::default() };
    let plan = Plan::destroy(&id());
    bench.run(&plan, &mut world).unwrap_err();
    assert_eq!(world.undone.len(), plan.actions.len());
    // The journal stays: the next run finishes.
    world.fail_undo_of = None;
    assert_eq!(bench.recover(&mut world).unwrap(), Recovered::FinishedDestroy);
}

#[test]
fn an_undo_that_fails_too_is_told_and_kept_for_the_next_run() {
    let mut bench = Bench::new();
    let mut world =
        World { fail_at: Some(Step::AwaitLogin), fail_undo_of: Some(Step::JoinNetwork), ..World::default() };
    let error = bench.run(&Plan::setup(&id()), &mut world).unwrap_err();
    assert!(error.one_line().contains("the undo failed"), "{}", error.one_line());
    assert!(bench.journal.exists());
    world.fail_undo_of = None;
    assert_eq!(bench.recover(&mut world).unwrap(), Recovered::RemovedHalfMade);
    assert!(world.there.is_empty());
}
