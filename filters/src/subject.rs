//! The subject of a check: the texts of a prompt, or a window of an answer.
//!
//! - *In*: decoded texts with their roles.
//! - *Out*: the same, cheap to share with threads and judges: one allocation for all texts.
//! - *Never*: a change. What is looked at is what was sent.

use std::ops::Range;
use std::sync::OnceLock;

use shield::normalise::{Limits, Normal, normalise};
use wire::request::PromptRole;

/// On which side of the engine.
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

/// Role of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// Of a prompt.
    Prompt(PromptRole),
    /// Of an answer: the choice.
    Answer(u32),
}

impl Voice {
    /// Whether the words come from users or tools: only those are judged as attacks, because a
    /// system prompt that forbids something reads like one.
    pub fn is_foreign(self) -> bool {
        matches!(self, Voice::Prompt(PromptRole::User | PromptRole::Tool) | Voice::Answer(_))
    }
}

/// Where a text of a prompt stands in the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The bytes between its quotes.
    pub body: Range<usize>,
    /// Whether they hold escapes.
    pub escaped: bool,
}

#[derive(Clone, Debug)]
struct Piece {
    voice: Voice,
    words: Range<usize>,
    place: Place,
    /// Made by the first that wants it, for all.
    normal: OnceLock<Box<Normal>>,
}

/// What is taken out of its disguise, of one text. Four mebibytes cost the classifiers some 60 ms,
/// on a thread of the pool; a longer text is not text, and filters that must read it report that.
pub const NORMALISED: Limits =
    Limits { max_input: 4 << 20, max_output: 8 << 20, max_views: 256, max_depth: 2 };

/// Size of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Messages, or prompts of a batch.
    pub messages: u64,
    /// Tools offered.
    pub tools: u64,
    /// Objects and lists inside one another.
    pub nesting: u64,
    /// Requested output tokens; `None`: the engine's default.
    pub output_tokens: Option<u64>,
}

/// Texts to look at.
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
    /// Begin one; `bytes` is about how much text will come.
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
        builder.text(Voice::Prompt(PromptRole::User), Place::default(), text);
        builder.done()
    }

    /// A window of an answer's first choice; for tests.
    pub fn of_answer(text: &str) -> Subject {
        let mut builder = Subject::build(Side::Output, Sizes::default(), text.len());
        builder.text(Voice::Answer(0), Place::default(), text);
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

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The texts in order, with their roles.
    pub fn texts(&self) -> impl Iterator<Item = (Voice, &str)> + '_ {
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
    pub fn voice(&self, at: usize) -> Option<Voice> {
        self.pieces.get(at).map(|piece| piece.voice)
    }

    /// A text without its disguise, as far as [`NORMALISED`] goes.
    pub fn normal(&self, at: usize) -> &Normal {
        static NOTHING: OnceLock<Normal> = OnceLock::new();
        match self.pieces.get(at) {
            Some(piece) => {
                piece.normal.get_or_init(|| Box::new(normalise(self.text(at), &NORMALISED)))
            }
            None => NOTHING.get_or_init(Normal::default),
        }
    }

    /// Where a text stands in the body.
    pub fn place(&self, at: usize) -> Place {
        self.pieces.get(at).map(|piece| piece.place.clone()).unwrap_or_default()
    }
}

impl SubjectBuilder {
    /// One more text.
    pub fn text(&mut self, voice: Voice, place: Place, text: &str) {
        let start = self.0.words.len();
        self.0.words.push_str(text);
        self.0.pieces.push(Piece {
            voice,
            words: start..self.0.words.len(),
            place,
            normal: OnceLock::new(),
        });
    }

    /// That was all.
    pub fn done(self) -> Subject {
        self.0
    }
}
