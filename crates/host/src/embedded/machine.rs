//! What happens to one service, as a state machine that touches nothing: events in, at most one action out, the time
//! given with each event.
//!
//! ```text
//!            start                       run                    stop              halt ended      deadline
//!  Down ───────────▶ Preparing (clean) ──────▶ Up ───────────▶ Asking (halt) ──▶ Awaiting ──▶ Terminating ──▶ Killing
//!   ▲  ▲                   ▲                    │                 │                  │             │            │
//!   │  └────── exit 0 ─┐   │ pause is over      ▼ ended           └──────────────────┴─── ended ───┴────────────┘
//!   │                  ├── Resting ◀──── Tidying (clean) ◀────────── Closing (until halt has ended) ◀──┘
//!   └── stopped ───────┘                   │
//!                              Failed ◀────┘ too many failures in a row
//! ```
//! The proxy has nothing to ask and nothing to clean: those states are passed over.

use std::time::{Duration, Instant};

use crate::supervisor::{Service, State};

/// Between SIGTERM and SIGKILL, for the service's process and for a helper.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// The most that `fireclaw clean` may take.
pub(super) const CLEANING: Duration = Duration::from_mins(1);
/// The first and the longest pause before a service is started again.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A service that ran for so long was well: its failures before are forgotten.
pub(super) const STEADY: Duration = Duration::from_mins(1);
/// After so many failures in a row, about a minute and a half of trying, a service has failed.
pub(super) const GIVE_UP: u32 = 8;

/// How a service's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code, and the last that it said where that tells something.
    Code(i32, Option<String>),
    /// With exit code 0 because the guest restarts, and its VMM with it.
    Restart,
    /// By this signal.
    Signal(i32),
    /// Unseen: it was not our child, or it ended while there was no supervisor.
    Unknown,
    /// It did not begin, and why.
    NotStarted(String),
}

impl End {
    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Code(code, None) => format!("ended with exit code {code}"),
            Self::Code(code, Some(words)) => format!("ended with exit code {code}, its last words: {words}"),
            Self::Restart => "ended for a restart of the guest".to_owned(),
            Self::Signal(signal) => format!("ended by signal {signal}"),
            Self::Unknown => "ended unseen".to_owned(),
            Self::NotStarted(why) => why.clone(),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody wants it to run.
    Start,
    /// A new supervisor found it wanted and not running.
    Resume,
    /// A new supervisor found its process.
    Adopt,
    /// A new supervisor found it unwanted, not running, and maybe not cleaned up after.
    Tidy,
    /// Somebody wants it down, gracefully for so long.
    Stop(Duration),
    /// Its process runs.
    Began,
    /// Its process ended, or did not begin.
    Ended(End),
    /// The helper (`clean` or `halt`) ended, with success or not.
    Helped(bool),
    /// The moment of [`Machine::wake`] has come.
    Time,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start `fireclaw clean` as the helper.
    Clean,
    /// Start `fireclaw halt` as the helper.
    Halt,
    /// Start the service's process.
    Run,
    /// SIGTERM for the process.
    Terminate,
    /// SIGKILL for the process.
    Kill,
    /// SIGTERM for the helper.
    EndHelper,
    /// SIGKILL for the helper.
    KillHelper,
    /// SIGTERM for both: `halt` has had its time.
    TerminateAll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Preparing { until: Option<Instant> },
    Up { since: Instant },
    Asking { until: Instant },
    Awaiting { until: Instant },
    Terminating { until: Instant },
    Killing,
    Closing { until: Option<Instant> },
    Tidying { until: Option<Instant> },
    Resting { until: Instant },
    Failed,
}

/// What is to follow an end that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    StayDown,
    Retry(Duration),
    GiveUp,
}

/// One service.
#[derive(Debug)]
pub(super) struct Machine {
    service: Service,
    phase: Phase,
    wanted: bool,
    restarts: u32,
    failures: u32,
    detail: Option<String>,
    verdict: Option<Verdict>,
    /// `halt` may outlive the process that it asks to end.
    halting: bool,
}

