//! The guest's answer while it works: one JSON event a line. Writes to the one stream that it is given.

use std::io::Write;

use fireclaw_core::guest::protocol::{Done, Event, Failure};

/// The longest line of a program that is passed on.
const LINE_MAX: usize = 1000;

/// Writes events. A reader that went away stops nothing: what was begun is finished, and the next request finds it done.
pub(super) struct Events<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Events<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// A step begins.
    pub(super) fn step(&mut self, name: impl Into<String>) {
        self.write(&Event::Step { name: name.into() });
    }

    /// A line of a program.
    pub(super) fn log(&mut self, line: &str) {
        if !line.trim().is_empty() {
            self.write(&Event::Log { line: line.chars().take(LINE_MAX).collect() });
        }
    }

    /// Something that the user should know.
    pub(super) fn warning(&mut self, text: impl Into<String>) {
        self.write(&Event::Warning { text: text.into() });
    }

    /// The end, well.
    pub(super) fn done(&mut self, done: Done) {
        self.write(&Event::Done(done));
    }

    /// The end, badly.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.write(&Event::Error(failure));
    }

    fn write(&mut self, event: &Event) {
        let _ = writeln!(self.out, "{event}").and_then(|()| self.out.flush());
    }
}
