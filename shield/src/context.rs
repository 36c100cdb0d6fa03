//! Context words of all rules in one automaton.
//!
//! - *In*: rules; then a text, or the bytes before a position.
//! - *Out*: the rules with a context word near a position.
//! - *Never*: a word inside a longer one.

use std::collections::BTreeMap;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind};

use crate::boundary::{CLOSE_BYTES, CONTEXT_BYTES};
use crate::pattern::Pattern;

/// Words of a set of rules.
pub(crate) const BIT_WORDS: usize = 8;
/// Maximum rules of a set.
pub(crate) const MAX_RULES: usize = 64 * BIT_WORDS;
/// A set of rules as bits.
pub(crate) type Bits = [u64; BIT_WORDS];

/// Put a rule into a set.
pub(crate) fn set(bits: &mut Bits, rule: u16) {
    if let Some(word) = bits.get_mut(usize::from(rule / 64)) {
        *word |= 1 << (rule % 64);
    }
}

/// Whether a rule is in a set.
pub(crate) fn has(bits: &Bits, rule: u16) -> bool {
    bits.get(usize::from(rule / 64)).is_some_and(|word| word & (1 << (rule % 64)) != 0)
}

/// All context words, each with its rules.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    words: Option<DFA>,
    /// Bytes of the longest word.
    longest: usize,
    /// Rules by context word, and whether the word must be adjacent: it ends with a blank.
    rules: Vec<(Bits, bool)>,
    /// Rules whose context must be close.
    close: Bits,
}

/// A search for context words, which goes on where it stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WordScan {
    /// Where it stopped.
    at: usize,
    state: Option<StateID>,
}

/// A context word in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    /// Where the word ends.
    pub(crate) end: usize,
    word: usize,
}

impl Contexts {
    /// Compile the context words of rules, which are numbered in their order. `None`: too many.
    pub(crate) fn build<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Option<Self> {
        let mut words: BTreeMap<&'static str, Bits> = BTreeMap::new();
        let mut close = Bits::default();
        for (number, pattern) in (0u16..).zip(patterns) {
            for word in pattern.context.map_or(&[] as &[&str], |context| context.0) {
                set(words.entry(word).or_default(), number);
            }
            if pattern.close {
                set(&mut close, number);
            }
        }
        let rules = words.iter().map(|(word, rules)| (*rules, word.ends_with(' '))).collect();
        if words.is_empty() {
            return Some(Contexts { close, ..Contexts::default() });
        }
        let longest = words.keys().map(|word| word.len()).max().unwrap_or(0);
        let automaton = DFA::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words.keys())
            .ok()?;
        Some(Contexts { words: Some(automaton), longest, rules, close })
    }

    /// Passes the context words that end after the last position of `scan`, at most at `to`, in the
    /// order of their ends. Words too far from `to` to count may be left out.
    pub(crate) fn advance(
        &self,
        scan: &mut WordScan,
        text: &[u8],
        to: usize,
        found: &mut impl FnMut(Hit),
    ) {
        let Some(words) = &self.words else { return };
        let nearest = to.saturating_sub(CONTEXT_BYTES + self.longest);
        if scan.at < nearest {
            *scan = WordScan { at: nearest, state: None };
        }
        let begun = scan.state.map_or_else(|| words.start_state(Anchored::No), Ok);
        let Ok(mut state) = begun else { return };
        let from = scan.at;
        for (at, byte) in text.get(from..to).unwrap_or_default().iter().enumerate() {
            state = words.next_state(Anchored::No, state, *byte);
            if words.is_match(state) {
                let end = from + at + 1;
                for word in 0..words.match_len(state) {
                    let word = words.match_pattern(state, word);
                    if !inside(text, end - words.pattern_len(word), end) {
                        found(Hit { end, word: word.as_usize() });
                    }
                }
            }
        }
        *scan = WordScan { at: to.max(from), state: Some(state) };
    }

    /// Adds the rules that a word vouches for at a position after it.
    pub(crate) fn add(&self, hit: Hit, at: usize, bits: &mut Bits) {
        let distance = at.saturating_sub(hit.end);
        let (rules, adjacent) = self.rules.get(hit.word).copied().unwrap_or_default();
        if distance > CONTEXT_BYTES || adjacent && distance > 1 {
            return;
        }
        for ((into, word), close) in bits.iter_mut().zip(rules).zip(self.close) {
            *into |= if distance > CLOSE_BYTES { word & !close } else { word };
        }
    }

    /// The rules with a context word in `window`, which ends at the position in question.
    pub(crate) fn before(&self, window: &[u8]) -> Bits {
        let mut found = Bits::default();
        let at = window.len();
        self.advance(&mut WordScan::default(), window, at, &mut |hit| {
            self.add(hit, at, &mut found)
        });
        found
    }
}

/// Whether a context word of `pattern` is in `window`, which ends at the position in question.
pub(crate) fn has_context_word(window: &[u8], pattern: &Pattern) -> bool {
    let Some((words, _)) = pattern.context else { return false };
    let near = window.to_ascii_lowercase();
    words.iter().any(|word| {
        let mut found = memchr::memmem::find_iter(&near, word.as_bytes());
        found.any(|at| {
            let end = at + word.len();
            let distance = near.len() - end;
            let most = if word.ends_with(' ') { 1 } else { usize::MAX };
            let is_far = distance > most || pattern.close && distance > CLOSE_BYTES;
            !inside(&near, at, end) && !is_far
        })
    })
}

/// Whether a match is only part of a longer word. A short word (`tel`) must match a whole word, a
/// longer one may have an ending (`phones`). The beginning of the window counts as the beginning of
/// a word.
fn inside(window: &[u8], start: usize, end: usize) -> bool {
    let letter =
        |at: Option<usize>| at.and_then(|at| window.get(at)).is_some_and(u8::is_ascii_alphabetic);
    letter(start.checked_sub(1)) || (end - start <= 3 && letter(Some(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_context_words_match_whole_words_only() {
        let found = |window: &str| {
            let phone = |p: &&Pattern| p.kind == "PHONE_NUMBER" && p.context.is_some();
            let contexts = Contexts::build(crate::pii::patterns().filter(phone)).expect("words");
            contexts.before(window.as_bytes()) != Bits::default()
        };
        assert!(found("my tel: ") && found("all phones: ") && found("我的手机号是"));
        assert!(!found("I tell you ") && !found("the hotel ") && !found("earphone "));
    }
}
