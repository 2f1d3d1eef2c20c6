//! `KEY=VALUE` files: one a line, values raw to the end of the line, `FIRECLAW_STATE_FORMAT` first. Touches nothing.

use super::legacy;
use crate::error::{Error, Result};

/// The key whose value names the format.
const FORMAT_KEY: &str = "FIRECLAW_STATE_FORMAT";

/// What helps where a file of a record is damaged; `ID` stands for the instance, which only who reads it knows.
pub const RESTORE: &str = "restore the file, or clear the instance with `fireclaw destroy ID --force`";

/// Which text a record was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Shell-quoted, without a format line.
    Legacy,
    /// The Bash fireclaw 0.2.
    PlainV1,
    /// Ours.
    PlainV2,
}

/// A file of keys and values in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// The format that it was in.
    pub format: Format,
    pairs: Vec<(String, String)>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { format: Format::PlainV2, pairs: Vec::new() }
    }
}

impl Lines {
    /// Reads a file's text. `what` names the file in errors; no value is ever in one.
    pub fn parse(what: &str, text: &str) -> Result<Self> {
        let damaged = |number: usize, why: &str| {
            Error::new("read", what).because(format!("line {number} {why}")).hint(RESTORE)
        };
        let mut lines =
            text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let mut format = Format::Legacy;
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (index, line) in lines.by_ref() {
            let (key, value) = line.split_once('=').ok_or_else(|| damaged(index + 1, "is not KEY=VALUE"))?;
            if !is_key(key) {
                return Err(damaged(index + 1, "has a key that is not of A-Z, 0-9 and _"));
            }
            if pairs.is_empty() && format == Format::Legacy && key == FORMAT_KEY {
                format = match value {
                    "plain-v1" => Format::PlainV1,
                    "plain-v2" => Format::PlainV2,
                    _ => {
                        return Err(Error::new("read", what)
                            .because("it is in a newer format")
                            .hint("use the fireclaw that wrote it, or a newer one"));
                    }
                };
                continue;
            }
            let value = if format == Format::Legacy {
                legacy::unquote(value).ok_or_else(|| damaged(index + 1, "has broken shell quoting"))?
            } else {
                value.to_owned()
            };
            pairs.push((key.to_owned(), value));
        }
        if pairs.is_empty() {
            return Err(Error::new("read", what).because("it is empty").hint(RESTORE));
        }
        Ok(Self { format, pairs })
    }

    /// The text in our own format. A value with a newline is a defect of the caller: it was to be refused earlier.
    pub fn render(&self) -> Result<String> {
        let mut text = format!("{FORMAT_KEY}=plain-v2\n");
        for (key, value) in &self.pairs {
            if value.contains(['\n', '\r', '\0']) {
                return Err(Error::new("render", format!("key {key}")).because("its value holds a newline"));
            }
            text.push_str(key);
            text.push('=');
            text.push_str(value);
            text.push('\n');
        }
        Ok(text)
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.pairs.push((key.to_owned(), value.into()));
    }

    /// Takes the (last) value of a key out.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let mut value = None;
        self.pairs.retain_mut(|(name, text)| {
            if name == key {
                value = Some(std::mem::take(text));
            }
            name != key
        });
        value
    }

    /// What nobody has taken.
    pub fn rest(self) -> Vec<(String, String)> {
        self.pairs
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && !key.as_bytes()[0].is_ascii_digit()
        && key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_raw_to_the_end_of_the_line() {
        let mut lines = Lines::parse(".env", "FIRECLAW_STATE_FORMAT=plain-v1\nMODEL=a=b \"$x' \n").unwrap();
        assert_eq!(lines.format, Format::PlainV1);
        assert_eq!(lines.take("MODEL").unwrap(), "a=b \"$x' ");
    }

    #[test]
    fn damage_is_told_by_line_and_without_values() {
        for text in ["", "no equals sign secret-value", "FIRECLAW_STATE_FORMAT=plain-v1\nlower=secret-value"]
        {
            let error = Lines::parse(".env", text).unwrap_err().one_line();
            assert!(!error.contains("secret-value"), "{error}");
        }
        assert!(
            Lines::parse(".env", "FIRECLAW_STATE_FORMAT=plain-v9\nA=1")
                .unwrap_err()
                .one_line()
                .contains("newer")
        );
    }

    proptest::proptest! {
        #[test]
        fn parse_of_render_is_identity(pairs in proptest::collection::vec(("[A-Z_][A-Z0-9_]{0,20}", "[^\\x00\\n\\r]{0,60}"), 1..12)) {
            let lines = Lines { format: Format::PlainV2, pairs };
            let text = lines.render().unwrap();
            proptest::prop_assert_eq!(Lines::parse("x", &text).unwrap(), lines);
        }
    }
}
