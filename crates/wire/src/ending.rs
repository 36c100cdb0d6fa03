//! Endings of streams that are cut short: the events that clients of each dialect take for "stopped
//! by a content filter", or for "as long as it may be".
//!
//! - *In*: the first event of the stream, for the names that every event repeats, and the last one
//!   that was passed on.
//! - *Out*: the bytes of the closing events. An error is not among them where the dialect has a
//!   word for a refusal.
//! - *Never*: text of the answer; a claim about tokens that were not counted.

use std::fmt::Write;

use crate::dialect::Dialect;
use crate::json::{Malformed, Scan};

/// Longest name that is repeated.
const MAX_CHOICES: usize = 256;

/// What events repeat, as it stood in the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    id: String,
    model: String,
    created: String,
    /// Ollama's chat, not its generate.
    message: bool,
}

impl Envelope {
    /// From the data of the first event; what is not there stays away.
    pub fn of(data: &[u8]) -> Self {
        let mut envelope = Envelope::default();
        // What was read before it broke stands.
        let _ = envelope.read(&mut Scan::new(data), true);
        envelope
    }

    fn read(&mut self, scan: &mut Scan<'_>, outer: bool) -> Result<(), Malformed> {
        scan.object(|key, v| match key {
            b"id" => keep(&mut self.id, v),
            b"model" => keep(&mut self.model, v),
            b"created" | b"created_at" => keep(&mut self.created, v),
            // Responses and Anthropic say it one level further in.
            b"response" | b"message" if outer && v.peek() == Some(b'{') => {
                self.message = key == b"message";
                self.read(v, false)
            }
            _ => v.skip(),
        })
    }
}

/// Keep a scalar as it is written.
fn keep(into: &mut String, scan: &mut Scan<'_>) -> Result<(), Malformed> {
    if matches!(scan.peek(), Some(b'"' | b'0'..=b'9')) {
        let written = scan.verbatim()?.raw();
        if let Some(text) =
            std::str::from_utf8(written).ok().filter(|text| text.len() <= MAX_CHOICES)
        {
            text.clone_into(into);
        }
        return Ok(());
    }
    scan.skip()
}

/// For what a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// For its content.
    Filtered,
    /// For its length.
    Length,
}

/// A stream that is to end.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'e> {
    /// What it speaks.
    pub dialect: Dialect,
    /// What its events repeat.
    pub envelope: &'e Envelope,
    /// The data of the last event that was passed on.
    pub last: &'e [u8],
    /// Choices that have not ended; the first is 0.
    pub choices: &'e [u32],
    /// Generated tokens that were passed on, as far as they are known.
    pub tokens: Option<u64>,
    /// For dialects without a word of their own.
    pub message: &'e str,
    /// For what it ends.
    pub why: Why,
}

impl Dialect {
    /// The dialect's word for an answer that a filter stopped.
    pub fn filtered(self) -> &'static str {
        match self {
            Dialect::Anthropic => "refusal",
            Dialect::OpenAiResponses => "incomplete",
            _ => "content_filter",
        }
    }

    /// The dialect's word in the event that ends an answer.
    fn reason(self, why: Why) -> &'static str {
        match (why, self) {
            (Why::Filtered, Dialect::OpenAiResponses) => "content_filter",
            (Why::Filtered, _) => self.filtered(),
            (Why::Length, Dialect::Anthropic) => "max_tokens",
            (Why::Length, Dialect::OpenAiResponses) => "max_output_tokens",
            (Why::Length, Dialect::LlamaCpp) => "limit",
            (Why::Length, _) => "length",
        }
    }
}

