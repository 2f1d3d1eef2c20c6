//! Whether the program would take a command, by its own definition. Runs nothing.

use clap::{
    Command, CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::find::Mention;

/// What is put where a text has a placeholder: good as an id, a number and a path.
const VALUE: &str = "1";

/// More ways to read a mention than this are a mistake in it.
const READINGS: usize = 64;

/// The definitions.
pub struct Judge {
    fireclaw: Command,
    xtask: Command,
    foreign: &'static [&'static str],
}

impl Judge {
    /// `foreign` are flags of other programs that texts name.
    pub fn new(foreign: &'static [&'static str]) -> Self {
        let built = |mut command: Command| {
            command.build();
            command
        };
        Self { fireclaw: built(fireclaw::args::Cli::command()), xtask: built(crate::Cli::command()), foreign }
    }

    /// Why the program would not take what is mentioned.
    pub fn judge(&self, mention: &Mention) -> Result<(), String> {
        let words = words(&mention.text)?;
        if words[0].starts_with("--") {
            // Each flag up to the next one is by itself.
            let mut starts = (0..words.len()).filter(|at| words[*at].starts_with("--"));
            return starts.try_for_each(|at| self.flag(&words[at..]));
        }
        for reading in readings(&words)? {
            self.command(&reading, mention.complete)?;
        }
        Ok(())
    }

    fn command(&self, words: &[String], complete: bool) -> Result<(), String> {
        let (definition, argv) = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["cargo", "xtask", rest @ ..] => (&self.xtask, [&["cargo xtask"], rest].concat()),
            ["vm-setup", rest @ ..] => (&self.fireclaw, [&["vm-setup", "setup"], rest].concat()),
            all => (&self.fireclaw, all.to_vec()),
        };
        let Err(error) = definition.clone().try_get_matches_from(argv) else { return Ok(()) };
        let filled_in = || {
            let is = |kind| matches!(error.get(kind), Some(ContextValue::String(value)) if value == VALUE);
            is(ContextKind::InvalidValue) || is(ContextKind::InvalidSubcommand)
        };
        match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(()),
            ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand if !complete => Ok(()),
            // `fireclaw completion SHELL`: what stands there is not a value.
            ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidSubcommand
                if filled_in() =>
            {
                Ok(())
            }
            _ => Err(error.to_string().lines().next().unwrap_or("refused").to_owned()),
        }
    }

    /// A flag by itself, perhaps with a value: some command has it, and takes that value.
    fn flag(&self, words: &[String]) -> Result<(), String> {
        let (name, with) = words[0].split_once('=').map_or((words[0].as_str(), None), |(n, v)| (n, Some(v)));
        if self.foreign.contains(&name) {
            return Ok(());
        }
        let long = name.trim_start_matches('-');
        let mut candidates = Vec::new();
        for definition in [&self.fireclaw, &self.xtask] {
            collect(definition, long, &mut candidates);
        }
        if candidates.is_empty() {
            return Err("no command has this flag".to_owned());
        }
        let value = with
            .or_else(|| words.get(1).map(String::as_str))
            .filter(|value| !is_placeholder(value) && !value.starts_with("--"));
        let Some(value) = value else { return Ok(()) };
        let takes = |arg: &clap::Arg| {
            let possible = arg.get_possible_values();
            arg.get_action().takes_values()
                && (possible.is_empty()
                    || value.split('|').all(|one| possible.iter().any(|p| p.matches(one, false))))
        };
        if candidates.iter().any(takes) { Ok(()) } else { Err(format!("it does not take `{value}`")) }
    }
}

fn collect(command: &Command, long: &str, found: &mut Vec<clap::Arg>) {
    found.extend(command.get_arguments().filter(|arg| arg.get_long() == Some(long)).cloned());
    for sub in command.get_subcommands() {
        collect(sub, long, found);
    }
}

/// Words as a shell would cut them. What a program would fill in (`{0}`) is a word without spaces.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '"' | '\'') => (quote, inside) = (Some(letter), true),
            (None, ' ') => {
                if inside || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            (None, _) => word.push(letter),
        }
    }
    if inside || !word.is_empty() {
        words.push(word);
    }
    match (quote, words.is_empty()) {
        (None, false) => Ok(words),
        _ => Err("a quote is not closed".to_owned()),
    }
}

/// `ID`, `HOST_PORT`, `<id>`, `{name}`.
fn is_placeholder(word: &str) -> bool {
    let shouted = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'|' | b'/');
    (word.starts_with(|first: char| first.is_ascii_uppercase()) && word.bytes().all(shouted))
        || (word.starts_with('<') && word.ends_with('>'))
        || (word.starts_with('{') && word.ends_with('}'))
}

