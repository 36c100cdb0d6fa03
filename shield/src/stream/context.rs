//! The text before a candidate: the adjacent byte, and context words that raise the score.
//!
//! - *In*: the original text, also where it was masked.
//! - *Out*: which rules have a context word in the [`REACH`] bytes before a position.
//! - *Never*: more than those bytes kept.

use aho_corasick::{AhoCorasick, MatchKind};

use super::table::Bits;

/// Bytes before a candidate in which context words count.
pub(super) const REACH: usize = 64;

/// The last bytes before the held text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    bytes: [u8; REACH],
    length: u8,
}

impl Tail {
    /// A tail without text.
    pub(super) fn new() -> Self {
        Tail { bytes: [0; REACH], length: 0 }
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Append `passed`, and keep the last bytes.
    pub(super) fn slide(&mut self, passed: &[u8]) {
        if passed.is_empty() {
            return;
        }
        let mut joined = [0; REACH];
        let length = join(self.bytes(), passed, &mut joined);
        self.bytes = joined;
        self.length = length as u8;
    }
}

/// Writes the last bytes of `before` and `text`, which follow each other, to `joined`. Returns
/// their number.
fn join(before: &[u8], text: &[u8], joined: &mut [u8; REACH]) -> usize {
    let text = text.get(text.len().saturating_sub(REACH)..).unwrap_or_default();
    let room = REACH - text.len();
    let before = before.get(before.len().saturating_sub(room)..).unwrap_or_default();
    for (to, from) in joined.iter_mut().zip(before.iter().chain(text)) {
        *to = *from;
    }
    before.len() + text.len()
}

/// All context words of all rules in one automaton.
#[derive(Debug)]
pub(super) struct Contexts {
    words: Option<AhoCorasick>,
    /// Rules by context word.
    rules: Vec<Bits>,
}

impl Contexts {
    /// Compile context words, each with its rules. `None`: too many.
    pub(super) fn build(words: &[(&str, Bits)]) -> Option<Self> {
        let rules = words.iter().map(|word| word.1).collect();
        if words.is_empty() {
            return Some(Contexts { words: None, rules });
        }
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words.iter().map(|word| word.0))
            .ok()?;
        Some(Contexts { words: Some(automaton), rules })
    }

    /// The rules with a context word in the last bytes of `before` and `text`, which follow each
    /// other.
    pub(super) fn before(&self, before: &[u8], text: &[u8]) -> Bits {
        let mut found = [0; 4];
        let Some(words) = &self.words else { return found };
        let mut window = [0; REACH];
        let length = join(before, text, &mut window);
        let window = window.get(..length).unwrap_or_default();
        for hit in words.find_overlapping_iter(window) {
            if inside(window, hit.start(), hit.end()) {
                continue;
            }
            let rules = self.rules.get(hit.pattern().as_usize()).copied().unwrap_or_default();
            for (into, word) in found.iter_mut().zip(rules) {
                *into |= word;
            }
        }
        found
    }
}

/// Whether a match is only part of a longer word. A short word (`tel`) must match a whole word, a
/// longer one may have an ending (`phones`). The beginning of the window counts as the beginning of
/// a word.
fn inside(window: &[u8], start: usize, end: usize) -> bool {
    let letter =
        |at: Option<usize>| at.and_then(|at| window.get(at)).is_some_and(u8::is_ascii_alphabetic);
    letter(start.checked_sub(1)) || (end - start <= 3 && letter(Some(end)))
}