impl Machine {
    /// A service that is down, or that failed before.
    pub(super) fn new(service: Service, wanted: bool, restarts: u32, failed: Option<String>) -> Self {
        let phase = if failed.is_some() { Phase::Failed } else { Phase::Down };
        Self { service, phase, wanted, restarts, failures: 0, detail: failed, verdict: None, halting: false }
    }

    /// Whether somebody wants it to run. A guest that is powered off from inside is not wanted any more.
    pub(super) const fn wanted(&self) -> bool {
        self.wanted
    }

    /// How often it was started again since it was started on purpose.
    pub(super) const fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why it is in its state.
    pub(super) fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Nothing runs and nothing is going to.
    pub(super) const fn at_rest(&self) -> bool {
        matches!(self.phase, Phase::Down | Phase::Failed)
    }

    /// The state for reports.
    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::Down => State::Inactive,
            Phase::Failed => State::Failed,
            Phase::Up { .. } => State::Active,
            Phase::Preparing { .. } | Phase::Resting { .. } => State::Activating,
            Phase::Tidying { .. } if self.wanted => State::Activating,
            _ => State::Deactivating,
        }
    }

    /// Waits for its next try, or the last one did not begin.
    pub(super) const fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Resting { .. })
    }

    /// When [`Event::Time`] is due.
    pub(super) const fn wake(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asking { until }
            | Phase::Awaiting { until }
            | Phase::Terminating { until }
            | Phase::Resting { until } => Some(until),
            Phase::Preparing { until } | Phase::Closing { until } | Phase::Tidying { until } => until,
            _ => None,
        }
    }

    /// Takes an event and says what to do.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Start => self.start(now),
            Event::Resume => {
                self.restarts += 1;
                Some(self.begin(now))
            }
            Event::Adopt => {
                self.phase = Phase::Up { since: now };
                None
            }
            Event::Tidy => self.tidy(now),
            Event::Stop(within) => self.stop(within, now),
            Event::Began => {
                (self.phase, self.detail) = (Phase::Up { since: now }, None);
                None
            }
            Event::Ended(end) => self.ended(&end, now),
            Event::Helped(well) => self.helped(well, now),
            Event::Time => self.time(now),
        }
    }

    fn has_guest(&self) -> bool {
        self.service == Service::Vm
    }

    fn begin(&mut self, now: Instant) -> Action {
        self.phase = Phase::Preparing { until: self.has_guest().then(|| now + CLEANING) };
        if self.has_guest() { Action::Clean } else { Action::Run }
    }

    fn start(&mut self, now: Instant) -> Option<Action> {
        self.wanted = true;
        if matches!(self.phase, Phase::Up { .. } | Phase::Preparing { .. }) {
            return None;
        }
        // Somebody's decision: what went wrong before does not delay it.
        (self.restarts, self.failures, self.verdict, self.detail) = (0, 0, None, None);
        (self.at_rest() || self.is_resting()).then(|| self.begin(now))
    }

    fn stop(&mut self, within: Duration, now: Instant) -> Option<Action> {
        self.wanted = false;
        let (by, has_guest) = (now + within, self.has_guest());
        match &mut self.phase {
            Phase::Failed | Phase::Resting { .. } => {
                (self.phase, self.detail) = (Phase::Down, None);
                None
            }
            Phase::Up { .. } | Phase::Asking { .. } | Phase::Awaiting { .. } | Phase::Terminating { .. }
                if within.is_zero() =>
            {
                self.phase = Phase::Killing;
                Some(Action::Kill)
            }
            Phase::Up { .. } if has_guest => {
                (self.phase, self.halting) = (Phase::Asking { until: by }, true);
                Some(Action::Halt)
            }
            Phase::Up { .. } => {
                self.phase = Phase::Terminating { until: by };
                Some(Action::Terminate)
            }
            // It ended by itself a moment ago and is cleaned up after. That it stays down is now somebody's decision.
            Phase::Tidying { .. } => {
                self.detail = None;
                None
            }
            // Asked again with less patience.
            Phase::Asking { until } | Phase::Awaiting { until } | Phase::Terminating { until } => {
                *until = by.min(*until);
                None
            }
            _ => None,
        }
    }

    fn ended(&mut self, end: &End, now: Instant) -> Option<Action> {
        let lasted = match self.phase {
            Phase::Up { since } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        if matches!(self.phase, Phase::Up { .. } | Phase::Preparing { .. }) {
            self.verdict = Some(self.judge(end, lasted));
        } else {
            self.detail = None;
        }
        if self.halting {
            self.phase = Phase::Closing { until: Some(now + GRACE) };
            return Some(Action::EndHelper);
        }
        self.tidy(now)
    }

    fn judge(&mut self, end: &End, lasted: Duration) -> Verdict {
        if self.has_guest() && matches!(end, End::Code(0, _)) {
            self.wanted = false;
            self.detail = Some("powered off from inside the guest".to_owned());
            return Verdict::StayDown;
        }
        // A guest that restarts again and again is held back like any other failure, but the first time costs nothing.
        if *end == End::Restart && lasted >= STEADY {
            (self.failures, self.detail) = (0, None);
            return Verdict::Retry(Duration::ZERO);
        }
        self.failures = if lasted >= STEADY { 1 } else { self.failures + 1 };
        self.detail = Some(end.describe());
        if self.failures >= GIVE_UP {
            return Verdict::GiveUp;
        }
        Verdict::Retry(PAUSES.0.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSES.1))
    }

    fn tidy(&mut self, now: Instant) -> Option<Action> {
        if self.has_guest() {
            self.phase = Phase::Tidying { until: Some(now + CLEANING) };
            return Some(Action::Clean);
        }
        self.settle(now)
    }

    /// The process is gone and cleaned up after: what is next?
    fn settle(&mut self, now: Instant) -> Option<Action> {
        self.phase = match self.verdict.take() {
            _ if !self.wanted => Phase::Down,
            Some(Verdict::Retry(pause)) => Phase::Resting { until: now + pause },
            Some(Verdict::GiveUp) => Phase::Failed,
            // Stopped, and wanted again meanwhile.
            Some(Verdict::StayDown) | None => return Some(self.begin(now)),
        };
        None
    }

    fn helped(&mut self, well: bool, now: Instant) -> Option<Action> {
        let halted = std::mem::take(&mut self.halting);
        match self.phase {
            Phase::Preparing { .. } if self.wanted => {
                self.phase = Phase::Preparing { until: None };
                Some(Action::Run)
            }
            Phase::Preparing { .. } => {
                self.phase = Phase::Down;
                None
            }
            Phase::Asking { until } if halted && well => {
                self.phase = Phase::Awaiting { until };
                None
            }
            // The guest cannot be asked: waiting longer would not help it.
            Phase::Asking { .. } => {
                self.phase = Phase::Terminating { until: now + GRACE };
                Some(Action::Terminate)
            }
            Phase::Closing { .. } => self.tidy(now),
            Phase::Tidying { .. } => self.settle(now),
            _ => None,
        }
    }

    fn time(&mut self, now: Instant) -> Option<Action> {
        if self.wake().is_none_or(|due| due > now) {
            return None;
        }
        match &mut self.phase {
            Phase::Asking { .. } => {
                self.phase = Phase::Terminating { until: now + GRACE };
                Some(Action::TerminateAll)
            }
            Phase::Awaiting { .. } => {
                self.phase = Phase::Terminating { until: now + GRACE };
                Some(Action::Terminate)
            }
            Phase::Terminating { .. } => {
                self.phase = Phase::Killing;
                Some(Action::Kill)
            }
            Phase::Preparing { until } | Phase::Closing { until } | Phase::Tidying { until } => {
                *until = None;
                Some(Action::KillHelper)
            }
            Phase::Resting { .. } => {
                self.restarts += 1;
                Some(self.begin(now))
            }
            _ => None,
        }
    }
}
