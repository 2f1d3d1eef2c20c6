//! The printer of the project's own commands. Writes to standard output.
//!
//! What a test saw on its way is a detail: it is kept, and printed when the test fails or when somebody asked for all.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
};

thread_local! {
    static DETAILS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static VERBOSE: Cell<bool> = const { Cell::new(false) };
}

/// One line.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away has seen enough.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A headline.
pub fn head(text: &str) {
    line(&format!("\n=== {text}"));
}

/// Details are printed as they come.
pub fn verbose(on: bool) {
    VERBOSE.set(on);
}

/// One line that matters only when something fails.
pub fn detail(text: &str) {
    if VERBOSE.get() {
        line(text);
    } else {
        DETAILS.with_borrow_mut(|details| details.push(text.to_owned()));
    }
}

/// The details since the last call, oldest first, at most `limit` from the end.
pub fn take_details(limit: usize) -> Vec<String> {
    let mut details = DETAILS.take();
    details.drain(..details.len().saturating_sub(limit));
    details
}
