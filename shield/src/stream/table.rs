//! A deterministic automaton over several rules, anchored at a start, and what each of its states
//! can still lead to.
//!
//! - *In*: syntax trees of rules.
//! - *Out*: one flat table; per state the rules that end there and the rules that can still end
//!   later.
//! - *Never*: a search. The caller steps a table, so a thread can stop at any byte and continue in
//!   the next piece.
//!
//! `regex-automata` determinizes. Its table is then converted, because a stream needs two facts
//! that it does not provide: which rules are still possible in a state, and (cheaply) whether any
//! is. As in `regex-automata`, ends are reported one byte late: the state after the byte at `i`
//! lists the rules that match the text before `i`.

use regex_automata::MatchKind;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::nfa::thompson;
use regex_syntax::hir::Hir;

use super::copying::TableBuilder;
use crate::context::{BIT_WORDS, Bits};

/// Set in a state's number when a rule ends there.
pub(super) const ENDS: u32 = 1 << 31;
/// The dead state: no rule is possible any more.
pub(super) const DEAD: u32 = 0;

/// Per state, the numbers of two sets: rules that end here, rules that can end later.
pub(super) type Marks = Vec<(u16, u16)>;

/// The automaton of one group of rules.
pub(super) struct Table {
    pub(super) classes: [u8; 256],
    /// Entries per state: the byte classes, and one more for the end of the text.
    pub(super) width: usize,
    /// `state + class` leads to the next state; states are multiples of `width`.
    pub(super) next: Vec<u32>,
    /// By the byte before the start; the last one for the start of a text.
    pub(super) starts: Vec<u32>,
    pub(super) marks: Marks,
    /// Distinct sets of rules, and the longest match of the longest rule in each.
    pub(super) sets: Vec<(Bits, usize)>,
}

