//! Parses one answer while it is forwarded: framing and dialect together.
//!
//! - *In*: the decoded body of an answer (transfer coding removed), chunk by chunk.
//! - *Out*: parts, events and comments to a [`EventVisitor`], with end offsets in the chunk.
//! - *Never*: a copy of an event that lies within one chunk; more than [`ReaderLimits::event`]
//!   bytes buffered.

use crate::dialect::{self, Dialect, DialectState};
use crate::event::{EventReporter, EventVisitor, Part, Usage};
use crate::json;
use crate::ndjson::{self, Line};
use crate::sse::{self, Item};
use crate::template::Template;

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
    Json(Vec<u8>),
    /// A body over the limit.
    JsonTail(json::Tail),
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
    /// The last event was over the limit.
    ends_skipped: bool,
    is_cut: bool,
}

impl Reader {
    /// A reader for an answer of this dialect and framing.
    pub fn new(dialect: Dialect, framing: Framing, limits: ReaderLimits) -> Self {
        let frames = match framing {
            Framing::Sse => Frames::Sse(sse::Decoder::new(limits.event)),
            Framing::Ndjson => Frames::Ndjson(ndjson::Decoder::new(limits.event)),
            Framing::Json => Frames::Json(Vec::new()),
            Framing::Opaque => Frames::Opaque,
        };
        Reader {
            dialect,
            state: DialectState::default(),
            frames,
            template: Template::default(),
            limits,
            overflowed: false,
            ends_skipped: false,
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
            Frames::JsonTail(_) => true,
            Frames::Json(_) | Frames::Opaque => false,
        }
    }

    /// Whether the last event was skipped because it exceeded the limit, and may be the end marker:
    /// in some dialects it repeats the whole answer.
    pub fn ends_skipped(&self) -> bool {
        self.ends_skipped && self.dialect.ends_with_large_event()
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
            Frames::Json(_) | Frames::JsonTail(_) | Frames::Opaque => 0,
        }
    }

    /// Parse the next piece of the body.
    pub fn feed<L: EventVisitor>(&mut self, chunk: &[u8], listener: &mut L) {
        let Reader { dialect, state, frames, template, limits, overflowed, ends_skipped, .. } =
            self;
        let mut event = |data: &[u8], end, listener: &mut L| {
            read_event(*dialect, state, template, (data, end), listener);
            false
        };
        let mut skipped = |tail: &[u8], end, listener: &mut L| {
            read_skipped(*dialect, (tail, end), listener);
            *overflowed = true;
            true
        };
        match frames {
            Frames::Sse(decoder) => decoder.feed(chunk, |item| match item {
                Item::Frame(frame) if frame.name == sse::ERROR_FIELD => {
                    *ends_skipped = false;
                    read_error((frame.data, frame.end), listener);
                }
                Item::Frame(frame) => *ends_skipped = event(frame.data, frame.end, listener),
                Item::Comment(end) => listener.comment(end),
                Item::Skipped(tail, end) => *ends_skipped = skipped(tail, end, listener),
            }),
            Frames::Ndjson(decoder) => decoder.feed(chunk, |line, end| {
                *ends_skipped = match line {
                    Line::Whole(line) => event(line, end, listener),
                    Line::Skipped(tail) => skipped(tail, end, listener),
                }
            }),
            Frames::Json(body) => {
                body.extend_from_slice(chunk);
                if body.len() > limits.event {
                    let mut tail = json::Tail::default();
                    tail.push(body);
                    *frames = Frames::JsonTail(tail);
                }
            }
            Frames::JsonTail(tail) => tail.push(chunk),
            Frames::Opaque => {}
        }
        self.overflowed |= self.is_skipping();
    }

    /// Handle the end of the body. A JSON body is reported as one event, and so is a last event
    /// that is whole but not terminated. An incomplete event is not reported.
    pub fn finish<L: EventVisitor>(&mut self, listener: &mut L) {
        let is_json = matches!(self.frames, Frames::Json(_));
        let last = match &mut self.frames {
            Frames::Json(body) => {
                Some(std::mem::take(body)).filter(|body| !body.trim_ascii().is_empty())
            }
            Frames::JsonTail(tail) => {
                let tail = tail.bytes();
                self.is_cut = !matches!(tail.trim_ascii_end().last(), Some(b'}' | b']'));
                return read_skipped(self.dialect, (tail, 0), listener);
            }
            Frames::Ndjson(decoder) => decoder.take_last(),
            Frames::Sse(decoder) => decoder.take_last(),
            Frames::Opaque => None,
        };
        if let Some(last) = last {
            let Reader { dialect, state, template, .. } = self;
            let understood = read_event(*dialect, state, template, (&last, 0), listener);
            if is_json && !understood {
                self.is_cut = json::is_cut(&last);
            }
        }
    }
}

/// Report an event over the limit, with the usage that its end has.
fn read_skipped<L: EventVisitor>(dialect: Dialect, (tail, end): (&[u8], usize), listener: &mut L) {
    let mut found = FoundUsage(None);
    if let Some(members) = json::last_members(tail) {
        let report = &mut EventReporter::new(&mut found);
        // Members of which a part is missing may be malformed; those before it still count.
        let _ = dialect::read(dialect, &mut DialectState::default(), &members, report);
    }
    // Usage may stand deeper, as in Responses, or be read only beside other members.
    let named = || dialect::usage_at_end(tail);
    let mut report = EventReporter::new(listener);
    if let Some(usage) = found.0.or_else(named) {
        report.usage(usage);
    }
    report.done(end, false, false);
}

/// Report an error object that stands in place of an event.
fn read_error<L: EventVisitor>((data, end): (&[u8], usize), listener: &mut L) {
    listener.data(data);
    let mut report = EventReporter::new(listener);
    let understood = dialect::read_error(data, &mut report).is_ok();
    report.done(end, understood, false);
}

/// The usage of an event, and nothing else.
struct FoundUsage(Option<Usage>);

impl EventVisitor for FoundUsage {
    fn part(&mut self, part: Part<'_>) {
        if let Part::Usage(usage) = part {
            self.0.get_or_insert_default().update(usage);
        }
    }
}

/// Report an event. Returns whether it was understood.
fn read_event<L: EventVisitor>(
    dialect: Dialect,
    state: &mut DialectState,
    template: &mut Template,
    (data, end): (&[u8], usize),
    listener: &mut L,
) -> bool {
    listener.data(data);
    let mut report = EventReporter::new(listener);
    if let Some((slot, text)) = template.text(data) {
        report.text(slot.channel, slot.choice, slot.index, Some(text));
        report.done(end, true, true);
        return true;
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
    understood
}
