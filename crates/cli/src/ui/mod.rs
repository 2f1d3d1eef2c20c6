//! The only printer: results to stdout, progress, warnings and errors to stderr. Touches the two streams.

mod progress;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use fireclaw_core::error::{Context, Error, Kind, Result};
pub use progress::{Progress, seconds};
use serde::Serialize;
pub use table::{fleet, table};

/// How this invocation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ui {
    quiet: bool,
    colour: bool,
    live: bool,
}

impl Ui {
    /// Looks at the terminal and at `NO_COLOR`.
    pub fn new(quiet: bool, no_color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { quiet, colour: terminal && !no_color, live: terminal && !quiet }
    }

    /// A printer that shows nothing but results, warnings and errors, for tests.
    pub const fn plain() -> Self {
        Self { quiet: true, colour: false, live: false }
    }

    /// A result in lines.
    pub fn result(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| {
            if text.ends_with('\n') || text.is_empty() { Ok(()) } else { out.write_all(b"\n") }
        });
        match written.and_then(|()| out.flush()) {
            // The reader (`head`, a pager) has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("write to", "standard output"),
        }
    }

    /// A result as JSON.
    pub fn json(self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value).context("render", "JSON")?;
        text.push('\n');
        self.result(&text)
    }

    /// Something worth knowing that is not a result.
    pub fn note(self, text: &str) {
        if !self.quiet {
            say(&harmless(text));
        }
    }

    /// Something that should be looked at and stops nothing.
    pub fn warn(self, text: &str) {
        say(&format!("{} {}", self.paint("33;1", "warning:"), harmless(text)));
    }

    /// An error with its causes and its hint.
    pub fn error(self, error: &Error) {
        say(&self.error_text(error));
    }

    /// The text of an error.
    pub fn error_text(self, error: &Error) -> String {
        let mut text = format!("{} {}", self.paint("31;1", "error:"), harmless(&error.to_string()));
        for cause in error.causes() {
            for (index, line) in harmless(&cause).lines().enumerate() {
                let lead = if index == 0 { "\n  caused by: " } else { "\n             " };
                text.push_str(lead);
                text.push_str(line);
            }
        }
        let usage =
            (error.get_kind() == Kind::Refused).then_some("`--help` after the command shows what it takes");
        if let Some(hint) = error.get_hint().or(usage) {
            text.push_str(&format!("\n{} {}", self.paint("36;1", "hint:"), harmless(hint)));
        }
        text
    }

    /// A progress display.
    pub fn progress(self) -> Progress {
        Progress::new(self)
    }

    /// Asks on the terminal; `None` when there is none to ask.
    pub fn ask(self, question: &str) -> Option<String> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let mut err = io::stderr().lock();
        let _ = write!(err, "{question} ").and_then(|()| err.flush());
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).ok()?;
        Some(answer.trim().to_owned())
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A text without what a terminal would obey or show in another order. Much of what is told comes from programs and files of
/// guests, and a guest is not to move a cursor, or to hide a line of ours.
fn harmless(text: &str) -> String {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let turned =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|c| !obeyed(*c) && !turned(*c)).collect()
}

/// Writes a line to stderr; nobody is left to tell when that fails.
fn say(text: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// The exit code of an error.
pub fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(error.get_kind().exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Causes, hints and operations can all be a guest's words.
    #[test]
    fn a_guest_has_no_hold_of_the_terminal() {
        let evil = "\u{1b}]0;x\u{7}\u{1b}[2J\r\u{9b}1A\u{202e}done\u{8}";
        let error = Error::new(evil, evil).source(Error::new("run", "x").because(evil)).hint(evil);
        let text = Ui::plain().error_text(&error);
        let left: Vec<char> =
            text.chars().filter(|c| c.is_control() && *c != '\n' || *c == '\u{202e}').collect();
        assert!(left.is_empty(), "{left:?} in {text:?}");
        assert!(text.contains("]0;x[2J1Adone"), "{text:?}");
        assert_eq!(harmless("a\tb\nc 🦀 é"), "a\tb\nc 🦀 é");
    }

    #[test]
    fn an_error_is_printed_once_with_causes_and_hint() {
        let error = Error::new("set up", "instance `a`").source(
            Error::new("run", "mke2fs").because("exit code 1: no space\nleft").hint("free some space"),
        );
        insta::assert_snapshot!(Ui::plain().error_text(&error), @r"
        error: cannot set up instance `a`
          caused by: cannot run mke2fs
          caused by: exit code 1: no space
                     left
        hint: free some space
        ");
    }
}
