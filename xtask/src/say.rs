//! The printer of the project's own commands. Writes to standard output.

use std::io::Write as _;

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