/// Every way to read the words: choices, and what is in brackets, with and without.
fn readings(words: &[String]) -> Result<Vec<Vec<String>>, String> {
    let mut readings: Vec<Vec<String>> = vec![Vec::new()];
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut options: Vec<Vec<String>> = Vec::new();
        if matches!(word.as_str(), "…" | "..." | "[…]") {
            continue;
        }
        let inner = if let Some(opened) = word.strip_prefix('[') {
            options.push(Vec::new());
            let mut group = vec![opened.to_owned()];
            while !group[group.len() - 1].ends_with(']') {
                group.push(rest.next().ok_or("a bracket is not closed")?.clone());
            }
            let last = group.len() - 1;
            group[last].pop();
            group
        } else {
            vec![word.clone()]
        };
        let mut filled: Vec<Vec<String>> = vec![Vec::new()];
        for word in inner.iter().map(|word| word.trim_end_matches(['…', '.'])).filter(|word| !word.is_empty())
        {
            let choices: Vec<String> = if is_placeholder(word) {
                vec![VALUE.to_owned()]
            } else if word.contains('|') && !word.contains(' ') {
                word.split('|')
                    .map(|one| if is_placeholder(one) { VALUE.into() } else { one.to_owned() })
                    .collect()
            } else {
                vec![fill(word)]
            };
            filled = cross(&filled, &choices.into_iter().map(|choice| vec![choice]).collect::<Vec<_>>());
        }
        options.extend(filled);
        readings = cross(&readings, &options);
        if readings.len() > READINGS {
            return Err("it can be read in too many ways".to_owned());
        }
    }
    Ok(readings)
}

/// Braces inside a word, as `--vm-mem-mib={size}` has them.
fn fill(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, (_, after))) =
        rest.split_once('{').and_then(|(before, open)| Some((before, open.split_once('}')?)))
    {
        text.push_str(before);
        text.push_str(VALUE);
        rest = after;
    }
    text + rest
}

fn cross(left: &[Vec<String>], right: &[Vec<String>]) -> Vec<Vec<String>> {
    left.iter().flat_map(|one| right.iter().map(|two| [one.as_slice(), two].concat())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str, complete: bool) -> Result<(), String> {
        Judge::new(&["--cacert"]).judge(&Mention { line: 1, text: text.to_owned(), complete })
    }

    #[test]
    fn what_the_program_takes_holds() {
        for text in [
            "fireclaw",
            "fireclaw list --json",
            "fireclaw ls",
            "fireclaw logs ID [guest|host] --lines N",
            "fireclaw destroy <id> [--force]",
            "fireclaw shell my-bot \"docker ps --all\"",
            "fireclaw image build|list|inspect",
            "fireclaw completion SHELL",
            "fireclaw provision {0} --model openai/gpt-5",
            "fireclaw halt ID",
            "vm-setup --instance my-bot --yes",
            "vm-ctl stop ID --now",
            "cargo xtask ci --fast",
            "--vmm qemu",
            "--vmm auto|firecracker|qemu",
            "--instance ID",
            "--dry-run --json",
            "fireclaw {verb} {}",
            "--cacert",
        ] {
            assert_eq!(judge(text, false), Ok(()), "{text}");
        }
        assert_eq!(judge("fireclaw setup --yes", false), Ok(()));
    }

    /// The test of the test: what does not exist does not pass.
    #[test]
    fn what_is_made_up_does_not_hold() {
        for text in [
            "fireclaw list --made-up",
            "fireclaw doctor --fixed",
            "fireclaw setup --instance x --vm-mem 4",
            "fireclaw destroy [--forced] ID",
            "fireclaw made-up",
            "fireclaw image build|made-up",
            "fireclaw logs ID made-up",
            "fireclaw logs ID guest|made-up",
            "fireclaw setup --vmm xen",
            "fireclaw setup --vm-vcpu many",
            "fireclaw token one two",
            "fireclaw stop ID --now --timeout 3",
            "vm-setup list",
            "vm-ctl made-up",
            "cargo xtask made-up",
            "cargo xtask ci --slow",
            "--made-up",
            "--vmm xen",
            "--dry-run --made-up",
            "--yes please",
        ] {
            assert!(judge(text, false).is_err(), "{text} was taken");
        }
        for text in [
            "fireclaw setup --yes",
            "fireclaw stop",
            "fireclaw doctor --firecracker-from FILE",
            "fireclaw shell my-bot \"open",
        ] {
            assert!(judge(text, true).is_err(), "{text} was taken for a whole command");
        }
    }
}
