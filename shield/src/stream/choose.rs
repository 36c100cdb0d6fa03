//! Chooses a match when a thread ends.
//!
//! - *In*: a start, and the text up to where the thread ended.
//! - *Out*: the longest match that passes its check; of equally long ones, the one with the highest
//!   score.
//! - *Never*: more than [`MAX_CANDIDATES`] candidates of a rule, the longest first; a hostile text
//!   could offer one per byte.
//!
//! A thread records only that some rule ended. The ends are found by running it again, which few
//! texts need.

use std::cmp::Reverse;

use super::automata::Automata;
use super::edges::NEAR;
use super::scan::{Ending, Scan, Thread};
use super::table::{ENDS, Table, members};
use crate::context::{Bits, has};

/// Maximum candidates of a rule that are checked for a start. The scanner of whole texts checks
/// fewer.
const MAX_CANDIDATES: usize = 32;

/// A match.
pub(super) struct Hit {
    pub(super) rule: u16,
    /// In the text.
    pub(super) end: usize,
    pub(super) score: f32,
}

/// The result for a start.
pub(super) enum Choice {
    /// A match.
    Hit(Hit),
    /// No match.
    None,
    /// It depends on a byte that has not arrived.
    Later,
}

impl Scan<'_> {
    /// The match of a start in the text before `limit`. `at_end`: the text ends there. `full`: text
    /// after `limit` is ignored.
    pub(super) fn choose(
        &mut self,
        thread: &Thread,
        limit: usize,
        at_end: bool,
        full: bool,
    ) -> Choice {
        let text = self.text.as_bytes();
        let (text, more) = if full {
            (text.get(..limit).unwrap_or_default(), false)
        } else {
            (text, self.ending == Ending::More)
        };
        let (mut ends, mut context) = (std::mem::take(&mut self.ends), None);
        ends.clear();
        let groups = if at_end { thread.begun } else { thread.begun & thread.ended };
        let mut later = false;
        for (_, table) in
            self.automata.tables.iter().enumerate().filter(|(group, _)| groups & (1 << group) != 0)
        {
            let first = ends.len();
            self.ends(table, thread.start, limit, at_end, &mut ends);
            let mut kept = first;
            for at in first..ends.len() {
                let (end, number) = ends[at];
                let fits = self
                    .fits(thread, end, number, &mut context)
                    .then(|| self.closes(text, end, number, more));
                later |= fits == Some(None);
                if fits == Some(Some(true)) {
                    ends[kept] = (end, number);
                    kept += 1;
                }
            }
            ends.truncate(kept);
        }
        let choice =
            if later { Choice::Later } else { self.surest(thread.start, &mut ends, &mut context) };
        self.ends = ends;
        choice
    }

    /// Adds the ends of all matches of a table to `ends`.
    fn ends(
        &mut self,
        table: &Table,
        start: usize,
        limit: usize,
        at_end: bool,
        ends: &mut Vec<(usize, u16)>,
    ) {
        let mut state = table.start(self.byte_before(start));
        for (at, byte) in self.text.as_bytes().iter().enumerate().take(limit).skip(start) {
            state = table.step(state, *byte);
            self.steps += 1;
            if state & ENDS != 0 {
                ends.extend(members(table.ending(state)).map(|number| (at, number)));
            }
            if at - start > table.bound(state) {
                return;
            }
        }
        if at_end {
            ends.extend(members(table.ending(table.end(state))).map(|number| (limit, number)));
        }
    }

    /// Whether a candidate fits its rule, apart from the text after it.
    fn fits(&self, thread: &Thread, end: usize, number: u16, context: &mut Option<Bits>) -> bool {
        self.text.is_char_boundary(end)
            && self
                .automata
                .rules
                .get(usize::from(number))
                .is_some_and(|rule| end - thread.start <= rule.pattern.longest)
            && self.may(thread, number, context)
    }

    /// Whether a candidate may end there; `None`: not known yet.
    fn closes(&self, text: &[u8], end: usize, number: u16, more: bool) -> Option<bool> {
        let (Some(rule), Some(last)) = (
            self.automata.rules.get(usize::from(number)),
            end.checked_sub(1).and_then(|at| text.get(at)),
        ) else {
            return Some(false);
        };
        let behind = text.get(end..text.len().min(end + NEAR)).unwrap_or_default();
        self.automata.options.edges.ends(&rule.pattern, *last, behind, more)
    }

    /// The longest candidate that passes its check; of equally long ones, the one with the highest
    /// score, then the first rule.
    fn surest(
        &self,
        start: usize,
        ends: &mut [(usize, u16)],
        context: &mut Option<Bits>,
    ) -> Choice {
        if ends.is_empty() {
            return Choice::None;
        }
        let vouched = |(_, number): &(usize, u16)| {
            self.automata
                .rules
                .get(usize::from(*number))
                .is_some_and(|rule| rule.pattern.context.is_some())
        };
        if ends.iter().any(vouched) {
            context.get_or_insert_with(|| self.context(start));
        }
        let context = &context.unwrap_or_default();
        let score = |number: u16| score(self.automata, number, context);
        ends.sort_unstable_by(|left, right| {
            let length = Reverse(left.0).cmp(&Reverse(right.0));
            length.then_with(|| score(right.1).total_cmp(&score(left.1))).then(left.1.cmp(&right.1))
        });
        let passes = |(end, number): &(usize, u16)| {
            let rule = self.automata.rules.get(usize::from(*number)).map(|rule| &rule.pattern);
            let text = self.text.get(start..*end).unwrap_or_default();
            rule.is_some_and(|rule| {
                rule.check.is_none_or(|check| check(text))
                    && !self.automata.options.allow.as_ref().is_some_and(|allow| allow(rule, text))
            })
        };
        let mut tried: Vec<(u16, usize)> = Vec::new();
        let mut patient =
            |(_, number): &(usize, u16)| match tried.iter_mut().find(|(rule, _)| rule == number) {
                Some((_, tries)) => {
                    *tries += 1;
                    *tries <= MAX_CANDIDATES
                }
                None => {
                    tried.push((*number, 1));
                    true
                }
            };
        match ends.iter().copied().find(|candidate| patient(candidate) && passes(candidate)) {
            Some((end, rule)) => Choice::Hit(Hit { rule, end, score: score(rule) }),
            None => Choice::None,
        }
    }
}

/// The score of a rule in this context.
pub(super) fn score(automata: &Automata, number: u16, context: &Bits) -> f32 {
    let Some(rule) = automata.rules.get(usize::from(number)) else { return 0.0 };
    match rule.pattern.context {
        Some((_, surer)) if has(context, number) => surer.max(rule.pattern.score),
        _ => rule.pattern.score,
    }
}
