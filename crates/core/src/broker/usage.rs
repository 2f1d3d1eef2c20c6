//! What a provider's answer says of tokens, read as it passes by. Touches nothing.
//!
//! Three forms are known: Anthropic's `usage` (input, output, cache), `OpenAI`'s (prompt and completion, or input and output),
//! each in one JSON document or in server-sent events. The figures of one stream grow; the largest of each is the answer's.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tokens as a provider counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Read by the model, from a cache or not.
    pub input: u64,
    /// Written by it.
    pub output: u64,
}

/// An event or a document that is longer than this is not read. The events that tell tokens are short, and the last event of a
/// long answer of `OpenAI`'s repeats all of it.
const LONGEST: usize = 512 << 10;

/// Reads one answer piece by piece. Keeps a line of a stream, or a document, and nothing else.
#[derive(Debug)]
pub struct Counter {
    streamed: bool,
    kept: Vec<u8>,
    /// What is kept is too long already: it is not read.
    lost: bool,
    seen: Tokens,
}

impl Counter {
    /// For an answer of this content type; `None` is not counted.
    pub fn of(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let streamed = kind.eq_ignore_ascii_case("text/event-stream");
        (streamed || kind.eq_ignore_ascii_case("application/json")).then(|| Self {
            streamed,
            kept: Vec::new(),
            lost: false,
            seen: Tokens::default(),
        })
    }

    /// The next bytes.
    pub fn push(&mut self, mut piece: &[u8]) {
        if !self.streamed {
            self.keep(piece);
            return;
        }
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            self.keep(&piece[..end]);
            self.read_kept();
            piece = &piece[end + 1..];
        }
        self.keep(piece);
    }

    /// The figures, at the end or wherever the answer broke off.
    pub fn finish(&mut self) -> Tokens {
        self.read_kept();
        self.seen
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.lost || self.kept.len() + bytes.len() > LONGEST {
            self.lost = true;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    fn read_kept(&mut self) {
        let text =
            if self.streamed { self.kept.strip_prefix(b"data:").unwrap_or_default() } else { &self.kept };
        // Most events are pieces of text and are not parsed.
        if text.windows(7).any(|word| word == b"\"usage\"")
            && let Ok(value) = serde_json::from_slice::<Value>(text)
        {
            for usage in [&value["usage"], &value["message"]["usage"], &value["response"]["usage"]] {
                let found = read(usage);
                self.seen.input = self.seen.input.max(found.input);
                self.seen.output = self.seen.output.max(found.output);
            }
        }
        self.kept.clear();
        self.lost = false;
    }
}

fn read(usage: &Value) -> Tokens {
    let number = |name: &str| usage[name].as_u64().unwrap_or_default();
    let cached = number("cache_creation_input_tokens").saturating_add(number("cache_read_input_tokens"));
    Tokens {
        input: number("input_tokens").saturating_add(cached).max(number("prompt_tokens")),
        output: number("output_tokens").max(number("completion_tokens")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANTHROPIC: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\nevent: content_block_delta\r\ndata: {\"delta\":{\"text\":\"\\\"usage\\\": 5\"}}\r\n\r\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":42}}\n\n";

    fn count(kind: &str, pieces: &[&[u8]]) -> Tokens {
        let mut counter = Counter::of(kind).unwrap();
        for piece in pieces {
            counter.push(piece);
        }
        counter.finish()
    }

    #[test]
    fn the_three_forms() {
        assert_eq!(
            count("text/event-stream; charset=utf-8", &[ANTHROPIC.as_bytes()]),
            Tokens { input: 109, output: 42 }
        );
        let chat = br#"{"id":"x","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
        assert_eq!(count("application/json", &[chat]), Tokens { input: 7, output: 3 });
        let last = "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":6}}}\n\ndata: [DONE]\n\n";
        assert_eq!(count("text/event-stream", &[last.as_bytes()]), Tokens { input: 5, output: 6 });
        assert!(Counter::of("text/html").is_none());
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut counter = Counter::of("text/event-stream").unwrap();
        for _ in 0..100 {
            counter.push(&vec![b'x'; 64 << 10]);
            assert!(counter.kept.capacity() <= 2 * LONGEST);
        }
        counter.push(b"\ndata: {\"usage\":{\"output_tokens\":1}}\n");
        assert_eq!(counter.finish().output, 1, "it goes on after the line that was too long");
    }

    proptest! {
        #[test]
        fn where_pieces_end_does_not_matter(cuts in prop::collection::vec(0..ANTHROPIC.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.extend([0, ANTHROPIC.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &ANTHROPIC.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(count("text/event-stream", &pieces), Tokens { input: 109, output: 42 });
        }

        #[test]
        fn no_answer_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            count("text/event-stream", &[b"data: {\"usage\":", &bytes]);
            count("application/json", &[&bytes]);
        }
    }
}
