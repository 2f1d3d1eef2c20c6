//! Progress: a live step with its elapsed time on a terminal, one plain line a step elsewhere. Touches stderr.

use std::time::{Duration, Instant};

use fireclaw_core::{
    plan::{Action, Direction, Plan},
    report::StepTime,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Ui, harmless, say};
use crate::engine::{Entry, Observer};

/// Shows steps as they go.
pub struct Progress {
    ui: Ui,
    bar: Option<ProgressBar>,
    current: String,
    begun: Instant,
}

impl Progress {
    pub(super) fn new(ui: Ui) -> Self {
        Self { ui, bar: None, current: String::new(), begun: Instant::now() }
    }

    /// A step begins.
    pub fn begin(&mut self, title: &str) {
        title.clone_into(&mut self.current);
        self.begun = Instant::now();
        if self.ui.live {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}  {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        }
    }

    /// Something that happens inside the step.
    pub fn detail(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            let short: String = harmless(text).chars().filter(|c| *c != '\n').take(60).collect();
            bar.set_message(format!("{}: {short}", self.current));
        }
    }

    /// The step ended.
    pub fn end(&mut self, ms: u64, ok: bool) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.ui.quiet {
            let mark = if ok { self.ui.paint("32", "ok  ") } else { self.ui.paint("31", "FAIL") };
            say(&format!("{mark} {:<24} {:>9}", self.current, seconds(ms)));
        }
    }

    /// A step that is timed here.
    pub fn step<T>(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut Self) -> fireclaw_core::error::Result<T>,
    ) -> fireclaw_core::error::Result<(T, StepTime)> {
        self.begin(title);
        let result = work(self);
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.end(ms, result.is_ok());
        result.map(|value| (value, StepTime { name: title.to_owned(), ms }))
    }
}

impl Observer for Progress {
    fn plan(&mut self, _: &Plan) {}

    fn begin(&mut self, action: Action) {
        let lead = if action.direction == Direction::Undo { "undo: " } else { "" };
        Progress::begin(self, &format!("{lead}{}", action.title()));
    }

    fn end(&mut self, _: Action, ms: u64, ok: bool) {
        Progress::end(self, ms, ok);
    }

    fn journalled(&mut self, _: &Entry) {}

    fn detail(&mut self, text: &str) {
        Progress::detail(self, text);
    }

    fn warn(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.suspend(|| self.ui.warn(text));
        } else {
            self.ui.warn(text);
        }
    }
}

/// Milliseconds as seconds with one or two decimals.
pub fn seconds(ms: u64) -> String {
    let digits = if ms < 10_000 { 2 } else { 1 };
    #[expect(clippy::cast_precision_loss, reason = "a duration for a person")]
    let seconds = ms as f64 / 1000.0;
    format!("{seconds:.digits$} s")
}
