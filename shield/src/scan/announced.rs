//! Rules that count only with a context word before their match.
//!
//! - *In*: a text, and rules whose score without such a word is too low.
//! - *Out*: their matches.
//! - *Never*: a search for words where no rule can match. Places come first: around a digit, or in
//!   a long run without blanks, because each match has the one or is the other. Prose has few.

use std::collections::VecDeque;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::automaton::Automaton;
use super::{CandidateChecker, first_digit};
use crate::boundary::CONTEXT_BYTES;
use crate::context::{Bits, Contexts, Hit, WordScan};
use crate::finding::Finding;
use crate::pattern::{Allow, Pattern};

/// Maximum bytes before the first digit of a match, for [`Need::Digit`].
const MAX_BACK: usize = 64;
/// Minimum bytes of a match without blanks, for [`Need::Run`].
const MIN_RUN: usize = 16;

/// What all matches of a rule have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A digit after at most so many bytes.
    Digit(usize),
    /// At least so many bytes, none of them a blank.
    Run(usize),
    /// Neither.
    Nothing,
}

/// Rules with the same kind of need.
struct Group {
    need: Need,
    automaton: Automaton,
    words: Contexts,
}

/// The rules of a scanner that need a context word.
pub(super) struct Announced {
    groups: Vec<Group>,
}

impl Announced {
    pub(super) fn new(patterns: &[&Pattern]) -> Announced {
        Announced::with_needs(patterns, Need::new)
    }

    fn with_needs(patterns: &[&Pattern], need: fn(&Pattern) -> Need) -> Announced {
        let all: Vec<(Need, &Pattern)> = patterns.iter().map(|one| (need(one), *one)).collect();
        let of = |belongs: fn(&Need) -> bool| {
            let chosen: Vec<_> = all.iter().filter(|(need, _)| belongs(need)).copied().collect();
            let need = chosen.iter().map(|(need, _)| *need).reduce(Need::weaker)?;
            let rules: Vec<&Pattern> = chosen.into_iter().map(|(_, rule)| rule).collect();
            let words = Contexts::build(rules.iter().copied()).unwrap_or_default();
            Some(Group { need, automaton: Automaton::new(rules), words })
        };
        let groups = [
            of(|need| matches!(need, Need::Digit(_))),
            of(|need| matches!(need, Need::Run(_))),
            of(|need| *need == Need::Nothing),
        ];
        Announced { groups: groups.into_iter().flatten().collect() }
    }

    /// Appends the matches in `text` to `found`.
    pub(super) fn find(&self, text: &str, allow: Option<&Allow>, found: &mut Vec<Finding>) {
        for group in &self.groups {
            group.find(text, allow, found);
        }
    }
}

impl Group {
    fn find(&self, text: &str, allow: Option<&Allow>, found: &mut Vec<Finding>) {
        let bytes = text.as_bytes();
        let Some((mut first, mut last)) = self.need.places(bytes, 0) else { return };
        let sieve = self.automaton.sieve();
        let mut walker = self.automaton.walker(bytes.len());
        let mut checker = CandidateChecker::new(text, allow);
        let mut scan = WordScan::default();
        let mut near: VecDeque<Hit> = VecDeque::new();
        loop {
            let part = bytes.get(..bytes.len().min(last + 3)).unwrap_or_default();
            while let Some(at) = sieve.next(part, first) {
                first = at + 1;
                self.words.advance(&mut scan, bytes, at, &mut |hit| near.push_back(hit));
                while near.front().is_some_and(|hit| hit.end + CONTEXT_BYTES < at) {
                    near.pop_front();
                }
                if near.is_empty() {
                    continue;
                }
                let mut bits = Bits::default();
                near.iter().for_each(|hit| self.words.add(*hit, at, &mut bits));
                if bits != Bits::default() {
                    checker.candidates(&mut walker, at, Some(&bits), found);
                }
            }
            match self.need.places(bytes, last + 1) {
                Some(next) => (first, last) = next,
                None => return,
            }
        }
    }
}

impl Need {
    fn new(pattern: &Pattern) -> Need {
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let Ok(tree) = parser.parse(&pattern.regex) else { return Need::Nothing };
        let shortest = tree.properties().minimum_len().unwrap_or(0);
        match before_digit(&tree) {
            Some(back) if back <= MAX_BACK => Need::Digit(back),
            _ if shortest >= MIN_RUN && !has_blank(&tree) => Need::Run(shortest),
            _ => Need::Nothing,
        }
    }