impl Table {
    /// Compile rules. `rules` are their numbers in the sets, `longest` the maximum bytes of a match
    /// by number. `None`: larger than `limit` bytes.
    pub(super) fn build(
        trees: &[&Hir],
        rules: &[u16],
        longest: &[usize],
        limit: usize,
    ) -> Option<Table> {
        let compiler =
            thompson::Config::new().utf8(false).which_captures(thompson::WhichCaptures::None);
        let nfa = thompson::Compiler::new().configure(compiler).build_many_from_hir(trees).ok()?;
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(limit))
            .determinize_size_limit(Some(limit.saturating_mul(4)));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        TableBuilder::new(&dfa).build(rules, longest)
    }

    /// The state before the first byte, given the byte before it.
    #[inline]
    pub(super) fn start(&self, before: Option<u8>) -> u32 {
        self.starts.get(before.map_or(256, usize::from)).copied().unwrap_or(DEAD)
    }

    /// The state after one byte.
    #[inline]
    pub(super) fn step(&self, state: u32, byte: u8) -> u32 {
        let class = usize::from(self.classes[usize::from(byte)]);
        self.next.get((state & !ENDS) as usize + class).copied().unwrap_or(DEAD)
    }

    /// The state after the end of the text.
    pub(super) fn end(&self, state: u32) -> u32 {
        self.next.get((state & !ENDS) as usize + self.width - 1).copied().unwrap_or(DEAD)
    }

    /// Step over bytes until the automaton is dead. Returns the state, the bytes consumed, and
    /// whether a rule ended in them.
    #[inline]
    pub(super) fn advance(&self, mut state: u32, bytes: &[u8]) -> (u32, usize, bool) {
        let mut seen = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            state = self.step(state, byte);
            if state == DEAD {
                return (DEAD, at, seen & ENDS != 0);
            }
            seen |= state;
        }
        (state, bytes.len(), seen & ENDS != 0)
    }

    /// Whether the automaton dies in these bytes before any rule ends. It checks for death once in
    /// eight bytes: a branch at the end of each word would be mispredicted.
    #[inline]
    pub(super) fn dies(&self, mut state: u32, bytes: &[u8]) -> bool {
        let mut seen = 0;
        for chunk in bytes.chunks(8) {
            match <&[u8; 8]>::try_from(chunk) {
                Ok(eight) => eight.iter().for_each(|byte| {
                    state = self.step(state, *byte);
                    seen |= state;
                }),
                Err(_) => chunk.iter().for_each(|byte| {
                    state = self.step(state, *byte);
                    seen |= state;
                }),
            }
            if state == DEAD {
                return seen & ENDS == 0;
            }
        }
        false
    }

    /// Whether a match can begin with these two bytes, or with the first one and end before the
    /// second.
    pub(super) fn begins_with(&self, first: u8, second: u8) -> bool {
        self.starts.iter().any(|start| self.step(self.step(*start, first), second) != DEAD)
    }

    /// Rules that end in a state.
    pub(super) fn ending(&self, state: u32) -> &Bits {
        &self.set(self.mark(state).0).0
    }

    /// Rules that can still end after a state.
    pub(super) fn possible(&self, state: u32) -> &Bits {
        &self.set(self.mark(state).1).0
    }

    /// Maximum bytes of a match that passes through this state.
    pub(super) fn bound(&self, state: u32) -> usize {
        self.set(self.mark(state).1).1
    }

    /// Whether a byte can be the first of a match.
    pub(super) fn begins(&self, byte: u8) -> bool {
        // A continuation byte is inside a character.
        !(0x80..0xC0).contains(&byte)
            && self
                .starts
                .iter()
                .any(|start| *self.possible(self.step(*start, byte)) != [0; BIT_WORDS])
    }

    /// If every match contains `byte`: the maximum bytes before the first one.
    pub(super) fn needs(&self, byte: u8) -> Option<usize> {
        let mut front: Vec<u32> = self.starts.clone();
        let mut before = 0;
        while !front.is_empty() {
            front.sort_unstable();
            front.dedup();
            let others = |state: &u32| {
                (0..=255u8)
                    .filter(|other| *other != byte)
                    .map(|other| self.step(*state, other))
                    .collect::<Vec<_>>()
            };
            let next: Vec<u32> =
                front.iter().flat_map(others).filter(|state| *state != DEAD).collect();
            let bound = next.iter().map(|state| self.bound(*state)).max().unwrap_or(0);
            if front
                .iter()
                .chain(&next)
                .any(|state| state & ENDS != 0 || self.end(*state) & ENDS != 0)
            {
                return None;
            }
            if before >= bound {
                return Some(before);
            }
            before += 1;
            front = next;
        }
        Some(before)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        (self.next.len() + self.starts.len() + self.marks.len()) * 4 + self.sets.len() * 72
    }

    /// Number of states.
    pub(super) fn states(&self) -> usize {
        self.marks.len()
    }

    #[inline]
    fn mark(&self, state: u32) -> (u16, u16) {
        self.marks.get((state & !ENDS) as usize / self.width).copied().unwrap_or((0, 0))
    }

    fn set(&self, number: u16) -> &(Bits, usize) {
        self.sets.get(usize::from(number)).unwrap_or(&([0; BIT_WORDS], 0))
    }
}

/// By two bytes: the tables in which they can begin a match.
pub(super) fn doubles(tables: &[Table], begins: &[u8; 256]) -> Vec<u8> {
    let mut doubles = vec![0; 1 << 16];
    for (at, bits) in doubles.iter_mut().enumerate() {
        let [first, second] = (at as u16).to_be_bytes();
        for (group, table) in tables
            .iter()
            .enumerate()
            .filter(|(group, _)| begins[usize::from(first)] & (1 << group) != 0)
        {
            *bits |= u8::from(table.begins_with(first, second)) << group;
        }
    }
    doubles
}

/// The rules of a set.
pub(super) fn members(bits: &Bits) -> impl Iterator<Item = u16> + '_ {
    (0u16..).zip(bits).flat_map(|(word, &bits)| {
        let mut left = bits;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as u16)?;
            left &= left - 1;
            Some(word * 64 + bit)
        })
    })
}
