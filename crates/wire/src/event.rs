//! Events of a stream, independent of their dialect.
//!
//! - *In*: parts parsed by the dialect readers.
//! - *Out*: [`Part`]s in byte order, then the [`Event`] that summarizes them, to a
//!   [`EventVisitor`].
//! - *Never*: owned text; a listener copies what it keeps.

use crate::json::{Malformed, Scan, Text};
use crate::template::Slot;

/// The kind of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// The answer.
    Content,
    /// Reasoning shown to the client.
    Reasoning,
    /// A refusal in place of an answer.
    Refusal,
    /// The name of a called tool or function.
    ToolName,
    /// A piece of a tool call's arguments.
    ToolArguments,
    /// Text outside the answer itself: a second copy of it, a transcript, an annotation. It does
    /// not count as a token and sets no mark, but guardrails scan it like all other text. The index
    /// distinguishes its members.
    Auxiliary,
}

/// One fact found in an event.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// The event has a role.
    Role,
    /// Generated text; never empty.
    Text {
        /// The kind of text.
        channel: Channel,
        /// The choice it belongs to; 0 if the dialect has a single choice.
        choice: u32,
        /// The tool call within the choice; a hash of the key path for [`Channel::Auxiliary`]; else
        /// 0.
        index: u32,
        /// The text as written.
        text: Text<'a>,
    },
    /// A choice ended, with the engine's finish reason.
    Finish {
        /// The choice that ended.
        choice: u32,
        /// The engine's value: `stop`, `length`, `tool_calls`, `end_turn` ...
        reason: Text<'a>,
    },
    /// Token counts. Later ones replace earlier ones field by field.
    Usage(Usage),
    /// Durations that the engine measured. Later ones replace earlier ones field by field.
    Times(EngineTimes),
    /// The model name that the engine reports.
    Model(Text<'a>),
    /// The engine reports an error inside a stream or body.
    Error {
        /// The error type.
        kind: Option<Text<'a>>,
        /// The human-readable message.
        message: Option<Text<'a>>,
        /// The error code, a number or a string, as written.
        code: Option<Text<'a>>,
    },
    /// The dialect's marker for the end of the stream (`[DONE]`, `message_stop`, `done:true` ...).
    End(&'static str),
}

/// Token counts as reported by the engine. Absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens. The dialect decides whether cached tokens are included.
    pub prompt_tokens: Option<u64>,
    /// Generated tokens, including reasoning.
    pub completion_tokens: Option<u64>,
    /// Total tokens, as reported by the engine.
    pub total_tokens: Option<u64>,
    /// Prompt tokens read from a cache.
    pub cached_tokens: Option<u64>,
    /// Prompt tokens written to a cache, if the engine reports them separately (Anthropic).
    pub cache_creation_tokens: Option<u64>,
    /// Generated tokens spent on reasoning.
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Merge the counts of a later event, field by field. Counts are cumulative, so the larger one
    /// is right: servers that count once write zeros afterwards.
    pub fn update(&mut self, later: Usage) {
        let merge = |count: &mut Option<u64>, later: Option<u64>| *count = later.max(*count);
        merge(&mut self.prompt_tokens, later.prompt_tokens);
        merge(&mut self.completion_tokens, later.completion_tokens);
        merge(&mut self.total_tokens, later.total_tokens);
        merge(&mut self.cached_tokens, later.cached_tokens);
        merge(&mut self.cache_creation_tokens, later.cache_creation_tokens);
        merge(&mut self.reasoning_tokens, later.reasoning_tokens);
    }

    /// Reasoning tokens that the generated tokens exclude: the total has them in addition.
    pub fn separate_reasoning(&self) -> Option<u64> {
        let reasoning = self.reasoning_tokens.filter(|tokens| *tokens > 0)?;
        let counted = self.prompt_tokens?.checked_add(self.completion_tokens?)?;
        (self.total_tokens? == counted.checked_add(reasoning)?).then_some(reasoning)
    }

    /// Whether both counts are absent or zero: some engines attach a zeroed object to every chunk.
    pub fn is_blank(&self) -> bool {
        self.prompt_tokens.unwrap_or(0) == 0 && self.completion_tokens.unwrap_or(0) == 0
    }
}

/// Durations in microseconds that the engine measured for one answer. Absent is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTimes {
    /// Waiting in the engine's queue: received to scheduled.
    pub queue: Option<u64>,
    /// Loading the model, where an engine loads it on request.
    pub load: Option<u64>,
    /// Processing the prompt: scheduled to first token.
    pub prefill: Option<u64>,
    /// Generating: first to last token.
    pub decode: Option<u64>,
}

