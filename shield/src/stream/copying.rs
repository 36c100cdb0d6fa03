//! Converts an automaton of `regex-automata` to a [`Table`].
//!
//! - *In*: an anchored automaton that reports all matches.
//! - *Out*: its states in the order in which they are reached, each with the rules that can still
//!   match.
//! - *Never*: states that no text reaches.

use std::collections::HashMap;

use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;

use super::table::{DEAD, ENDS, Marks, Table, members};
use crate::context::{BIT_WORDS, Bits, set};

/// A table in the making.
pub(super) struct TableBuilder<'d> {
    dfa: &'d dense::DFA<Vec<u32>>,
    width: usize,
    /// The first byte of each class.
    bytes: Vec<u8>,
    numbers: HashMap<StateID, usize>,
    order: Vec<StateID>,
    next: Vec<u32>,
}

impl<'d> TableBuilder<'d> {
    /// Start with the dead state only.
    pub(super) fn new(dfa: &'d dense::DFA<Vec<u32>>) -> Self {
        let width = dfa.byte_classes().alphabet_len();
        let mut bytes = vec![0; width - 1];
        for byte in (0..=255u8).rev() {
            bytes[usize::from(dfa.byte_classes().get(byte))] = byte;
        }
        // State 0 is the dead one; it leads to itself.
        TableBuilder {
            dfa,
            width,
            bytes,
            numbers: HashMap::new(),
            order: vec![StateID::ZERO],
            next: vec![DEAD; width],
        }
    }

    /// Copy everything. `None`: too many states or sets.
    pub(super) fn build(mut self, rules: &[u16], longest: &[usize]) -> Option<Table> {
        let mut starts = Vec::with_capacity(257);
        for before in (0..=255u8).map(Some).chain([None]) {
            let at = start::Config::new().anchored(Anchored::Yes).look_behind(before);
            starts.push(self.number(self.dfa.start_state(&at).ok()?)?);
        }
        let mut at = 1;
        while let Some(&state) = self.order.get(at) {
            for class in 0..self.width {
                let to = match self.bytes.get(class) {
                    Some(byte) => self.dfa.next_state(state, *byte),
                    None => self.dfa.next_eoi_state(state),
                };
                let to = self.number(to)?;
                self.next.push(to);
            }
            at += 1;
        }
        let (marks, sets) = self.marks(rules)?;
        let bound = |bits: &Bits| {
            members(bits)
                .filter_map(|rule| longest.get(usize::from(rule)))
                .max()
                .copied()
                .unwrap_or(0)
        };
        let sets = sets.into_iter().map(|bits| (bits, bound(&bits))).collect();
        let mut classes = [0; 256];
        for byte in 0..=255u8 {
            classes[usize::from(byte)] = self.dfa.byte_classes().get(byte);
        }
        Some(Table { classes, width: self.width, next: self.next, starts, marks, sets })
    }

    /// The number of a state in the table, assigned when it is first reached.
    fn number(&mut self, state: StateID) -> Option<u32> {
        if self.dfa.is_dead_state(state) || self.dfa.is_quit_state(state) {
            return Some(DEAD);
        }
        let (order, fresh) = (&mut self.order, self.numbers.len() + 1);
        let number = *self.numbers.entry(state).or_insert_with(|| {
            order.push(state);
            fresh
        });
        let number = u32::try_from(number * self.width).ok().filter(|number| number & ENDS == 0)?;
        Some(if self.dfa.is_match_state(state) { number | ENDS } else { number })
    }

    /// The rules that end in each state, and those that can end later: the least fixed point over
    /// the transitions.
    fn marks(&self, rules: &[u16]) -> Option<(Marks, Vec<Bits>)> {
        let mut ending = vec![[0u64; BIT_WORDS]; self.order.len()];
        for (bits, state) in ending.iter_mut().zip(&self.order).skip(1) {
            let count =
                if self.dfa.is_match_state(*state) { self.dfa.match_len(*state) } else { 0 };
            for index in 0..count {
                let rule = rules.get(self.dfa.match_pattern(*state, index).as_usize())?;
                set(bits, *rule);
            }
        }
        let mut later = vec![[0u64; BIT_WORDS]; self.order.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for state in (1..self.order.len()).rev() {
                let mut bits = later[state];
                for to in &self.next[state * self.width..(state + 1) * self.width] {
                    let to = (to & !ENDS) as usize / self.width;
                    for (word, into) in bits.iter_mut().enumerate() {
                        *into |= ending[to][word] | later[to][word];
                    }
                }
                changed |= bits != later[state];
                later[state] = bits;
            }
        }
        let (mut sets, mut known) = (vec![[0; BIT_WORDS]], HashMap::from([([0; BIT_WORDS], 0u16)]));
        let mut intern = |bits: &Bits| -> Option<u16> {
            let fresh = u16::try_from(sets.len()).ok()?;
            Some(*known.entry(*bits).or_insert_with(|| {
                sets.push(*bits);
                fresh
            }))
        };
        let marks = ending
            .iter()
            .zip(&later)
            .map(|(now, then)| Some((intern(now)?, intern(then)?)))
            .collect::<Option<_>>()?;
        Some((marks, sets))
    }
}