impl Ending<'_> {
    /// The closing events, framed.
    pub fn events(&self) -> String {
        let reason = self.dialect.reason(self.why);
        match self.dialect {
            Dialect::OpenAiChat => {
                self.choices_end("chat.completion.chunk", "\"delta\":{},\"logprobs\":null")
            }
            Dialect::OpenAiCompletions => {
                self.choices_end("text_completion", "\"text\":\"\",\"logprobs\":null")
            }
            Dialect::OpenAiResponses => self.response_incomplete(),
            Dialect::Anthropic => self.message_stops(),
            Dialect::Ollama => {
                let nothing = if self.envelope.message {
                    "\"message\":{\"role\":\"assistant\",\"content\":\"\"}"
                } else {
                    "\"response\":\"\""
                };
                format!(
                    "{{{}{nothing},\"done\":true,\"done_reason\":\"{reason}\"}}\n",
                    self.names(&["model", "created_at"])
                )
            }
            Dialect::LlamaCpp => {
                format!(
                    "data: {{{}\"content\":\"\",\"stop\":true,\"stop_type\":\"{reason}\"}}\n\n",
                    self.names(&["model"])
                )
            }
            Dialect::Generate | Dialect::Embeddings => {
                self.dialect.error_event(self.message, reason)
            }
        }
    }

    fn choices_end(&self, object: &str, body: &str) -> String {
        let mut out = String::new();
        let names = self.names(&["id", "created", "model"]);
        let reason = self.dialect.reason(self.why);
        for choice in self.choices {
            // Writing to a string does not fail.
            let _ = write!(
                out,
                "data: {{{names}\"object\":\"{object}\",\"choices\":[{{\"index\":{choice},{body},\"finish_reason\":\"{reason}\"}}]}}\n\n"
            );
        }
        out.push_str("data: [DONE]\n\n");
        out
    }

    fn response_incomplete(&self) -> String {
        let number = member(self.last, b"sequence_number")
            .and_then(|n| n.parse::<u64>().ok())
            .map_or(0, |n| n + 1);
        format!(
            "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\"sequence_number\":{number},\"response\":{{{}\"object\":\"response\",\
             \"status\":\"incomplete\",\"incomplete_details\":{{\"reason\":\"{}\"}},\"error\":null,\"output\":[],\
             \"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[]}}}}\n\n",
            self.names(&["id", "created_at", "model"]),
            self.dialect.reason(self.why)
        )
    }

    /// A block that is open is closed first.
    fn message_stops(&self) -> String {
        let reason = self.dialect.reason(self.why);
        let mut out = String::new();
        let kind = member(self.last, b"type").unwrap_or_default();
        if let (true, Some(index)) = (
            kind.contains("content_block_start") || kind.contains("content_block_delta"),
            member(self.last, b"index"),
        ) {
            let _ = write!(
                out,
                "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n"
            );
        }
        let tokens = self.tokens.unwrap_or(0);
        let _ = write!(
            out,
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{reason}\",\"stop_sequence\":null}},\"usage\":{{\"output_tokens\":{tokens}}}}}\n\n\
             event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
        );
        out
    }

    /// The members that every event has, each with its comma.
    fn names(&self, wanted: &[&str]) -> String {
        let value = |name: &str| match name {
            "id" => &self.envelope.id,
            "model" => &self.envelope.model,
            _ => &self.envelope.created,
        };
        let known =
            wanted.iter().map(|name| (name, value(name))).filter(|(_, value)| !value.is_empty());
        known.map(|(name, value)| format!("\"{name}\":{value},")).collect()
    }
}

