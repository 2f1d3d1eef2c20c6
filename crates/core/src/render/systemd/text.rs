//! The text of a unit file: sections, and values quoted as systemd reads them (systemd.syntax(7), systemd.unit(5)).
//! Touches nothing.

use std::{fmt::Display, path::Path};

/// A unit file that is being put together.
#[derive(Debug, Default)]
pub(super) struct Unit {
    text: String,
}

impl Unit {
    /// Begins with a comment.
    pub(super) fn beginning_with(comment: &str) -> Self {
        let mut this = Self::default();
        this.note(comment);
        this
    }

    /// A comment of one or more lines.
    pub(super) fn note(&mut self, comment: &str) {
        for line in comment.lines() {
            self.text.push_str(&format!("# {line}\n"));
        }
    }

    /// Begins a section.
    pub(super) fn section(&mut self, name: &str) {
        self.text.push_str(&format!("\n[{name}]\n"));
    }

    /// A property whose value needs no quotes.
    pub(super) fn set(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("{name}={value}\n"));
    }

    /// A property whose value is a list of words, each quoted where it must be. An empty list leaves it out.
    pub(super) fn words<'a>(&mut self, name: &str, words: impl IntoIterator<Item = &'a str>) {
        let quoted: Vec<String> = words.into_iter().map(quoted).collect();
        if !quoted.is_empty() {
            self.set(name, quoted.join(" "));
        }
    }

    /// A property with one path.
    pub(super) fn path(&mut self, name: &str, path: &Path) {
        self.set(name, quoted(&path.to_string_lossy()));
    }

    /// A file that systemd hands over. Here nothing is quoted: the path goes to the end of the line.
    pub(super) fn credential(&mut self, name: &str, path: &Path) {
        self.set("LoadCredential", format!("{name}:{}", path.to_string_lossy().replace('%', "%%")));
    }

    /// A command line: a program and its words, in which systemd would else replace variables too.
    pub(super) fn command<'a>(
        &mut self,
        name: &str,
        program: &Path,
        words: impl IntoIterator<Item = &'a str>,
    ) {
        let mut line = quoted(&program.to_string_lossy());
        for word in words {
            line.push(' ');
            line.push_str(&quoted(&word.replace('$', "$$")));
        }
        self.set(name, line);
    }

    /// The finished text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// One word as a unit file holds it: specifiers doubled, and quotes around what is more than a plain word.
pub(super) fn quoted(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,:@%~$".contains(c) || !c.is_ascii();
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How systemd reads one word: C escapes inside quotes, then specifiers.
    fn read(text: &str) -> String {
        let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let mut word = String::new();
        let mut rest = inner.unwrap_or(text).chars();
        while let Some(c) = rest.next() {
            match (c, inner.is_some()) {
                ('\\', true) => match rest.next().unwrap() {
                    'x' => {
                        let code: String = rest.by_ref().take(2).collect();
                        word.push(char::from(u8::from_str_radix(&code, 16).unwrap()));
                    }
                    other => word.push(other),
                },
                (c, _) => word.push(c),
            }
        }
        word.replace("%%", "%")
    }

    proptest::proptest! {
        #[test]
        fn a_word_is_read_as_it_was_meant(word in "[ -~\t\né]{0,20}") {
            let text = quoted(&word);
            proptest::prop_assert!(!text.contains('\n'));
            if !text.starts_with('"') {
                proptest::prop_assert!(!text.contains([' ', '\\', '\'', '"', '#', ';']));
            }
            proptest::prop_assert_eq!(read(&text), word);
        }
    }

    #[test]
    fn a_command_keeps_its_dollars() {
        let mut unit = Unit::default();
        unit.command("ExecStart", Path::new("/opt/a b/fire$claw"), ["run", "$HOME", "100%"]);
        assert_eq!(unit.finish(), "ExecStart=\"/opt/a b/fire$claw\" run $$HOME 100%%\n");
    }
}
