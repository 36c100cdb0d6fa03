//! The text before a candidate: the byte next to it, and words that make it surer.
//!
//! - *In*: the text as it came, masked or not.
//! - *Out*: which rules have a context word in the [`REACH`] bytes before a position.
//! - *Never*: more than those bytes kept.

use aho_corasick::{AhoCorasick, MatchKind};

use super::table::Bits;

/// Context words stand in this many bytes before a candidate.
pub(super) const REACH: usize = 64;

/// The last bytes before the held text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    bytes: [u8; REACH],
    length: u8,
}

impl Tail {
    /// Nothing before.
    pub(super) fn new() -> Self {
        Tail { bytes: [0; REACH], length: 0 }
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The text moved on over `passed`.
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

/// The last bytes of two that follow each other, and how many there are.
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
    /// By word: the rules it speaks for.
    rules: Vec<Bits>,
}

impl Contexts {
    /// Words and the rules each speaks for. `None`: too many.
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

    /// Rules with a word in the bytes before `text`'s end; `before` came before `text`.
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

/// Whether a word is only part of a longer one: a short word (`tel`) must stand whole, a longer one
/// may have an ending (`phones`). The window's beginning counts as a word's beginning.
fn inside(window: &[u8], start: usize, end: usize) -> bool {
    let letter =
        |at: Option<usize>| at.and_then(|at| window.get(at)).is_some_and(u8::is_ascii_alphabetic);
    letter(start.checked_sub(1)) || (end - start <= 3 && letter(Some(end)))
}
