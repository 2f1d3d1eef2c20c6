//! The machine without any process: the paths through it, the pauses, and what must never be.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::{
    embedded::machine::{Action, CLEANING, End, Event, GIVE_UP, GRACE, Machine, PAUSES, STEADY},
    supervisor::{Service, State},
};

const LONG: Duration = Duration::from_mins(5);

fn vm() -> Machine {
    Machine::new(Service::Vm, false, 0, None)
}

fn up(now: Instant) -> Machine {
    let mut machine = vm();
    assert_eq!(machine.on(Event::Start, now), Some(Action::Clean));
    assert_eq!(machine.on(Event::Helped(true), now), Some(Action::Run));
    assert_eq!(machine.on(Event::Began, now), None);
    assert_eq!(machine.state(), State::Active);
    machine
}

fn failed(machine: &mut Machine, now: Instant) {
    assert_eq!(machine.on(Event::Ended(End::Signal(9)), now), Some(Action::Clean));
    assert_eq!(machine.on(Event::Helped(true), now), None);
}

#[test]
fn a_graceful_stop_asks_waits_and_cleans() {
    let now = Instant::now();
    let mut machine = up(now);
    assert_eq!(machine.on(Event::Stop(LONG), now), Some(Action::Halt));
    assert_eq!(machine.on(Event::Helped(true), now), None);
    assert_eq!((machine.state(), machine.wake()), (State::Deactivating, Some(now + LONG)));
    assert_eq!(machine.on(Event::Ended(End::Code(0, None)), now), Some(Action::Clean));
    assert_eq!(machine.on(Event::Helped(true), now), None);
    assert_eq!((machine.state(), machine.wanted(), machine.detail()), (State::Inactive, false, None));
}

#[test]
fn a_guest_that_ends_while_it_is_asked_ends_the_asking_too() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.on(Event::Stop(LONG), now);
    assert_eq!(machine.on(Event::Ended(End::Code(0, None)), now), Some(Action::EndHelper));
    assert_eq!(machine.on(Event::Time, now + GRACE), Some(Action::KillHelper));
    assert_eq!(machine.on(Event::Helped(false), now), Some(Action::Clean));
}

#[test]
fn a_guest_that_does_not_listen_is_terminated_and_then_killed() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.on(Event::Stop(LONG), now);
    let due = now + LONG;
    assert_eq!(machine.on(Event::Time, now + Duration::from_mins(4)), None);
    assert_eq!(machine.on(Event::Time, due), Some(Action::TerminateAll));
    assert_eq!(machine.on(Event::Time, due + GRACE), Some(Action::Kill));
    assert_eq!(machine.wake(), None);
}

#[test]
fn a_guest_that_cannot_be_asked_is_not_waited_for() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.on(Event::Stop(LONG), now);
    assert_eq!(machine.on(Event::Helped(false), now), Some(Action::Terminate));
    assert_eq!(machine.on(Event::Time, now + GRACE), Some(Action::Kill));
}

#[test]
fn a_stop_without_patience_kills_also_one_that_is_being_asked() {
    let now = Instant::now();
    assert_eq!(up(now).on(Event::Stop(Duration::ZERO), now), Some(Action::Kill));
    let mut machine = up(now);
    machine.on(Event::Stop(LONG), now);
    assert_eq!(machine.on(Event::Stop(Duration::from_secs(1)), now), None);
    assert_eq!(machine.wake(), Some(now + Duration::from_secs(1)));
    assert_eq!(machine.on(Event::Stop(Duration::ZERO), now), Some(Action::Kill));
    assert_eq!(machine.on(Event::Ended(End::Signal(9)), now), Some(Action::EndHelper));
}

#[test]
fn a_proxy_has_nothing_to_ask_and_nothing_to_clean() {
    let now = Instant::now();
    let mut machine = Machine::new(Service::Proxy, false, 0, None);
    assert_eq!(machine.on(Event::Start, now), Some(Action::Run));
    machine.on(Event::Began, now);
    assert_eq!(machine.on(Event::Stop(LONG), now), Some(Action::Terminate));
    assert_eq!(machine.on(Event::Ended(End::Code(0, None)), now), None);
    assert_eq!(machine.state(), State::Inactive);
}

#[test]
fn a_guest_that_powers_itself_off_stays_down_and_a_proxy_that_ends_does_not() {
    let now = Instant::now();
    let mut machine = up(now);
    assert_eq!(machine.on(Event::Ended(End::Code(0, None)), now), Some(Action::Clean));
    machine.on(Event::Helped(true), now);
    assert_eq!((machine.state(), machine.wanted()), (State::Inactive, false));
    assert_eq!(machine.detail(), Some("powered off from inside the guest"));

    let mut machine = Machine::new(Service::Proxy, false, 0, None);
    machine.on(Event::Start, now);
    machine.on(Event::Began, now);
    machine.on(Event::Ended(End::Code(0, None)), now);
    assert_eq!((machine.state(), machine.wanted()), (State::Activating, true));
}

#[test]
fn what_is_stopped_while_it_is_cleaned_up_after_is_down_because_somebody_said_so() {
    let now = Instant::now();
    let mut machine = up(now);
    assert_eq!(machine.on(Event::Ended(End::Code(3, None)), now), Some(Action::Clean));
    assert_eq!(machine.on(Event::Stop(LONG), now), None);
    machine.on(Event::Helped(true), now);
    assert_eq!((machine.state(), machine.detail()), (State::Inactive, None));
}

