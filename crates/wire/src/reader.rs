//! Parses one answer while it is forwarded: framing and dialect together.
//!
//! - *In*: the decoded body of an answer (transfer coding removed), chunk by chunk.
//! - *Out*: parts, events and comments to a [`EventVisitor`], with end offsets in the chunk.
//! - *Never*: a copy of an event that lies within one chunk; more than [`ReaderLimits::event`]
//!   bytes buffered.

use crate::dialect::{self, Dialect, DialectState};
use crate::event::{EventReporter, EventVisitor};
use crate::sse::{self, Item};
use crate::template::Template;
use crate::{json, ndjson};

/// How the events of an answer are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`.
    Sse,
    /// One JSON document per line.
    Ndjson,
    /// The body is one JSON document.
    Json,
    /// Not parsed: HTML, plain text, binary event streams, compressed bodies.
    Opaque,
}

impl Framing {
    /// The framing of a `Content-Type`, ignoring parameters and case.
    pub fn from_content_type(value: &str) -> Self {
        let essence = value.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("text/event-stream") {
            Framing::Sse
        } else if is("application/x-ndjson") || is("application/ndjson") || is("application/jsonl")
        {
            Framing::Ndjson
        } else if is("application/json") || essence.to_ascii_lowercase().ends_with("+json") {
            Framing::Json
        } else {
            Framing::Opaque
        }
    }
}

/// Limits of a [`Reader`].
#[derive(Clone, Copy, Debug)]
pub struct ReaderLimits {
    /// Maximum bytes of one event that are buffered. Default 1 MiB. A larger event is forwarded,
    /// but not parsed. Of a larger JSON body, only the last members are parsed.
    pub event: usize,
}

impl Default for ReaderLimits {
    fn default() -> Self {
        ReaderLimits { event: 1 << 20 }
    }
}

#[derive(Debug)]
enum Frames {
    Sse(sse::Decoder),
    Ndjson(ndjson::Decoder),
    Json { body: Vec<u8>, is_tail: bool },
    Opaque,
}

/// Parses one answer.
#[derive(Debug)]
pub struct Reader {
    dialect: Dialect,
    state: DialectState,
    frames: Frames,
    template: Template,
    limits: ReaderLimits,
    overflowed: bool,
    is_cut: bool,
}

/// Bytes kept of the end of a JSON body over the limit.
const TAIL: usize = 16 << 10;

impl Reader {
    /// A reader for an answer of this dialect and framing.
    pub fn new(dialect: Dialect, framing: Framing, limits: ReaderLimits) -> Self {
        let frames = match framing {
            Framing::Sse => Frames::Sse(sse::Decoder::new(limits.event)),
            Framing::Ndjson => Frames::Ndjson(ndjson::Decoder::new(limits.event)),
            Framing::Json => Frames::Json { body: Vec::new(), is_tail: false },
            Framing::Opaque => Frames::Opaque,
        };
        Reader {
            dialect,
            state: DialectState::default(),
            frames,
            template: Template::default(),
            limits,
            overflowed: false,
            is_cut: false,
        }
    }

    /// Set whether the request has `echo`: the first text of a chat stream is then the prompt, not
    /// output.
    #[must_use]
    pub fn expecting_echo(mut self, echo: bool) -> Self {
        self.state.echo_pending = echo && self.dialect == Dialect::OpenAiChat;
        self
    }

    /// Whether an event exceeded the limit, so that a part of the answer was not parsed.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether the open event exceeded the limit.
    pub fn is_skipping(&self) -> bool {
        match &self.frames {
            Frames::Sse(d) => d.is_skipping(),
            Frames::Ndjson(d) => d.is_skipping(),
            Frames::Json { is_tail, .. } => *is_tail,
            Frames::Opaque => false,
        }
    }

    /// Whether the body was a JSON document that ends inside a value. Known after
    /// [`finish`](Self::finish).
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Bytes after the last complete event.
    pub fn unterminated(&self) -> usize {
        match &self.frames {
            Frames::Sse(d) => d.unterminated(),
            Frames::Ndjson(d) => d.unterminated(),
            Frames::Json { .. } | Frames::Opaque => 0,
        }
    }

    /// Parse the next piece of the body.
    pub fn feed<L: EventVisitor>(&mut self, chunk: &[u8], listener: &mut L) {
        let Reader { dialect, state, frames, template, limits, overflowed, .. } = self;
        let mut skipped = |end, listener: &mut L| {
            *overflowed = true;
            EventReporter::new(listener).done(end, false, false);
        };
        match frames {
            Frames::Sse(decoder) => decoder.feed(chunk, |item| match item {
                Item::Frame(frame) => {
                    read_event(*dialect, state, template, (frame.data, frame.end), listener)
                }
                Item::Comment(end) => listener.comment(end),
                Item::Skipped(end) => skipped(end, listener),
            }),
            Frames::Ndjson(decoder) => {
                decoder.feed(chunk, |line, end| match line {
                    Some(line) => read_event(*dialect, state, template, (line, end), listener),
                    None => skipped(end, listener),
                });
            }
            Frames::Json { body, is_tail } => {
                body.extend_from_slice(chunk);
                if body.len() > limits.event || *is_tail && body.len() > 2 * TAIL {
                    *is_tail = true;
                    *body = body.split_off(body.len().saturating_sub(TAIL));
                }
            }
            Frames::Opaque => {}
        }
        self.overflowed |= self.is_skipping();
    }

    /// Handle the end of the body. A JSON body is reported as one event, and so is a last event
    /// that is whole but not terminated. An incomplete event is not reported.
    pub fn finish<L: EventVisitor>(&mut self, listener: &mut L) {
        let last = match &mut self.frames {
            Frames::Json { body, is_tail: false } => {
                self.is_cut = json::is_cut(body);
                Some(std::mem::take(body)).filter(|body| !body.trim_ascii().is_empty())
            }
            Frames::Json { body, is_tail: true } => {
                self.is_cut = !matches!(body.trim_ascii_end().last(), Some(b'}' | b']'));
                json::last_members(&std::mem::take(body))
            }
            Frames::Ndjson(decoder) => decoder.take_last(),
            Frames::Sse(decoder) => decoder.take_last(),
            Frames::Opaque => None,
        };
        if let Some(last) = last {
            read_event(self.dialect, &mut self.state, &mut self.template, (&last, 0), listener);
        }
    }
}

fn read_event<L: EventVisitor>(
    dialect: Dialect,
    state: &mut DialectState,
    template: &mut Template,
    (data, end): (&[u8], usize),
    listener: &mut L,
) {
    listener.data(data);
    let mut report = EventReporter::new(listener);
    if let Some((slot, text)) = template.text(data) {
        report.text(slot.channel, slot.choice, slot.index, Some(text));
        return report.done(end, true, true);
    }
    let understood = if data == b"[DONE]" {
        report.end("[DONE]");
        true
    } else {
        let read = dialect::read(dialect, state, data, &mut report);
        read.is_ok() || json::Scan::new(data).at_end()
    };
    // An event whose meaning depends on earlier events cannot serve as a template.
    let alone = report.told == 1 && !dialect.text_is_cumulative() && !state.echo_pending;
    if let (Some(slot), true) = (report.slot, alone && understood) {
        template.learn(data, slot);
    }
    report.done(end, understood, false);
}
