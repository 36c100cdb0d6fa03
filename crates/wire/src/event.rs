//! Events of a stream, independent of their dialect.
//!
//! - *In*: parts parsed by the dialect readers.
//! - *Out*: [`Part`]s in the order of the bytes, then the [`Event`] that sums them up, to a
//!   [`Listener`].
//! - *Never*: owned text; a listener copies what it wants to keep.

use crate::json::{Malformed, Scan, Text};
use crate::template::Slot;

/// Where a piece of generated text belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// The answer.
    Content,
    /// Thinking shown to the caller.
    Reasoning,
    /// A refusal that stands in place of an answer.
    Refusal,
    /// The name of a called tool or function.
    ToolName,
    /// A piece of a tool call's arguments.
    ToolArguments,
    /// Text beside the answer: a second copy of it, a transcript, an annotation. It is no token and
    /// starts no clock, but a guard must follow it as it follows the rest. The index tells its
    /// members apart.
    Beside,
}

/// One fact found in an event.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A role was announced.
    Role,
    /// Generated text; never empty.
    Text {
        /// What the text is.
        channel: Channel,
        /// The choice it belongs to (0 where the dialect has one).
        choice: u32,
        /// The tool call within the choice; 0 for other channels.
        index: u32,
        /// The text as written.
        text: Text<'a>,
    },
    /// A choice ended, with the engine's own word for why.
    Finish {
        /// The choice that ended.
        choice: u32,
        /// The engine's word: `stop`, `length`, `tool_calls`, `end_turn` ...
        reason: Text<'a>,
    },
    /// Token counts. Later ones replace earlier ones field by field.
    Usage(Usage),
    /// The model that answers, by its own name.
    Model(Text<'a>),
    /// The engine reports an error inside a stream or body.
    Error {
        /// The engine's class of error.
        kind: Option<Text<'a>>,
        /// The text for people.
        message: Option<Text<'a>>,
        /// The engine's code, number or word, as written.
        code: Option<Text<'a>>,
    },
    /// The dialect's own mark that the stream is complete (`[DONE]`, `message_stop`, `done:true`
    /// ...).
    End(&'static str),
}

/// Token counts as an engine states them; absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones as the engine counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated, reasoning included.
    pub completion_tokens: Option<u64>,
    /// The engine's own total.
    pub total_tokens: Option<u64>,
    /// Prompt tokens served from a cache.
    pub cached_tokens: Option<u64>,
    /// Prompt tokens written to a cache, where an engine counts them beside the prompt (Anthropic).
    pub cache_creation_tokens: Option<u64>,
    /// Generated tokens spent on reasoning.
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Take what `newer` knows.
    pub fn update(&mut self, newer: Usage) {
        self.prompt_tokens = newer.prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = newer.completion_tokens.or(self.completion_tokens);
        self.total_tokens = newer.total_tokens.or(self.total_tokens);
        self.cached_tokens = newer.cached_tokens.or(self.cached_tokens);
        self.cache_creation_tokens = newer.cache_creation_tokens.or(self.cache_creation_tokens);
        self.reasoning_tokens = newer.reasoning_tokens.or(self.reasoning_tokens);
    }

    /// Whether nothing is known, or only zeros: some engines put a zeroed object on every chunk.
    pub fn is_blank(&self) -> bool {
        self.prompt_tokens.unwrap_or(0) == 0 && self.completion_tokens.unwrap_or(0) == 0
    }
}

/// What an event carries, as a set.
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
    /// The end mark.
    pub const END: Kinds = Kinds(128);

    const TOKENS: u8 = Self::REASONING.0 | Self::CONTENT.0 | Self::TOOL_CALL.0;

    /// Whether all of `other` is in the set.
    #[inline]
    pub fn has(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the event carries generated text of any kind: a *content event*, the only kind that
    /// starts or counts as a token.
    #[inline]
    pub fn is_token(self) -> bool {
        self.0 & Self::TOKENS != 0
    }

    /// Whether the event announces a role and carries nothing generated.
    #[inline]
    pub fn is_role_only(self) -> bool {
        self.has(Self::ROLE) && !self.is_token()
    }

    /// Whether the event carries usage and nothing else that a client could want.
    #[inline]
    pub fn is_usage_only(self) -> bool {
        self.0 == Self::USAGE.0
    }

    fn add(&mut self, other: Kinds) {
        self.0 |= other.0;
    }
}

