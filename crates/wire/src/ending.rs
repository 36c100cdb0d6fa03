//! Closing events for streams that the gateway ends early. Clients of each dialect read them as
//! "stopped by a content filter" or "length limit reached".
//!
//! - *In*: the first event of the stream, for the members that every event repeats, and the last
//!   event that was forwarded.
//! - *Out*: the bytes of the closing events. They contain an error only if the dialect has no
//!   finish reason for this case.
//! - *Never*: answer text that was not forwarded; a token count other than the gateway's own.

mod output;

use std::fmt::Write;

pub use output::ResponseOutput;

use crate::dialect::Dialect;
use crate::error_format::GatewayError;
use crate::json::{Malformed, Scan};

/// Maximum bytes of a member value that is repeated.
const MAX_VALUE_BYTES: usize = 256;

/// Members that every event repeats, taken from the first event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    id: String,
    model: String,
    created: String,
    /// Whether the first event has a `message` object: for Ollama, chat and not generate.
    message: bool,
}

impl Envelope {
    /// Read the members from the data of the first event. Missing members stay empty.
    pub fn from_event(data: &[u8]) -> Self {
        let mut envelope = Envelope::default();
        // Members read before an error are kept.
        let _ = envelope.read(&mut Scan::new(data), true);
        envelope
    }

    fn read(&mut self, scan: &mut Scan<'_>, outer: bool) -> Result<(), Malformed> {
        scan.object(|key, v| match key {
            b"id" => keep(&mut self.id, v),
            b"model" => keep(&mut self.model, v),
            b"created" | b"created_at" => keep(&mut self.created, v),
            // Responses and Anthropic nest these members one level deeper.
            b"response" | b"message" if outer && v.peek() == Some(b'{') => {
                self.message = key == b"message";
                self.read(v, false)
            }
            _ => v.skip(),
        })
    }
}

/// Store a scalar as written, unless it is too long.
fn keep(into: &mut String, scan: &mut Scan<'_>) -> Result<(), Malformed> {
    if matches!(scan.peek(), Some(b'"' | b'0'..=b'9')) {
        let written = scan.verbatim()?.raw();
        if let Some(text) =
            std::str::from_utf8(written).ok().filter(|text| text.len() <= MAX_VALUE_BYTES)
        {
            text.clone_into(into);
        }
        return Ok(());
    }
    scan.skip()
}

/// Why the gateway ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A guardrail stopped it.
    Filtered,
    /// A token or cost limit was reached.
    Length,
}

/// The closing events of a stream that the gateway ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'e> {
    /// Dialect of the stream.
    pub dialect: Dialect,
    /// Members that every event repeats.
    pub envelope: &'e Envelope,
    /// Data of the last forwarded event.
    pub last: &'e [u8],
    /// Indices of the choices that have not ended.
    pub choices: &'e [u32],
    /// Generated tokens that were forwarded, if known.
    pub tokens: Option<u64>,
    /// Tokens of the prompt, if the client asked for usage.
    pub prompt_tokens: Option<u64>,
    /// The output of a Responses stream so far.
    pub output: &'e ResponseOutput,
    /// Error message, for dialects without a finish reason.
    pub message: &'e str,
    /// Why the stream ends.
    pub why: Why,
}