/// A scalar member of an object, as written.
fn member(data: &[u8], wanted: &[u8]) -> Option<String> {
    let mut found = None;
    let _ = Scan::new(data).object(|key, v| {
        if key == wanted {
            found = std::str::from_utf8(v.verbatim()?.raw()).ok().map(str::to_owned);
            return Ok(());
        }
        v.skip()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kinds, Listener, Part};
    use crate::reader::{Framing, Reader, ReaderLimits};

    /// What our own reader makes of it: the finish reasons, and whether an end mark was there.
    #[derive(Default)]
    struct Heard {
        reasons: Vec<(u32, String)>,
        ended: bool,
        events: usize,
    }

    impl Listener for Heard {
        fn part(&mut self, part: Part<'_>) {
            match part {
                Part::Finish { choice, reason } => {
                    self.reasons.push((choice, reason.decode().into_owned()))
                }
                Part::End(_) => self.ended = true,
                Part::Text { text, .. } => panic!("text in an ending: {text:?}"),
                _ => {}
            }
        }

        fn event(&mut self, event: &crate::Event) {
            assert!(event.understood);
            self.events += usize::from(event.kinds != Kinds::default());
        }
    }

    fn heard(dialect: Dialect, events: &str) -> Heard {
        let framing = if dialect == Dialect::Ollama { Framing::Ndjson } else { Framing::Sse };
        let (mut reader, mut heard) =
            (Reader::new(dialect, framing, ReaderLimits::default()), Heard::default());
        reader.feed(events.as_bytes(), &mut heard);
        assert_eq!(reader.unterminated(), 0);
        heard
    }

    fn ending(dialect: Dialect, first: &str, last: &str, choices: &[u32]) -> String {
        let envelope = Envelope::of(first.as_bytes());
        Ending {
            dialect,
            envelope: &envelope,
            last: last.as_bytes(),
            choices,
            tokens: Some(7),
            message: "It was stopped.",
            why: Why::Filtered,
        }
        .events()
    }

    #[test]
    fn every_dialect_hears_a_refusal_and_an_end() {
        for (dialect, first, last, reason) in [
            (
                Dialect::OpenAiChat,
                r#"{"id":"c-1","object":"chat.completion.chunk","created":17,"model":"m","choices":[]}"#,
                "",
                "content_filter",
            ),
            (
                Dialect::OpenAiCompletions,
                r#"{"id":"c-1","created":17,"model":"m","choices":[]}"#,
                "",
                "content_filter",
            ),
            (
                Dialect::OpenAiResponses,
                r#"{"type":"response.created","response":{"id":"r-1","created_at":17,"model":"m"},"sequence_number":0}"#,
                r#"{"type":"response.output_text.delta","sequence_number":41}"#,
                "content_filter",
            ),
            (
                Dialect::Anthropic,
                r#"{"type":"message_start","message":{"id":"a-1","model":"m"}}"#,
                r#"{"type":"content_block_delta","index":3,"delta":{}}"#,
                "refusal",
            ),
            (
                Dialect::Ollama,
                r#"{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"x"}}"#,
                "",
                "content_filter",
            ),
            (Dialect::LlamaCpp, r#"{"content":"x","model":"m"}"#, "", "content_filter"),
        ] {
            let events = ending(dialect, first, last, &[0]);
            let heard = heard(dialect, &events);
            assert_eq!(heard.reasons, [(0, reason.to_owned())], "{dialect:?}: {events}");
            assert!(heard.ended, "{dialect:?}: {events}");
        }
        assert_eq!(
            heard(Dialect::Generate, &ending(Dialect::Generate, "{}", "", &[0])).events,
            1,
            "an error, for want of a word"
        );
    }

    #[test]
    fn what_the_events_before_said_is_said_again() {
        let chat = ending(
            Dialect::OpenAiChat,
            r#"{"choices":[{"id":9}],"id":"c\"1","created":17,"model":"m/x"}"#,
            "",
            &[0, 2],
        );
        assert_eq!(chat.matches(r#""id":"c\"1","created":17,"model":"m/x","#).count(), 2, "{chat}");
        assert!(chat.contains(r#""index":2"#));
        let responses = ending(
            Dialect::OpenAiResponses,
            r#"{"response":{"id":"r"}}"#,
            r#"{"sequence_number":41}"#,
            &[0],
        );
        assert!(responses.contains(r#""sequence_number":42,"response":{"id":"r","#), "{responses}");
        let open =
            ending(Dialect::Anthropic, "{}", r#"{"type":"content_block_delta","index":3}"#, &[0]);
        assert!(
            open.starts_with(
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":3}"
            ),
            "{open}"
        );
        assert!(open.contains(r#""output_tokens":7"#));
        let closed =
            ending(Dialect::Anthropic, "{}", r#"{"type":"content_block_stop","index":3}"#, &[0]);
        assert!(closed.starts_with("event: message_delta"), "{closed}");
        // Nothing that is no short scalar is repeated.
        let odd = Envelope::of(
            format!(r#"{{"id":{{"a":1}},"model":"{}","created":17"#, "x".repeat(300)).as_bytes(),
        );
        assert_eq!((odd.id.as_str(), odd.model.as_str(), odd.created.as_str()), ("", "", "17"));
    }
}