    /// What the matches of both rules have, if both needs are of one kind.
    fn weaker(self, other: Need) -> Need {
        match (self, other) {
            (Need::Digit(one), Need::Digit(other)) => Need::Digit(one.max(other)),
            (Need::Run(one), Need::Run(other)) => Need::Run(one.min(other)),
            _ => Need::Nothing,
        }
    }

    /// The first and the last of the next positions, from `from` on, at which a match may begin.
    fn places(self, bytes: &[u8], from: usize) -> Option<(usize, usize)> {
        let rest = bytes.get(from..).filter(|rest| !rest.is_empty())?;
        match self {
            Need::Digit(back) => {
                let digit = from + first_digit(rest)?;
                Some((digit.saturating_sub(back).max(from), digit))
            }
            Need::Run(length) => {
                let mut at = from;
                loop {
                    let run = bytes.get(at..at + length)?;
                    match run.iter().rposition(|b| *b <= b' ') {
                        Some(blank) => at += blank + 1,
                        None => break,
                    }
                }
                let more = bytes.iter().skip(at + length).take_while(|b| **b > b' ').count();
                Some((at, at + more))
            }
            Need::Nothing => Some((from, bytes.len() - 1)),
        }
    }
}

/// The maximum number of bytes before a digit that each match has.
fn before_digit(tree: &Hir) -> Option<usize> {
    match tree.kind() {
        HirKind::Literal(literal) => literal.0.iter().position(u8::is_ascii_digit),
        HirKind::Class(Class::Bytes(class)) => {
            let digits = |range: &regex_syntax::hir::ClassBytesRange| {
                range.start().is_ascii_digit() && range.end().is_ascii_digit()
            };
            class.ranges().iter().all(digits).then_some(0)
        }
        HirKind::Repetition(repetition) if repetition.min > 0 => before_digit(&repetition.sub),
        HirKind::Capture(capture) => before_digit(&capture.sub),
        HirKind::Concat(parts) => {
            let mut before = 0;
            for part in parts {
                if let Some(bytes) = before_digit(part) {
                    return Some(before + bytes);
                }
                before += part.properties().maximum_len()?;
            }
            None
        }
        HirKind::Alternation(parts) => {
            let each: Option<Vec<usize>> = parts.iter().map(before_digit).collect();
            each?.into_iter().max()
        }
        _ => None,
    }
}

/// Whether a match may have a space or a control character.
fn has_blank(tree: &Hir) -> bool {
    match tree.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.iter().any(|b| *b <= b' '),
        HirKind::Class(Class::Bytes(class)) => class.ranges().iter().any(|r| r.start() <= b' '),
        HirKind::Class(Class::Unicode(_)) => true,
        HirKind::Repetition(repetition) => has_blank(&repetition.sub),
        HirKind::Capture(capture) => has_blank(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(has_blank),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::scan::MIN_SCORE;

    fn rules() -> Vec<&'static Pattern> {
        crate::rules().into_iter().filter(|rule| rule.score < MIN_SCORE).collect()
    }

    #[test]
    fn every_rule_of_the_tables_needs_a_digit_or_a_run() {
        let needs: Vec<_> = rules().into_iter().map(|rule| (Need::new(rule), rule)).collect();
        assert!(needs.iter().any(|(need, _)| matches!(need, Need::Run(_))));
        for (need, rule) in needs {
            assert_ne!(need, Need::Nothing, "{}: it would be tried at every word", rule.rule);
        }
    }

    #[rustfmt::skip]
    const PARTS: &[&str] = &[
        " ", ", ", "\n", ": ", "é", "id", "the pesel ", "PESEL ", "bsn", "my tfn is ", "api key ",
        "token", "unseal ", "driver's license ", "pasaporte ", "plate ", "patient ", "words and ",
        "44051401359", "111222333", "ABC123456", "34 XY 123", "943 476 5919", "a", "7", "AB12CDE",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479", "abc123.0123456789abcdef", "AAA",
        "qL7vF0aX9cT2mB5nK8dR1hS4jW6yZ3pE0gU9iO2xV7s=",
    ];

    proptest! {
        #[test]
        fn needs_leave_out_no_match(parts in prop::collection::vec(select(PARTS), 1..24)) {
            static BOTH: std::sync::LazyLock<[Announced; 2]> = std::sync::LazyLock::new(|| {
                [Announced::new(&rules()), Announced::with_needs(&rules(), |_| Need::Nothing)]
            });
            let text = parts.concat();
            let [quick, slow] = BOTH.each_ref().map(|announced| {
                let mut found = Vec::new();
                announced.find(&text, None, &mut found);
                found.sort_by_key(|f| (f.span.start, f.span.end, f.rule.clone()));
                found
            });
            prop_assert_eq!(quick, slow);
        }
    }
}
