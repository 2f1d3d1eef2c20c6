//! Commands in texts: Markdown, manual pages, Rust. Pure.

/// The programs whose commands are looked for, as they are written.
pub const PROGRAMS: [&str; 4] = ["fireclaw", "vm-setup", "vm-ctl", "cargo xtask"];

/// A command, or a flag, that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The line, from 1.
    pub line: usize,
    /// As it is written, without `sudo` and what comes after the command.
    pub text: String,
    /// Whether it has to be a whole command.
    pub complete: bool,
}

impl Mention {
    fn new(line: usize, text: &str, complete: bool) -> Self {
        Self { line, text: text.to_owned(), complete }
    }
}

/// Lines of fenced blocks of shell, and spans in backticks elsewhere.
pub fn in_markdown(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    // `None` outside, else whether the block is one of commands.
    let mut fence: Option<bool> = None;
    let mut begun = (0, String::new());
    let mut paragraph = Paragraph::default();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            found.extend(paragraph.end());
            fence =
                if fence.is_some() { None } else { Some(matches!(kind.trim(), "bash" | "sh" | "console")) };
            continue;
        }
        match fence {
            Some(true) => {
                if begun.1.is_empty() {
                    begun.0 = number;
                }
                if let Some(more) = line.trim_end().strip_suffix('\\') {
                    begun.1.push_str(more);
                    continue;
                }
                begun.1.push_str(line);
                found.extend(commands(&begun.1).map(|command| Mention::new(begun.0, &command, true)));
                begun.1.clear();
            }
            Some(false) => {}
            None if line.trim().is_empty() => found.extend(paragraph.end()),
            None => paragraph.push(number, line),
        }
    }
    found.extend(paragraph.end());
    found
}

/// Lines that belong together: a span may begin on one and end on the next.
#[derive(Default)]
struct Paragraph {
    lines: Vec<(usize, String)>,
}

impl Paragraph {
    fn push(&mut self, number: usize, line: &str) {
        self.lines.push((number, line.trim().to_owned()));
    }

    /// The spans of all lines so far that name a command or begin with a flag.
    fn end(&mut self) -> Vec<Mention> {
        let mut found = Vec::new();
        // The span that is open, and the line on which it began.
        let mut open: Option<(usize, String)> = None;
        for (number, line) in self.lines.drain(..) {
            for (index, part) in line.split('`').enumerate() {
                if index > 0 {
                    open = match open.take() {
                        Some((begun, span)) => {
                            found.extend(span_mentions(begun, span.trim()));
                            None
                        }
                        None => Some((number, String::new())),
                    };
                }
                if let Some((_, span)) = &mut open {
                    span.push_str(part);
                }
            }
            if let Some((_, span)) = &mut open {
                span.push(' ');
            }
        }
        found
    }
}

/// Spans in backticks of a page as clap renders it.
pub fn in_roff(text: &str) -> Vec<Mention> {
    let plain = text
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\&", "")
        .replace("\\fR", "")
        .replace("\\fB", "");
    plain.lines().enumerate().flat_map(|(index, line)| spans(index + 1, line)).collect()
}

/// Spans in backticks of comments and texts, and the flags that a hint names without them.
pub fn in_source(text: &str) -> Vec<Mention> {
    // A text that goes on in the next line is one line to its reader.
    let mut joined = String::new();
    let mut lines = text.lines();
    let mut numbered = Vec::new();
    let mut number = 0;
    while let Some(line) = lines.next() {
        number += 1;
        let first = number;
        joined.clear();
        joined.push_str(line);
        while joined.ends_with('\\') {
            joined.pop();
            let Some(more) = lines.next() else { break };
            number += 1;
            joined.push_str(more.trim_start());
        }
        numbered.push((first, joined.replace("\\n", " ").replace("\\\"", "\"")));
    }
    let mut found = Vec::new();
    let mut comment = Paragraph::default();
    for (number, line) in &numbered {
        if let Some(words) = line.trim_start().strip_prefix("//") {
            comment.push(*number, words.trim_start_matches(['/', '!']));
        } else {
            found.extend(comment.end());
            found.extend(spans(*number, line));
        }
        if let Some((_, hint)) = line.split_once("hint(") {
            found.extend(
                hint.split(|c: char| {
                    c.is_whitespace() || matches!(c, '"' | '`' | '(' | ')' | ',' | ';' | '.')
                })
                .filter(|word| is_flag(word))
                .map(|word| Mention::new(*number, word, false)),
            );
        }
    }
    found.extend(comment.end());
    found
}

fn is_flag(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()))
}