impl EngineTimes {
    /// Merge the durations of a later event, field by field.
    pub fn update(&mut self, later: EngineTimes) {
        self.queue = later.queue.or(self.queue);
        self.load = later.load.or(self.load);
        self.prefill = later.prefill.or(self.prefill);
        self.decode = later.decode.or(self.decode);
    }
}

/// Set of the kinds of parts in an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// A role.
    pub const ROLE: Kinds = Kinds(1);
    /// Reasoning text.
    pub const REASONING: Kinds = Kinds(2);
    /// Content or refusal text.
    pub const CONTENT: Kinds = Kinds(4);
    /// A tool call's name or arguments.
    pub const TOOL_CALL: Kinds = Kinds(8);
    /// Usage.
    pub const USAGE: Kinds = Kinds(16);
    /// A finish reason.
    pub const FINISH: Kinds = Kinds(32);
    /// An error.
    pub const ERROR: Kinds = Kinds(64);
    /// The end marker.
    pub const END: Kinds = Kinds(128);

    const TOKENS: u8 = Self::REASONING.0 | Self::CONTENT.0 | Self::TOOL_CALL.0;

    /// Whether all of `other` is in the set.
    #[inline]
    pub fn has(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the event carries generated text of any kind: a *content event*. Only content events
    /// count as tokens and set token marks.
    #[inline]
    pub fn is_token(self) -> bool {
        self.0 & Self::TOKENS != 0
    }

    /// Whether the event has a role and no generated text.
    #[inline]
    pub fn is_role_only(self) -> bool {
        self.has(Self::ROLE) && !self.is_token()
    }

    /// Whether the event carries usage and nothing else.
    #[inline]
    pub fn is_usage_only(self) -> bool {
        self.0 == Self::USAGE.0
    }

    fn add(&mut self, other: Kinds) {
        self.0 |= other.0;
    }
}

/// Summary of a complete event, reported after its parts.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The kinds of its parts.
    pub kinds: Kinds,
    /// Bytes of generated text; for estimates only.
    pub text_bytes: usize,
    /// Characters of generated text; for estimates only.
    pub text_chars: usize,
    /// Generated tokens so far, if the event reports them (for example `continuous_usage_stats`).
    pub tokens_so_far: Option<u64>,
    /// Offset just past the event in the chunk that completed it.
    pub end: usize,
    /// Whether the choices list was present and empty: a usage-only or annotation event of the
    /// OpenAI family.
    pub no_choices: bool,
    /// Whether the data could be parsed in its dialect.
    pub understood: bool,
    /// Whether the event differs from the previous one in one text only.
    pub same_shape: bool,
}

/// Receiver of events. Every method has an empty default.
pub trait EventVisitor {
    /// The data of the event whose parts follow, without framing. Texts of the parts are slices of
    /// it.
    #[inline]
    fn data(&mut self, data: &[u8]) {
        let _ = data;
    }
    /// One part of the current event.
    #[inline]
    fn part(&mut self, part: Part<'_>) {
        let _ = part;
    }
    /// The event is complete; all its parts have been reported.
    #[inline]
    fn event(&mut self, event: &Event) {
        let _ = event;
    }
    /// A comment line (keep-alive) ended at this offset of the chunk.
    #[inline]
    fn comment(&mut self, end: usize) {
        let _ = end;
    }
}

/// A listener that ignores everything, for benchmarks of the readers.
impl EventVisitor for () {}

/// Forwards the parts of one event to the listener and summarizes them. Dialects report to it.
pub(crate) struct EventReporter<'l, L> {
    listener: &'l mut L,
    pub(crate) kinds: Kinds,
    text_bytes: usize,
    text_chars: usize,
    pub(crate) tokens_so_far: Option<u64>,
    pub(crate) no_choices: bool,
    /// The last text reported.
    pub(crate) slot: Option<Slot>,
    /// Number of parts reported, not counting the model.
    pub(crate) told: u32,
}

impl<'l, L: EventVisitor> EventReporter<'l, L> {
    pub(crate) fn new(listener: &'l mut L) -> Self {
        EventReporter {
            listener,
            kinds: Kinds::default(),
            text_bytes: 0,
            text_chars: 0,
            tokens_so_far: None,
            no_choices: false,
            slot: None,
            told: 0,
        }
    }

