//! Ends a stream early, in its dialect.
//!
//! - *In*: the data of its first event, whose ids and names all events repeat, and of the last
//!   forwarded event, which may have an index.
//! - *Out*: the closing events.
//! - *Never*: a token count that was not measured.

use lens::{MAX_CHOICES, StreamLens};
use wire::ending::{Ending, Envelope, ResponseOutput, Why};
use wire::{Dialect, Event, EventVisitor, Framing, Part, rewrite};

/// The data needed to write the closing events of a stream.
#[derive(Debug)]
pub(crate) struct Closing {
    dialect: Dialect,
    framing: Framing,
    envelope: Option<Envelope>,
    /// Data of the last forwarded event, if the dialect needs it.
    last: Vec<u8>,
    /// Output of a Responses stream.
    output: ResponseOutput,
    /// Tokens of the prompt, if the client asked for usage.
    prompt_tokens: Option<u64>,
}

impl Closing {
    pub(crate) fn new(dialect: Dialect, framing: Framing) -> Self {
        Closing {
            dialect,
            framing,
            envelope: None,
            last: Vec::new(),
            output: ResponseOutput::default(),
            prompt_tokens: None,
        }
    }

    /// Report usage in the closing events, as the client asked. `prompt_tokens` is an estimate,
    /// unless the prompt was counted; the backend's own number comes first.
    pub(crate) fn with_usage(mut self, prompt_tokens: Option<u64>) -> Self {
        self.prompt_tokens = prompt_tokens;
        self
    }

    /// Record the data of a received event. The first one has the ids and names that all repeat.
    #[inline]
    pub(crate) fn came(&mut self, data: &[u8]) {
        if self.envelope.is_none() && data.starts_with(b"{") {
            self.envelope = Some(Envelope::from_event(data));
        }
    }

    /// Record the data of a forwarded event.
    #[inline]
    pub(crate) fn passed(&mut self, data: &[u8]) {
        if self.dialect.closing_needs_last_event() {
            self.last.clear();
            self.last.extend_from_slice(data);
            self.keep_output();
        }
    }

    /// Record a forwarded event, including its framing.
    #[inline]
    pub(crate) fn passed_framed(&mut self, event: &[u8]) {
        if self.dialect.closing_needs_last_event() {
            self.last = rewrite::event_data(self.framing, event);
            self.keep_output();
        }
    }

    fn keep_output(&mut self) {
        if self.dialect == Dialect::OpenAiResponses {
            self.output.passed(&self.last);
        }
    }

    /// Of `asked` choices, those that have not ended.
    pub(crate) fn open_choices(&self, asked: u32, lens: &StreamLens) -> Vec<u32> {
        (0..asked.clamp(1, MAX_CHOICES)).filter(|choice| !lens.has_ended(*choice)).collect()
    }

    /// The events that end the stream for these choices.
    pub(crate) fn events(
        &self,
        choices: &[u32],
        lens: &StreamLens,
        (why, message): (Why, &str),
    ) -> String {
        let unnamed = Envelope::default();
        let envelope = self.envelope.as_ref().unwrap_or(&unnamed);
        let counted = lens.usage().and_then(|usage| usage.prompt_tokens);
        Ending {
            dialect: self.dialect,
            envelope,
            last: &self.last,
            choices,
            tokens: lens.completion_tokens().0,
            prompt_tokens: self.prompt_tokens.map(|estimate| counted.unwrap_or(estimate)),
            output: &self.output,
            message,
            why,
        }
        .events()
    }
}

/// Forwards a parsed stream to `inner`, and records what closing events need.
pub(crate) struct ClosingListener<'c, L> {
    pub(crate) inner: &'c mut L,
    pub(crate) closing: &'c mut Closing,
}

impl<L: EventVisitor> EventVisitor for ClosingListener<'_, L> {
    #[inline]
    fn data(&mut self, data: &[u8]) {
        self.closing.came(data);
        self.closing.passed(data);
        self.inner.data(data);
    }

    #[inline]
    fn part(&mut self, part: Part<'_>) {
        self.inner.part(part);
    }

    #[inline]
    fn event(&mut self, event: &Event) {
        self.inner.event(event);
    }

    #[inline]
    fn comment(&mut self, end: usize) {
        self.inner.comment(end);
    }
}

#[cfg(test)]
mod tests {
    use wire::{Reader, ReaderLimits};

    use super::*;

    fn closing(dialect: Dialect, framing: Framing, runs: &[&str]) -> String {
        let (mut closing, mut lens) =
            (Closing::new(dialect, framing), StreamLens::new(true, u64::MAX));
        let mut reader = Reader::new(dialect, framing, ReaderLimits::default());
        for run in runs {
            reader.feed(
                run.as_bytes(),
                &mut ClosingListener { inner: &mut lens, closing: &mut closing },
            );
        }
        closing.events(&[0], &lens, (Why::Length, "It is over."))
    }

    #[test]
    fn closing_events_repeat_the_ids_of_the_first_event() {
        let chat = closing(
            Dialect::OpenAiChat,
            Framing::Sse,
            &[": hi\n\ndata: {\"id\":\"c-1\",\"model\"", ":\"m\"}\n\ndata: {\"id\":\"x\"}\n\n"],
        );
        assert!(
            chat.contains("\"id\":\"c-1\",\"model\":\"m\"")
                && chat.contains("\"finish_reason\":\"length\""),
            "{chat}"
        );
        assert!(chat.ends_with("data: [DONE]\n\n"));
        let block = "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":3}\r\n\r\n";
        let anthropic = closing(
            Dialect::Anthropic,
            Framing::Sse,
            &["data: {\"type\":\"message_start\"}\r\n\r\n", block],
        );
        assert!(
            anthropic.contains("\"index\":3")
                && anthropic.contains("\"stop_reason\":\"max_tokens\""),
            "{anthropic}"
        );
        let ollama = closing(
            Dialect::Ollama,
            Framing::Ndjson,
            &[
                "{\"model\":\"m\",\"message\":{\"content\":\"x\"},\"done\":false}\n{\"model\":\"z\"}\n",
            ],
        );
        assert!(
            ollama.starts_with("{\"model\":\"m\",")
                && ollama.contains("\"done_reason\":\"length\""),
            "{ollama}"
        );
    }

    #[test]
    fn messages_are_escaped() {
        let mut closing = Closing::new(Dialect::Generate, Framing::Sse);
        closing.came(b"{}");
        let events = closing.events(
            &[0],
            &StreamLens::new(true, u64::MAX),
            (Why::Filtered, "a \"quote\",\na line"),
        );
        let data = events
            .strip_prefix("data: ")
            .and_then(|rest| rest.strip_suffix("\n\n"))
            .expect("one event");
        let error: serde_json::Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(error["error"], "a \"quote\",\na line");
    }
}
