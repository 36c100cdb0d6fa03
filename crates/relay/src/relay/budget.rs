//! The end of a stream's budget.
//!
//! - *In*: runs of the answer, what the lens counts in them, the charge of the exchange.
//! - *Out*: the last words of a stream that has taken all there was, in its dialect.
//! - *Never*: an end in the middle of an event. A torn one is read on to its end first; what comes meanwhile is charged.

use lens::{MAX_CHOICES, StreamLens};
use wire::ending::{Ending, Envelope, Why};
use wire::{Dialect, Framing, rewrite};

/// How much of the beginning and the end of a stream is kept: an event that names things, and one that numbers them.
const KEPT: usize = 8 << 10;

/// What must be known of a stream to end it in its own words.
#[derive(Debug)]
pub(crate) struct Budget {
    dialect: Dialect,
    framing: Framing,
    first: Vec<u8>,
    /// The last bytes, where the dialect's last words depend on them.
    last: Vec<u8>,
}

impl Budget {
    pub(super) fn new(dialect: Dialect, framing: Framing) -> Self {
        Budget { dialect, framing, first: Vec::new(), last: Vec::new() }
    }

    /// A run of the answer.
    #[inline]
    pub(super) fn hear(&mut self, run: &[u8]) {
        if self.first.len() < KEPT {
            self.first.extend_from_slice(run.get(..run.len().min(KEPT - self.first.len())).unwrap_or_default());
        }
        if matches!(self.dialect, Dialect::Anthropic | Dialect::OpenAiResponses) {
            self.last.extend_from_slice(run);
            if self.last.len() > 2 * KEPT {
                self.last.drain(..self.last.len() - KEPT);
            }
        }
    }

    /// The events that end the stream.
    pub(super) fn closing_events(&self, choices: u64, lens: &StreamLens, message: &str) -> String {
        let envelope = events(&self.first).map(|event| rewrite::data(self.framing, event)).find(|data| data.starts_with(b"{"));
        let envelope = envelope.map(|data| Envelope::of(&data)).unwrap_or_default();
        let last = events(&self.last).filter(|event| !event.trim_ascii().is_empty()).last().unwrap_or_default();
        let asked = u32::try_from(choices).unwrap_or(MAX_CHOICES).clamp(1, MAX_CHOICES);
        let choices: Vec<u32> = (0..asked).filter(|choice| !lens.has_ended(*choice)).collect();
        let ending = Ending {
            dialect: self.dialect,
            envelope: &envelope,
            last: &rewrite::data(Framing::Sse, last),
            choices: &choices,
            tokens: lens.completion_tokens().0,
            message,
            why: Why::Length,
        };
        ending.events()
    }
}

/// The events of a piece of a stream: up to blank lines, or lines where each is one.
fn events(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let lines = bytes.trim_ascii_start().starts_with(b"{");
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let blank = |separator: &[u8]| memchr::memmem::find(rest, separator).map(|at| at + separator.len());
        let end = if lines { blank(b"\n") } else { [blank(b"\n\n"), blank(b"\r\n\r\n")].into_iter().flatten().min() };
        let (event, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = behind;
        Some(event)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(dialect: Dialect, framing: Framing, runs: &[&str]) -> String {
        let mut budget = Budget::new(dialect, framing);
        runs.iter().for_each(|run| budget.hear(run.as_bytes()));
        budget.closing_events(1, &StreamLens::new(true, u64::MAX), "It is over.")
    }

    #[test]
    fn the_last_words_repeat_what_the_first_said() {
        let chat =
            closing(Dialect::OpenAiChat, Framing::Sse, &[": hi\n\ndata: {\"id\":\"c-1\",\"model\"", ":\"m\"}\n\ndata: {\"id\":\"x\"}\n\n"]);
        assert!(chat.contains("\"id\":\"c-1\",\"model\":\"m\"") && chat.contains("\"finish_reason\":\"length\""), "{chat}");
        assert!(chat.ends_with("data: [DONE]\n\n"));
        let block = "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":3}\r\n\r\n";
        let anthropic = closing(Dialect::Anthropic, Framing::Sse, &["data: {\"type\":\"message_start\"}\r\n\r\n", block]);
        assert!(anthropic.contains("\"index\":3") && anthropic.contains("\"stop_reason\":\"max_tokens\""), "{anthropic}");
        let ollama = closing(
            Dialect::Ollama,
            Framing::Ndjson,
            &["{\"model\":\"m\",\"message\":{\"content\":\"x\"},\"done\":false}\n{\"model\":\"z\"}\n"],
        );
        assert!(ollama.starts_with("{\"model\":\"m\",") && ollama.contains("\"done_reason\":\"length\""), "{ollama}");
    }
}
