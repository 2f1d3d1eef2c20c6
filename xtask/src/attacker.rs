//! Attacks from inside a guest: how a script of them is put together and what it says is judged. Touches nothing.

use fireclaw_core::error::{Error, Result};

use crate::say;

/// What all of them share.
const SHARED: &str = include_str!("files/attacker.py");

/// A whole script for the guest's Python, to be read from its standard input.
pub fn script(own: &str) -> Vec<u8> {
    format!("{SHARED}\n\n{own}").into_bytes()
}

/// How many were tried. An error when one got through, or hardly any was tried.
pub fn judge(said: &str) -> Result<usize> {
    say::detail(said);
    let through: Vec<&str> = said.lines().filter(|line| line.starts_with("BREACH")).collect();
    let tried = said.lines().filter(|line| line.starts_with("held ") || line.starts_with("sent ")).count();
    let why = match (through.is_empty(), tried) {
        (false, _) => through.join("; "),
        (true, ..=10) => format!("only {tried} were tried: {said}"),
        _ => return Ok(tried),
    };
    Err(Error::new("hold", "what a guest tried").because(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_gets_through_is_told_and_few_are_none() {
        let all = "held a\n".repeat(20);
        assert_eq!(judge(&all).unwrap(), 20);
        let error = judge(&format!("{all}BREACH the door 22\n")).unwrap_err();
        assert!(error.one_line().contains("BREACH the door 22"), "{}", error.one_line());
        assert!(judge("held a\n").is_err());
    }
}
