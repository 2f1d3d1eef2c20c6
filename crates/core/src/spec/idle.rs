//! When an instance goes to sleep by itself: what its flags say, what its record holds. Touches nothing.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    state::Lines,
};

const FLAG: &str = "--idle-after";
/// Writing memory down and waking costs seconds: less than this is no rest.
const LEAST: Duration = Duration::from_mins(1);
const MOST: Duration = Duration::from_hours(24 * 30);

/// When an instance sleeps by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Idle {
    /// `IDLE_AFTER`: after so long without a connection and without work of its own; `None` is never.
    pub after: Option<Duration>,
    /// `IDLE_EVEN_WITH_CHANNELS`: also with a channel that asks for messages, which nobody does while it sleeps.
    pub even_with_channels: bool,
}

/// What `--idle-after` says: `30m`, `2h`, `90s`, `1d`; `0` and `off` turn it off.
pub fn after(text: &str) -> Result<Option<Duration>> {
    let refuse = |why: &str| {
        Err(Error::refused(FLAG, text.escape_debug(), why)
            .hint("say it like 30m, 2h or 1d; `off` turns it off"))
    };
    if matches!(text, "0" | "off" | "none") {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return refuse("is no time with a unit (s, m, h or d)"),
    };
    let Ok(number) = digits.parse::<u64>() else { return refuse("is no time with a unit (s, m, h or d)") };
    let after = Duration::from_secs(number.saturating_mul(unit));
    if (LEAST..=MOST).contains(&after) { Ok(Some(after)) } else { refuse("is not between 1m and 30d") }
}

impl Idle {
    /// Whether its proxy watches for it, and wakes it.
    pub const fn is_watched(&self) -> bool {
        self.after.is_some()
    }

    /// After how long it is put to sleep, if ever. `has_channel`: whether it asks somebody for messages.
    pub const fn sleeps_after(&self, has_channel: bool) -> Option<Duration> {
        if has_channel && !self.even_with_channels { None } else { self.after }
    }

    /// For people.
    pub fn describe(&self, has_channel: bool) -> String {
        match self.after.map(|after| after.as_secs()) {
            None => "never by itself".to_owned(),
            Some(_) if self.sleeps_after(has_channel).is_none() => {
                "never by itself: it has a channel, whose messages would wait (--idle-even-with-channels)"
                    .to_owned()
            }
            Some(seconds) if seconds % 60 == 0 => format!("after {} min without use", seconds / 60),
            Some(seconds) => format!("after {seconds} s without use"),
        }
    }

    pub(crate) fn take(lines: &mut Lines) -> Result<Self> {
        let after = match lines.take("IDLE_AFTER") {
            Some(text) if !text.is_empty() => after(&text)?,
            _ => None,
        };
        let even_with_channels = lines.take("IDLE_EVEN_WITH_CHANNELS").is_some_and(|text| text == "true");
        Ok(Self { after, even_with_channels })
    }

    pub(crate) fn push(&self, lines: &mut Lines) {
        if let Some(after) = self.after {
            lines.push("IDLE_AFTER", format!("{}s", after.as_secs()));
        }
        if self.even_with_channels {
            lines.push("IDLE_EVEN_WITH_CHANNELS", "true");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_and_nonsense_is_not() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)] {
            assert_eq!(after(text).unwrap(), Some(Duration::from_secs(seconds)), "{text}");
        }
        for off in ["0", "off", "none"] {
            assert_eq!(after(off).unwrap(), None);
        }
        for text in ["", "30", "m", "-5m", "1.5h", "30s", "31d", "30 m", "99999999999999999999m", "5é"] {
            assert!(after(text).unwrap_err().one_line().contains(FLAG), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let idle = Idle { after: Some(Duration::from_secs(90)), even_with_channels: true };
        let mut lines = Lines::default();
        idle.push(&mut lines);
        let mut again = Lines::parse("x", &lines.render().unwrap()).unwrap();
        assert_eq!(Idle::take(&mut again).unwrap(), idle);
        let mut none = Lines::default();
        Idle::default().push(&mut none);
        assert_eq!(none, Lines::default());
    }

    #[test]
    fn a_channel_keeps_it_awake_unless_told() {
        let mut idle = Idle { after: Some(Duration::from_mins(30)), ..Idle::default() };
        assert_eq!(idle.sleeps_after(false), Some(Duration::from_mins(30)));
        assert_eq!((idle.sleeps_after(true), idle.is_watched()), (None, true));
        assert!(idle.describe(true).contains("--idle-even-with-channels"), "{}", idle.describe(true));
        idle.even_with_channels = true;
        assert!(idle.sleeps_after(true).is_some());
        assert_eq!(idle.describe(true), "after 30 min without use");
    }
}