fn span_mentions(number: usize, span: &str) -> Vec<Mention> {
    if is_flag(span) {
        return vec![Mention::new(number, span, false)];
    }
    commands(span).map(|command| Mention::new(number, &command, false)).collect()
}

/// The spans of one line.
fn spans(number: usize, line: &str) -> Vec<Mention> {
    let mut alone = Paragraph::default();
    alone.push(number, line);
    alone.end()
}

/// Our commands in a line of shell: after `sudo` and variables, and between pipes and the like.
pub fn commands(line: &str) -> impl Iterator<Item = String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    // The quotes around each `$(` that is open.
    let mut around = Vec::new();
    let mut before = ' ';
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = parts.len() - 1;
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            // A comment.
            (None, '#') if before == ' ' => break,
            (None, ';' | '&' | '>') => {
                parts.push(String::new());
                before = letter;
                continue;
            }
            // Between words it is a pipe, inside a word a choice.
            (None, '|') if before == ' ' || letters.peek().is_some_and(|next| matches!(next, ' ' | '|')) => {
                parts.push(String::new());
                before = letter;
                continue;
            }
            (_, '$') if letters.peek() == Some(&'(') => {
                letters.next();
                around.push(quote.take());
                parts.push(String::new());
                before = ' ';
                continue;
            }
            (None, ')') if !around.is_empty() => {
                quote = around.pop().flatten();
                parts.push(String::new());
                before = letter;
                continue;
            }
            _ => {}
        }
        parts[last].push(letter);
        before = letter;
    }
    parts.into_iter().filter_map(|part| ours(&part))
}

fn ours(part: &str) -> Option<String> {
    let mut rest = part.trim();
    loop {
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let variable = first.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        });
        if variable || matches!(first, "sudo" | "$") {
            rest = more.trim_start();
        } else {
            break;
        }
    }
    // The README's first command, before anything is installed.
    let rest = match rest.strip_prefix("cargo run --release -- ") {
        Some(arguments) => format!("fireclaw {arguments}"),
        None => rest.to_owned(),
    };
    let known = PROGRAMS.iter().any(|program| {
        rest.strip_prefix(program).is_some_and(|after| after.is_empty() || after.starts_with(' '))
    });
    known.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(mentions: &[Mention]) -> Vec<&str> {
        mentions.iter().map(|mention| mention.text.as_str()).collect()
    }

    #[test]
    fn commands_are_found_in_the_middle_of_a_line() {
        let found = |line: &str| commands(line).collect::<Vec<_>>();
        assert_eq!(found("sudo fireclaw list --json | jq '.[] | .id'  # all"), ["fireclaw list --json"]);
        assert_eq!(found("A_B=1 vm-ctl stop x && cargo xtask ci"), ["vm-ctl stop x", "cargo xtask ci"]);
        assert_eq!(found("curl -H \"x: $(fireclaw token my-bot)\" http://x"), ["fireclaw token my-bot"]);
        assert_eq!(found("fireclaw shell x \"a | b # c\""), ["fireclaw shell x \"a | b # c\""]);
        assert_eq!(found("fireclaw logs ID guest|host"), ["fireclaw logs ID guest|host"]);
        assert_eq!(found("cargo run --release -- setup --yes"), ["fireclaw setup --yes"]);
        for none in ["fireclaw-my-bot.service", "systemctl stop fireclaw", "fireclawd", "cargo build"] {
            assert!(found(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn blocks_are_whole_commands_and_spans_need_not_be() {
        let text = "Say `fireclaw\nsetup` or `--yes`.\n```bash\nfireclaw stop \\\n  my-bot\n```\n```text\nfireclaw x\n```\n";
        let found = in_markdown(text);
        assert_eq!(texts(&found), ["fireclaw setup", "--yes", "fireclaw stop   my-bot"]);
        assert_eq!((found[0].complete, found[2].complete, found[2].line), (false, true, 4));
    }

    #[test]
    fn texts_over_several_lines_and_hints_are_read() {
        let text =
            "x.hint(\"run `fireclaw \\\n    doctor --fix`, or --vmm qemu\")\n/// see `fireclaw\n/// list`\n";
        let found = in_source(text);
        assert_eq!(texts(&found), ["fireclaw doctor --fix", "--fix", "--vmm", "fireclaw list"]);
        assert_eq!(found[3].line, 3);
    }

    #[test]
    fn pages_are_read_without_their_marks() {
        assert_eq!(texts(&in_roff("see `fireclaw list \\-\\-json`\n")), ["fireclaw list --json"]);
    }
}