impl Dialect {
    /// The dialect's value for an answer that a filter stopped.
    pub fn filtered(self) -> &'static str {
        match self {
            Dialect::Anthropic => "refusal",
            Dialect::OpenAiResponses => "incomplete",
            _ => "content_filter",
        }
    }

    /// The dialect's finish reason in the closing event.
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
    /// The closing events, with their framing.
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
                let count = |name: &str, tokens: Option<u64>| {
                    tokens.map_or_else(String::new, |tokens| format!(",\"{name}\":{tokens}"))
                };
                format!(
                    "{{{}{nothing},\"done\":true,\"done_reason\":\"{reason}\"{}{}}}\n",
                    self.names(&["model", "created_at"]),
                    count("prompt_eval_count", self.prompt_tokens),
                    count("eval_count", self.tokens.filter(|_| self.prompt_tokens.is_some())),
                )
            }
            Dialect::LlamaCpp => {
                format!(
                    "data: {{{}\"content\":\"\",\"stop\":true,\"stop_type\":\"{reason}\"}}\n\n",
                    self.names(&["model"])
                )
            }
            Dialect::Generate | Dialect::Embeddings => {
                let error = GatewayError {
                    // The type is the reason.
                    status: 500,
                    kind: reason,
                    code: reason,
                    message: self.message,
                    param: None,
                    request_id: "",
                };
                self.dialect.error_format().event(&error, 0)
            }
        }
    }

    fn choices_end(&self, object: &str, body: &str) -> String {
        let mut out = String::new();
        let names = self.names(&["id", "created", "model"]);
        let reason = self.dialect.reason(self.why);
        for choice in self.choices {
            // Writing to a `String` never fails.
            let _ = write!(
                out,
                "data: {{{names}\"object\":\"{object}\",\"choices\":[{{\"index\":{choice},{body},\"finish_reason\":\"{reason}\"}}]}}\n\n"
            );
        }
        if let Some(prompt) = self.prompt_tokens {
            let tokens = self.tokens.unwrap_or(0);
            let total = prompt.saturating_add(tokens);
            let _ = write!(
                out,
                "data: {{{names}\"object\":\"{object}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{tokens},\"total_tokens\":{total}}}}}\n\n"
            );
        }
        out.push_str("data: [DONE]\n\n");
        out
    }

    /// The closing events of Responses: those of open items, and `response.incomplete`.
    fn response_incomplete(&self) -> String {
        let last = member(self.last, b"sequence_number").and_then(|n| n.parse::<u64>().ok());
        let mut number = last.map_or(0, |n| n + 1);
        let mut out = String::new();
        let items = self.output.close(&mut number, &mut out);
        let usage = self.prompt_tokens.map_or_else(String::new, |prompt| {
            let tokens = self.tokens.unwrap_or(0);
            let total = prompt.saturating_add(tokens);
            format!(
                ",\"usage\":{{\"input_tokens\":{prompt},\"output_tokens\":{tokens},\"total_tokens\":{total}}}"
            )
        });
        let _ = write!(
            out,
            "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\"sequence_number\":{number},\"response\":{{{}\"object\":\"response\",\
             \"status\":\"incomplete\",\"incomplete_details\":{{\"reason\":\"{}\"}},\"error\":null,\"output\":[{items}],\
             \"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[]{usage}}}}}\n\n",
            self.names(&["id", "created_at", "model"]),
            self.dialect.reason(self.why)
        );
        out
    }

    /// Anthropic's closing events. An open content block is closed first.
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

    /// The wanted members that are known, each with a trailing comma.
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
    use crate::event::{EventVisitor, Kinds, Part};
    use crate::reader::{Framing, Reader, ReaderLimits};

    /// What [`Reader`] reports: the finish reasons, and whether there was an end marker.
    #[derive(Default)]
    struct ReceivedParts {
        reasons: Vec<(u32, String)>,
        ended: bool,
        events: usize,
    }

    impl EventVisitor for ReceivedParts {
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

    fn received_parts(dialect: Dialect, events: &str) -> ReceivedParts {
        let framing = if dialect == Dialect::Ollama { Framing::Ndjson } else { Framing::Sse };
        let (mut reader, mut heard) =
            (Reader::new(dialect, framing, ReaderLimits::default()), ReceivedParts::default());
        reader.feed(events.as_bytes(), &mut heard);
        assert_eq!(reader.unterminated(), 0);
        heard
    }

    fn ending(dialect: Dialect, first: &str, last: &str, choices: &[u32]) -> String {
        let envelope = Envelope::from_event(first.as_bytes());
        Ending {
            dialect,
            envelope: &envelope,
            last: last.as_bytes(),
            choices,
            tokens: Some(7),
            prompt_tokens: (dialect != Dialect::OpenAiCompletions).then_some(11),
            output: &ResponseOutput::default(),
            message: "It was stopped.",
            why: Why::Filtered,
        }
        .events()
    }

    #[test]
    fn closing_events_have_a_finish_reason_and_an_end_marker() {
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
            let heard = received_parts(dialect, &events);
            assert_eq!(heard.reasons, [(0, reason.to_owned())], "{dialect:?}: {events}");
            assert!(heard.ended, "{dialect:?}: {events}");
        }
        assert_eq!(
            received_parts(Dialect::Generate, &ending(Dialect::Generate, "{}", "", &[0])).events,
            1,
            "an error event, because the dialect has no finish reason"
        );
    }

    #[test]
    fn closing_events_repeat_members_of_earlier_events() {
        let chat = ending(
            Dialect::OpenAiChat,
            r#"{"choices":[{"id":9}],"id":"c\"1","created":17,"model":"m/x"}"#,
            "",
            &[0, 2],
        );
        assert_eq!(chat.matches(r#""id":"c\"1","created":17,"model":"m/x","#).count(), 3, "{chat}");
        assert!(chat.contains(r#""index":2"#));
        assert!(
            chat.ends_with("\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18}}\n\ndata: [DONE]\n\n"),
            "{chat}"
        );
        let unasked = ending(Dialect::OpenAiCompletions, "{}", "", &[0]);
        assert!(!unasked.contains("usage"), "{unasked}");
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
        let ollama = ending(Dialect::Ollama, "{}", "", &[0]);
        assert!(ollama.contains(r#""prompt_eval_count":11,"eval_count":7}"#), "{ollama}");
        // Only short scalars are repeated.
        let odd = Envelope::from_event(
            format!(r#"{{"id":{{"a":1}},"model":"{}","created":17"#, "x".repeat(300)).as_bytes(),
        );
        assert_eq!((odd.id.as_str(), odd.model.as_str(), odd.created.as_str()), ("", "", "17"));
    }
}