    pub(crate) fn done(self, end: usize, understood: bool, same_shape: bool) {
        self.listener.event(&Event {
            kinds: self.kinds,
            text_bytes: self.text_bytes,
            text_chars: self.text_chars,
            tokens_so_far: self.tokens_so_far,
            end,
            no_choices: self.no_choices,
            understood,
            same_shape,
        });
    }

    #[inline]
    pub(crate) fn text(
        &mut self,
        channel: Channel,
        choice: u32,
        index: u32,
        text: Option<Text<'_>>,
    ) {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return };
        self.kinds.add(match channel {
            Channel::Content | Channel::Refusal => Kinds::CONTENT,
            Channel::Reasoning => Kinds::REASONING,
            Channel::ToolName | Channel::ToolArguments => Kinds::TOOL_CALL,
            Channel::Auxiliary => Kinds::default(),
        });
        let (bytes, chars) = text.decoded_size();
        self.text_bytes += bytes;
        self.text_chars += chars;
        self.told += 1;
        self.slot = Some(Slot {
            channel,
            choice,
            index,
            at: (text.raw().as_ptr() as usize, text.raw().len()),
        });
        self.listener.part(Part::Text { channel, choice, index, text });
    }

    /// Report every string of an unknown member. Each path of keys below `key` is a separate text.
    pub(crate) fn beside(
        &mut self,
        choice: u32,
        key: &[u8],
        scan: &mut Scan<'_>,
    ) -> Result<(), Malformed> {
        self.below(choice, path(0x811C_9DC5, key), scan)
    }

    /// Report a text outside the answer itself.
    pub(crate) fn text_beside(&mut self, key: &[u8], text: Text<'_>) {
        if !text.is_empty() {
            self.told += 1;
            self.listener.part(Part::Text {
                channel: Channel::Auxiliary,
                choice: 0,
                index: path(0x811C_9DC5, key),
                text,
            });
        }
    }

    fn below(&mut self, choice: u32, index: u32, scan: &mut Scan<'_>) -> Result<(), Malformed> {
        match scan.peek() {
            Some(b'"') => {
                if let Some(text) = scan.text()?.filter(|text| !text.is_empty()) {
                    self.told += 1;
                    self.listener.part(Part::Text {
                        channel: Channel::Auxiliary,
                        choice,
                        index,
                        text,
                    });
                }
                Ok(())
            }
            Some(b'{') => scan.object(|key, v| self.below(choice, path(index, key), v)),
            Some(b'[') => scan.array(|_, v| self.below(choice, index, v)),
            _ => scan.skip(),
        }
    }

    pub(crate) fn role(&mut self) {
        self.told += 1;
        self.kinds.add(Kinds::ROLE);
        self.listener.part(Part::Role);
    }

    pub(crate) fn finish(&mut self, choice: u32, reason: Option<Text<'_>>) {
        let Some(reason) = reason.filter(|r| !r.is_empty()) else { return };
        self.told += 1;
        self.kinds.add(Kinds::FINISH);
        self.listener.part(Part::Finish { choice, reason });
    }

    pub(crate) fn usage(&mut self, usage: Usage) {
        if usage.is_blank() {
            return;
        }
        self.told += 1;
        self.kinds.add(Kinds::USAGE);
        self.tokens_so_far = usage.completion_tokens;
        self.listener.part(Part::Usage(usage));
    }

    pub(crate) fn times(&mut self, times: EngineTimes) {
        if times != EngineTimes::default() {
            self.told += 1;
            self.listener.part(Part::Times(times));
        }
    }

    pub(crate) fn model(&mut self, model: Option<Text<'_>>) {
        if let Some(model) = model.filter(|m| !m.is_empty()) {
            self.listener.part(Part::Model(model));
        }
    }

    pub(crate) fn error(
        &mut self,
        kind: Option<Text<'_>>,
        message: Option<Text<'_>>,
        code: Option<Text<'_>>,
    ) {
        self.told += 1;
        self.kinds.add(Kinds::ERROR);
        self.listener.part(Part::Error { kind, message, code });
    }

    pub(crate) fn end(&mut self, marker: &'static str) {
        self.told += 1;
        self.kinds.add(Kinds::END);
        self.listener.part(Part::End(marker));
    }
}

/// Hash of a path of keys (FNV-1a). Two paths with the same hash share one text, which only makes a
/// guardrail hold it longer.
fn path(above: u32, key: &[u8]) -> u32 {
    key.iter()
        .chain(b"/")
        .fold(above, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