/// A whole event, after its parts.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What it carried.
    pub kinds: Kinds,
    /// Bytes of generated text, escapes not resolved; for estimates only.
    pub text_bytes: usize,
    /// Generated tokens so far, where the event itself tells (`continuous_usage_stats` and alike).
    pub tokens_so_far: Option<u64>,
    /// Offset just past the event in the chunk that completed it.
    pub end: usize,
    /// Whether the choices list was present and empty: a usage-only or annotation event of the
    /// OpenAI family.
    pub no_choices: bool,
    /// Whether the data could be read as its dialect.
    pub understood: bool,
    /// Whether the event has the shape of the one before it: it differs from it in one text only.
    pub same_shape: bool,
}

/// Receiver of events. Every method has an empty default.
pub trait Listener {
    /// The data of the event whose parts come next, framing removed. Texts of its parts are slices
    /// of it.
    #[inline]
    fn data(&mut self, data: &[u8]) {
        let _ = data;
    }
    /// One fact of the event being read.
    #[inline]
    fn part(&mut self, part: Part<'_>) {
        let _ = part;
    }
    /// The event is complete; all its parts were given before.
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

/// A listener that ignores everything, for measuring the readers themselves.
impl Listener for () {}

/// Passes parts on and sums up their kinds. Dialect readers speak to this.
pub(crate) struct Teller<'l, L> {
    listener: &'l mut L,
    pub(crate) kinds: Kinds,
    pub(crate) text_bytes: usize,
    pub(crate) tokens_so_far: Option<u64>,
    pub(crate) no_choices: bool,
    /// The last text told, and how many things were told, the model not counted.
    pub(crate) slot: Option<Slot>,
    pub(crate) told: u32,
}

impl<'l, L: Listener> Teller<'l, L> {
    pub(crate) fn new(listener: &'l mut L) -> Self {
        Teller {
            listener,
            kinds: Kinds::default(),
            text_bytes: 0,
            tokens_so_far: None,
            no_choices: false,
            slot: None,
            told: 0,
        }
    }

    pub(crate) fn done(self, end: usize, understood: bool, same_shape: bool) {
        let Teller { listener, kinds, text_bytes, tokens_so_far, no_choices, .. } = self;
        listener.event(&Event {
            kinds,
            text_bytes,
            tokens_so_far,
            end,
            no_choices,
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
            Channel::Beside => Kinds::default(),
        });
        self.text_bytes += text.raw().len();
        self.told += 1;
        self.slot = Some(Slot {
            channel,
            choice,
            index,
            at: (text.raw().as_ptr() as usize, text.raw().len()),
        });
        self.listener.part(Part::Text { channel, choice, index, text });
    }

    /// Every string of an unknown member: each path of keys below `key` is a text of its own.
    pub(crate) fn beside(
        &mut self,
        choice: u32,
        key: &[u8],
        scan: &mut Scan<'_>,
    ) -> Result<(), Malformed> {
        self.below(choice, path(0x811C_9DC5, key), scan)
    }

    /// A text that stands beside the answer.
    pub(crate) fn text_beside(&mut self, key: &[u8], text: Text<'_>) {
        if !text.is_empty() {
            self.told += 1;
            self.listener.part(Part::Text {
                channel: Channel::Beside,
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
                        channel: Channel::Beside,
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

/// A number for a path of keys (FNV-1a): two paths that share one share a text, which costs a guard
/// nothing but a wait.
fn path(above: u32, key: &[u8]) -> u32 {
    key.iter()
        .chain(b"/")
        .fold(above, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
