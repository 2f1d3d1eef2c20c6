//! The one error type: an operation, an object, and the source that says why.
//!
//! An error's own text never repeats its source; the chain is printed once, at the top, by `cli::ui`. A [`Kind`] owns
//! the exit code. Touches nothing.

use std::{borrow::Cow, fmt};

/// The result of everything fallible in fireclaw.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to the caller of the program. Documented for users in `docs/EXIT_CODES.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something did not work (exit 1).
    Failed,
    /// A usage error or a refused value; nothing was changed (exit 2).
    Refused,
    /// There is no such instance or image (exit 3).
    NotFound,
    /// The host lacks something that `doctor` names (exit 4).
    HostNotReady,
    /// The instance was made and is kept, but it is not healthy (exit 5).
    Unhealthy,
    /// Another fireclaw holds the instance (exit 6).
    Held,
    /// Stopped by Ctrl-C or SIGTERM (exit 130).
    Interrupted,
}

impl Kind {
    /// Every kind, in the order of its exit code.
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Refused,
        Self::NotFound,
        Self::HostNotReady,
        Self::Unhealthy,
        Self::Held,
        Self::Interrupted,
    ];

    /// The process exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Refused => 2,
            Self::NotFound => 3,
            Self::HostNotReady => 4,
            Self::Unhealthy => 5,
            Self::Held => 6,
            Self::Interrupted => 130,
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation on an object, with its cause and the next thing to do.
#[derive(Debug)]
pub struct Error {
    operation: Cow<'static, str>,
    object: String,
    kind: Kind,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// `operation` is a verb phrase ("create", "wait for"), `object` what it was done to ("tap tmybot2").
    pub fn new(operation: impl Into<Cow<'static, str>>, object: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            object: object.into(),
            kind: Kind::Failed,
            hint: None,
            source: None,
        }
    }

    /// A value that the user gave and that cannot be taken: `refused("--host-port", "80", "is below 1024")`.
    pub fn refused(what: impl fmt::Display, value: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new("accept", format!("{what} `{value}`")).kind(Kind::Refused).because(why)
    }

    /// Attaches what went wrong underneath. A source that is itself an [`Error`] hands its kind (when this one has
    /// none of its own) and its hint up.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        let source = source.into();
        if let Some(inner) = source.downcast_ref::<Self>() {
            if self.kind == Kind::Failed {
                self.kind = inner.kind;
            }
            if self.hint.is_none() {
                self.hint.clone_from(&inner.hint);
            }
        }
        self.source = Some(source);
        self
    }

    /// Attaches a cause that is a sentence and not an error value.
    #[must_use]
    pub fn because(self, why: impl fmt::Display) -> Self {
        self.source(Source::from(why.to_string()))
    }

    /// Adds what else is known, such as the end of a log, below the causes. Everything else stays.
    #[must_use]
    pub fn adding(self, more: impl fmt::Display) -> Self {
        let causes = self.causes().join(": ");
        self.because(format!("{causes}\n{more}"))
    }

    /// Sets the kind, and with it the exit code.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Names the next command or the next thing to look at.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the error means to the caller.
    pub const fn get_kind(&self) -> Kind {
        self.kind
    }

    /// The next thing to do, when one is known.
    pub fn get_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The verb phrase, for the guest's JSON events.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// What the operation was done to.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The causes, outermost first, each without its own sources.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes
    }

    /// The whole chain on one line, for a table cell or a journal.
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        for cause in self.causes() {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text.replace('\n', " ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.operation, self.object)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Turns a foreign error into an [`Error`] at the border where it appears.
pub trait Context<T> {
    /// `result.context("read", path.display())`
    fn context(self, operation: &'static str, object: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Source>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(operation, object.to_string()).source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_does_not_repeat_the_source() {
        let error = Error::new("read", "/x").because("permission denied");
        assert_eq!(error.to_string(), "cannot read /x");
        assert_eq!(error.one_line(), "cannot read /x: permission denied");
    }

    #[test]
    fn kind_and_hint_come_up_from_the_source() {
        let inner = Error::new("lock", "instance a").kind(Kind::Held).hint("wait");
        let outer = Error::new("stop", "a").source(inner);
        assert_eq!((outer.get_kind(), outer.get_hint()), (Kind::Held, Some("wait")));
    }

    #[test]
    fn exit_codes_are_distinct() {
        let mut codes = Kind::ALL.map(Kind::exit_code);
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
