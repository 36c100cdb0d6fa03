//! Converts offsets in characters to offsets in bytes.
//!
//! - *In*: offsets of judges: Unicode code points from the start of the text in the call.
//! - *Out*: bytes of the subject's text, at character boundaries.
//! - *Never*: a guess. An offset beyond the text means that the judge counts in another unit, so
//!   that its other offsets are wrong too.

use std::ops::Range;

use serde_json::Value;

use super::newest::Piece;

/// Maximum spans in one response. A text of 256 KiB with a name in every line stays below it.
pub(super) const MAX_SPANS: usize = 16_384;

/// Where the characters of a piece begin.
#[derive(Debug)]
pub(super) struct Offsets {
    from: usize,
    starts: Starts,
}

#[derive(Debug)]
enum Starts {
    /// One byte per character; the number of bytes.
    Ascii(usize),
    /// The first byte of each, and the end.
    Wide(Vec<usize>),
}

impl Offsets {
    /// Count the characters of a piece.
    pub(super) fn new(piece: &Piece<'_>) -> Self {
        let words = piece.words;
        let starts = if words.is_ascii() {
            Starts::Ascii(words.len())
        } else {
            Starts::Wide(words.char_indices().map(|(at, _)| at).chain([words.len()]).collect())
        };
        Offsets { from: piece.from, starts }
    }

    /// The bytes between two offsets in characters; `None` if an offset is outside of the text, or
    /// the span is empty.
    pub(super) fn span(&self, start: &Value, end: &Value) -> Option<Range<usize>> {
        let (start, end) = (self.byte(start)?, self.byte(end)?);
        (start < end).then_some(start..end)
    }

    fn byte(&self, at: &Value) -> Option<usize> {
        let at = usize::try_from(at.as_u64()?).ok()?;
        let byte = match &self.starts {
            Starts::Ascii(len) => (at <= *len).then_some(at)?,
            Starts::Wide(starts) => *starts.get(at)?,
        };
        Some(self.from + byte)
    }
}
