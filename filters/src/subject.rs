//! The subject of a check: the texts of a prompt, or a window of an answer.
//!
//! - *In*: decoded texts with their roles.
//! - *Out*: the same, cheap to share with threads and judges: one allocation for all texts.
//! - *Never*: a changed text. Filters check what was sent.

use std::ops::Range;
use std::sync::OnceLock;

use shield::normalise::{Limits, Normal, normalise};
use wire::request::PromptRole;

/// Whether a text goes to the engine or comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// A prompt.
    Input,
    /// An answer.
    Output,
}

impl Side {
    /// The word in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Side::Input => "input",
            Side::Output => "output",
        }
    }
}

/// The source of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// A prompt, with the role of the text.
    Prompt(PromptRole),
    /// An answer, with the index of the choice.
    Answer(u32),
}

impl TextSource {
    /// Whether the text comes from a user, a tool or an answer. Only these are checked for attacks:
    /// a system prompt that forbids something reads like an attack.
    pub fn is_untrusted(self) -> bool {
        matches!(
            self,
            TextSource::Prompt(PromptRole::User | PromptRole::Tool) | TextSource::Answer(_)
        )
    }
}

/// The position of a prompt's text in the request body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The bytes between its quotes.
    pub body: Range<usize>,
    /// Whether they hold escapes.
    pub escaped: bool,
}

#[derive(Clone, Debug)]
struct Piece {
    voice: TextSource,
    words: Range<usize>,
    place: Place,
    /// Computed on first use, then shared by all filters.
    normal: OnceLock<Box<Normal>>,
}

/// Limits for normalizing one text. The classifiers take some 60 ms for four mebibytes, on a thread
/// of the pool. Filters that must read a longer text report it as a finding.
pub const NORMALISED: Limits =
    Limits { max_input: 4 << 20, max_output: 8 << 20, max_views: 256, max_depth: 2 };

/// Size of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Messages, or prompts of a batch.
    pub messages: u64,
    /// Tools offered.
    pub tools: u64,
    /// Nesting depth of objects and arrays.
    pub nesting: u64,
    /// Requested output tokens; `None`: the engine's default.
    pub output_tokens: Option<u64>,
}

/// The texts to check.
#[derive(Clone, Debug)]
pub struct Subject {
    side: Side,
    words: String,
    pieces: Vec<Piece>,
    sizes: Sizes,
}

/// Gathers the texts of a [`Subject`].
#[derive(Debug)]
pub struct SubjectBuilder(Subject);

impl Subject {
    /// Start a subject. `bytes` is the expected size of all texts.
    pub fn build(side: Side, sizes: Sizes, bytes: usize) -> SubjectBuilder {
        SubjectBuilder(Subject {
            side,
            words: String::with_capacity(bytes),
            pieces: Vec::new(),
            sizes,
        })
    }

    /// A prompt of one user's text; for tests and the command line.
    pub fn of_user(text: &str) -> Subject {
        let mut builder =
            Subject::build(Side::Input, Sizes { messages: 1, ..Sizes::default() }, text.len());
        builder.text(TextSource::Prompt(PromptRole::User), Place::default(), text);
        builder.done()
    }

    /// A window of an answer's first choice; for tests.
    pub fn of_answer(text: &str) -> Subject {
        let mut builder = Subject::build(Side::Output, Sizes::default(), text.len());
        builder.text(TextSource::Answer(0), Place::default(), text);
        builder.done()
    }

    /// Which side.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Size of the request.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.words.len()
    }

    /// How many texts.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The texts in order, with their roles.
    pub fn texts(&self) -> impl Iterator<Item = (TextSource, &str)> + '_ {
        self.pieces
            .iter()
            .map(|piece| (piece.voice, self.words.get(piece.words.clone()).unwrap_or_default()))
    }

    /// One text.
    pub fn text(&self, at: usize) -> &str {
        self.pieces
            .get(at)
            .and_then(|piece| self.words.get(piece.words.clone()))
            .unwrap_or_default()
    }

    /// The role of a text.
    pub fn voice(&self, at: usize) -> Option<TextSource> {
        self.pieces.get(at).map(|piece| piece.voice)
    }

    /// The normalized form of a text, within the limits of [`NORMALISED`].
    pub fn normal(&self, at: usize) -> &Normal {
        static NOTHING: OnceLock<Normal> = OnceLock::new();
        match self.pieces.get(at) {
            Some(piece) => {
                piece.normal.get_or_init(|| Box::new(normalise(self.text(at), &NORMALISED)))
            }
            None => NOTHING.get_or_init(Normal::default),
        }
    }

    /// The position of a text in the body.
    pub fn place(&self, at: usize) -> Place {
        self.pieces.get(at).map(|piece| piece.place.clone()).unwrap_or_default()
    }
}

impl SubjectBuilder {
    /// Add a text.
    pub fn text(&mut self, voice: TextSource, place: Place, text: &str) {
        let start = self.0.words.len();
        self.0.words.push_str(text);
        self.0.pieces.push(Piece {
            voice,
            words: start..self.0.words.len(),
            place,
            normal: OnceLock::new(),
        });
    }

    /// The finished subject.
    pub fn done(self) -> Subject {
        self.0
    }
}
