//! The shell quoting of files older than `plain-v1`, as Bash's `printf %q` writes it. Touches nothing.

/// The value behind shell quoting: backslashes, `'…'`, `"…"`, `$'…'`. `None` when a quote is not closed.
pub fn unquote(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.push(bytes.next()?),
            b'\'' => loop {
                match bytes.next()? {
                    b'\'' => break,
                    other => out.push(other),
                }
            },
            b'"' => loop {
                match bytes.next()? {
                    b'"' => break,
                    b'\\' if matches!(bytes.peek(), Some(b'"' | b'\\' | b'$' | b'`')) => {
                        out.push(bytes.next()?);
                    }
                    other => out.push(other),
                }
            },
            b'$' if bytes.peek() == Some(&b'\'') => {
                bytes.next();
                ansi_c(&mut bytes, &mut out)?;
            }
            // Unquoted blanks end the word: what follows was never part of the value.
            b' ' | b'\t' => break,
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// The inside of `$'…'`.
fn ansi_c(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>, out: &mut Vec<u8>) -> Option<()> {
    loop {
        match bytes.next()? {
            b'\'' => return Some(()),
            b'\\' => match bytes.next()? {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                b'a' => out.push(7),
                b'b' => out.push(8),
                b'e' | b'E' => out.push(27),
                b'f' => out.push(12),
                b'v' => out.push(11),
                b'x' => out.push(number(bytes, 16, 2)?),
                digit @ b'0'..=b'7' => {
                    let first = u32::from(digit - b'0');
                    let mut value = first;
                    for _ in 0..2 {
                        match bytes.peek() {
                            Some(next @ b'0'..=b'7') => {
                                value = value * 8 + u32::from(next - b'0');
                                bytes.next();
                            }
                            _ => break,
                        }
                    }
                    out.push(u8::try_from(value & 0xff).ok()?);
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

fn number(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>, radix: u32, digits: usize) -> Option<u8> {
    let mut value = 0;
    let mut seen = 0;
    while seen < digits {
        let Some(digit) = bytes.peek().and_then(|b| char::from(*b).to_digit(radix)) else { break };
        value = value * radix + digit;
        seen += 1;
        bytes.next();
    }
    (seen > 0).then(|| u8::try_from(value).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bash_writes() {
        for (quoted, value) in [
            ("plain", "plain"),
            ("''", ""),
            ("a\\ b", "a b"),
            ("a\\'b\\\"c\\$d", "a'b\"c$d"),
            ("$'a\\nb'", "a\nb"),
            ("$'\\303\\251'", "é"),
            ("$'\\xc3\\xa9'", "é"),
            ("'it'\\''s'", "it's"),
            ("\"a \\\"b\\\"\"", "a \"b\""),
            ("github\\,tmux", "github,tmux"),
        ] {
            assert_eq!(unquote(quoted).as_deref(), Some(value), "{quoted}");
        }
        for broken in ["'a", "\"a", "$'a", "a\\"] {
            assert_eq!(unquote(broken), None, "{broken}");
        }
    }
}