#[test]
fn pauses_grow_to_half_a_minute_and_then_it_has_failed() {
    let mut now = Instant::now();
    let mut machine = up(now);
    let mut pauses = Vec::new();
    loop {
        failed(&mut machine, now);
        let Some(due) = machine.wake() else { break };
        pauses.push((due - now).as_secs());
        now = due;
        assert_eq!(machine.on(Event::Time, now), Some(Action::Clean));
        assert_eq!(machine.on(Event::Helped(true), now), Some(Action::Run));
        machine.on(Event::Began, now);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!((pauses.len(), PAUSES.1.as_secs()), (GIVE_UP as usize - 1, 30));
    assert_eq!((machine.state(), machine.restarts()), (State::Failed, 7));
    assert_eq!(machine.detail(), Some("ended by signal 9"));
    assert!(machine.wanted(), "a reboot may try again");
    assert_eq!(machine.on(Event::Start, now), Some(Action::Clean));
    assert_eq!(machine.restarts(), 0);
}

#[test]
fn a_service_that_ran_for_long_begins_with_the_shortest_pause_again() {
    let now = Instant::now();
    let mut machine = up(now);
    for _ in 1..GIVE_UP {
        machine.on(Event::Ended(End::Unknown), now);
        machine.on(Event::Helped(true), now);
        let due = machine.wake().unwrap();
        machine.on(Event::Time, due);
        machine.on(Event::Helped(true), now);
        machine.on(Event::Began, now);
    }
    failed(&mut machine, now + STEADY);
    assert_eq!(machine.wake(), Some(now + STEADY + PAUSES.0));
}

#[test]
fn a_start_during_a_stop_is_carried_out_after_it() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.on(Event::Stop(LONG), now);
    assert_eq!(machine.on(Event::Start, now), None);
    machine.on(Event::Helped(true), now);
    machine.on(Event::Ended(End::Code(0, None)), now);
    assert_eq!(machine.on(Event::Helped(true), now), Some(Action::Clean));
    assert_eq!(machine.on(Event::Helped(true), now), Some(Action::Run));
}

#[test]
fn a_cleaning_that_hangs_is_ended_and_does_not_stand_in_the_way() {
    let now = Instant::now();
    let mut machine = vm();
    machine.on(Event::Start, now);
    assert_eq!(machine.on(Event::Time, now + CLEANING), Some(Action::KillHelper));
    assert_eq!(machine.on(Event::Helped(false), now), Some(Action::Run));
}

#[test]
fn a_process_that_does_not_begin_is_a_failure_like_any_other() {
    let now = Instant::now();
    let mut machine = vm();
    machine.on(Event::Start, now);
    machine.on(Event::Helped(true), now);
    assert_eq!(machine.on(Event::Ended(End::NotStarted("no such file".into())), now), Some(Action::Clean));
    machine.on(Event::Helped(true), now);
    assert_eq!((machine.state(), machine.detail()), (State::Activating, Some("no such file")));
    assert!(machine.is_resting());
}

/// What the world around a machine does.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Start,
    Stop(u64),
    End(i32),
    Help(bool),
    Wait(u64),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        Just(Turn::Start),
        prop_oneof![Just(0_u64), 1..100_u64].prop_map(Turn::Stop),
        (0..2_i32).prop_map(Turn::End),
        any::<bool>().prop_map(Turn::Help),
        (1..120_u64).prop_map(Turn::Wait),
    ];
    proptest::collection::vec(turn, 0..60)
}

/// A machine in a world that has at most one process and one helper, as the unit around it has.
struct World {
    machine: Machine,
    now: Instant,
    process: bool,
    helper: Option<Action>,
}

impl World {
    fn on(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            match self.machine.on(event, self.now) {
                Some(Action::Run) => {
                    assert!(!self.process, "a second process");
                    assert!(self.helper.is_none(), "started while a helper works");
                    assert!(self.machine.wanted(), "started and not wanted");
                    self.process = true;
                    next = Some(Event::Began);
                }
                Some(action @ (Action::Clean | Action::Halt)) => {
                    assert!(self.helper.is_none(), "a second helper");
                    assert_eq!(self.process, action == Action::Halt, "{action:?}");
                    self.helper = Some(action);
                }
                Some(Action::Terminate | Action::Kill | Action::TerminateAll) => assert!(self.process),
                Some(Action::EndHelper | Action::KillHelper) => assert!(self.helper.is_some()),
                None => {}
            }
        }
        if self.machine.at_rest() {
            assert!(!self.process && self.helper.is_none(), "at rest with something running");
        }
        assert!(!self.process || self.machine.state() != State::Inactive);
    }
}

proptest! {
    #[test]
    fn there_is_never_a_second_process_and_a_stop_always_ends(
        proxy in any::<bool>(),
        turns in turns(),
    ) {
        let service = if proxy { Service::Proxy } else { Service::Vm };
        let machine = Machine::new(service, false, 0, None);
        let mut world = World { machine, now: Instant::now(), process: false, helper: None };
        for turn in turns {
            match turn {
                Turn::Start => world.on(Event::Start),
                Turn::Stop(seconds) => world.on(Event::Stop(Duration::from_secs(seconds))),
                Turn::End(code) if world.process => {
                    world.process = false;
                    world.on(Event::Ended(End::Code(code, None)));
                }
                Turn::Help(well) if world.helper.is_some() => {
                    world.helper = None;
                    world.on(Event::Helped(well));
                }
                Turn::Wait(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.on(Event::Time);
                }
                _ => {}
            }
        }
        // Whatever happened: once it is not wanted, and nobody asks for anything more, it comes to rest.
        world.on(Event::Stop(Duration::ZERO));
        for _ in 0..10 {
            if std::mem::take(&mut world.process) {
                world.on(Event::Ended(End::Signal(9)));
            }
            if world.helper.take().is_some() {
                world.on(Event::Helped(true));
            }
        }
        prop_assert_eq!(world.machine.state(), State::Inactive);
    }
}
