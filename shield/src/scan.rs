//! Scans a whole text with all rules.
//!
//! - *In*: a text and the rules that are switched on.
//! - *Out*: findings in the order of the text, without overlaps within a family, none below
//!   [`MIN_SCORE`].
//! - *Never*: more than a bounded number of steps per byte, for any text.
//!
//! Rules with a characteristic beginning run as one automaton, anchored at each token whose first
//! three bytes can begin a rule. Rules that can begin with any word (an e-mail, a host) run only
//! around a byte that each of their matches contains: `@`, a dot.

mod announced;
mod automaton;
mod overlap;
#[expect(
    clippy::indexing_slicing,
    reason = "tables made here, indexed by a byte or by what the build put into them"
)]
mod sieve;

use crate::boundary::{BEFORE_BYTES, CONTEXT_BYTES, can_begin, ends_clean, joins, starts_clean};
use crate::context::{Bits, MAX_RULES, has, has_context_word};
use crate::finding::Finding;
use crate::pattern::{Allow, Pattern};
use announced::Announced;
use automaton::{Automaton, Walker};
use normalise::typography::{Folded, folded, folded_json};

/// Minimum score of a finding.
pub const MIN_SCORE: f32 = 0.5;

/// Maximum ends of one candidate that are checked, for each rule.
const MAX_ENDS: usize = 8;
/// Maximum bytes between the beginning of a match and its pivot.
const MAX_BACK: usize = 128;
/// Bytes of text per check that may fail. After more failures, only the longest end of a candidate
/// is checked.
const BYTES_PER_FAILED_CHECK: usize = 32;

/// Compiled rules. Cheap to share, expensive to build.
pub struct Scanner {
    narrow: Automaton,
    wide: Vec<(Pivot, Automaton)>,
    announced: Announced,
    allow: Option<Allow>,
}

/// The byte that all matches of a rule contain, if the rule can begin with any word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pivot {
    /// `@`, `~` or a dot.
    Byte(u8),
    /// Any digit.
    Digit,
}

impl Pivot {
    const ALL: [Pivot; 4] = [Pivot::Byte(b'@'), Pivot::Byte(b'~'), Pivot::Byte(b'.'), Pivot::Digit];

    fn for_pattern(pattern: &Pattern) -> Pivot {
        match &*pattern.regex {
            r if r.contains('@') => Pivot::Byte(b'@'),
            r if r.contains("Q~") => Pivot::Byte(b'~'),
            r if r.contains(r"\.") => Pivot::Byte(b'.'),
            _ => Pivot::Digit,
        }
    }

    fn next(self, bytes: &[u8], from: usize) -> Option<usize> {
        let rest = bytes.get(from..)?;
        let found = match self {
            Pivot::Byte(b) => memchr::memchr(b, rest),
            Pivot::Digit => first_digit(rest),
        };
        Some(from + found?)
    }

    /// Where a match around the pivot at `at` may begin, at or after `from`.
    fn first(self, text: &str, from: usize, at: usize) -> usize {
        let back = at.saturating_sub(MAX_BACK).max(from);
        if self == Pivot::Byte(b'@') {
            return first_of_address(text, back, at);
        }
        let digits = self == Pivot::Digit;
        let joins = |b: &u8| {
            b.is_ascii_alphanumeric()
                || !digits && matches!(b, b'.' | b'_' | b'%' | b'+' | b'-' | b'~')
        };
        let run = text.as_bytes().get(back..at).unwrap_or_default();
        at - run.iter().rev().take_while(|b| joins(b)).count()
    }
}

/// Where an address with its `@` at `at` may begin, at or after `back`.
fn first_of_address(text: &str, back: usize, at: usize) -> usize {
    let joins = |c: char| joins(c) || matches!(c, '.' | '_' | '%' | '+' | '-' | '~' | '\'');
    let back = (back..=at).find(|i| text.is_char_boundary(*i)).unwrap_or(at);
    let run = text.get(back..at).unwrap_or_default();
    let length: usize = run.chars().rev().take_while(|c| joins(*c)).map(char::len_utf8).sum();
    let run = text.get(at - length..at).unwrap_or_default();
    // No address begins with a sign.
    at - run.trim_start_matches(|c: char| c.is_ascii_punctuation()).len()
}

impl Scanner {
    /// A scanner for `patterns`. A rule whose expression does not parse is left out; tests check
    /// that all rules of the tables parse.
    pub fn new(patterns: &[&Pattern]) -> Scanner {
        let sound: Vec<_> = patterns.iter().copied().filter(|p| automaton::parses(p)).collect();
        let (plain, announced): (Vec<&Pattern>, Vec<&Pattern>) =
            sound.into_iter().partition(|p| p.score >= MIN_SCORE);
        let announced: Vec<_> = announced
            .into_iter()
            .filter(|p| p.context.is_some_and(|(_, score)| score >= MIN_SCORE))
            .take(MAX_RULES)
            .collect();
        let (wide, narrow): (Vec<&Pattern>, Vec<&Pattern>) =
            plain.into_iter().partition(|p| automaton::is_wide(p));
        let of = |pivot| {
            wide.iter().copied().filter(|p| Pivot::for_pattern(p) == pivot).collect::<Vec<_>>()
        };
        let wide = Pivot::ALL.into_iter().map(|pivot| (pivot, Automaton::new(of(pivot)))).collect();
        let announced = Announced::new(&announced);
        Scanner { narrow: Automaton::new(narrow), wide, announced, allow: None }
    }

    /// The same scanner, with values that are never findings.
    pub fn allowing(self, allow: Option<Allow>) -> Scanner {
        Scanner { allow, ..self }
    }

    /// Appends the findings of `text` to `out`. The typography of the text is folded first.
    pub fn find(&self, text: &str, out: &mut Vec<Finding>) {
        self.find_folded(text, folded(text), out);
    }

    /// The same for JSON, whose escapes stand for characters.
    pub fn find_in_json(&self, text: &str, out: &mut Vec<Finding>) {
        self.find_folded(text, folded_json(text), out);
    }

    fn find_folded(&self, text: &str, folded: Option<Folded>, out: &mut Vec<Finding>) {
        let Some(folded) = folded else { return self.scan(text, out) };
        let from = out.len();
        self.scan(&folded.text, out);
        for finding in out.iter_mut().skip(from) {
            finding.span = folded.original(finding.span.clone());
        }
    }

    fn scan(&self, text: &str, out: &mut Vec<Finding>) {
        let mut found = Vec::new();
        self.narrow_rules(text, &mut found);
        for (pivot, automaton) in &self.wide {
            around(automaton, *pivot, text, self.allow.as_ref(), &mut found);
        }
        self.announced.find(text, self.allow.as_ref(), &mut found);
        overlap::resolve(found, out);
    }

    fn narrow_rules(&self, text: &str, found: &mut Vec<Finding>) {
        if self.narrow.is_empty() {
            return;
        }
        let bytes = text.as_bytes();
        let mut walker = self.narrow.walker(bytes.len());
        let mut bench = CandidateChecker::new(text, self.allow.as_ref());
        let sieve = self.narrow.sieve();
        let mut from = 0;
        while let Some(at) = sieve.next(bytes, from) {
            bench.candidates(&mut walker, at, None, found);
            from = at + 1;
        }
    }
}

/// The position of the first digit. Blocks of 64 bytes without a digit are skipped in a loop
/// without branches.
fn first_digit(bytes: &[u8]) -> Option<usize> {
    let (stretches, _) = bytes.as_chunks::<64>();
    let clear = stretches
        .iter()
        .take_while(|s| !s.iter().fold(false, |any, b| any | b.is_ascii_digit()))
        .count()
        * 64;
    Some(clear + bytes.get(clear..)?.iter().position(u8::is_ascii_digit)?)
}

/// Runs `automaton` at the beginning of every run of bytes that contains `pivot`.
fn around(
    automaton: &Automaton,
    pivot: Pivot,
    text: &str,
    allow: Option<&Allow>,
    found: &mut Vec<Finding>,
) {
    if automaton.is_empty() {
        return;
    }
    let bytes = text.as_bytes();
    let mut walker = automaton.walker(bytes.len());
    let mut bench = CandidateChecker::new(text, allow);
    let sieve = automaton.sieve();
    let mut from = 0;
    while let Some(at) = pivot.next(bytes, from) {
        let first = pivot.first(text, from, at);
        from = at + 1;
        // A dot that no letter or digit follows ends a sentence.
        let inner = bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric);
        let before = bytes.get(first.saturating_sub(1)..first).unwrap_or_default();
        let start = bytes.get(first).copied().unwrap_or(b' ');
        if !sieve.admits_at(bytes, first)
            || !can_begin(before, start)
            || (pivot == Pivot::Byte(b'.') && !inner)
        {
            continue;
        }
        let held = found.len();
        bench.candidates(&mut walker, first, None, found);
        let end = found.get(held..).and_then(|new| new.iter().map(|f| f.span.end).max());
        from = end.unwrap_or(from).max(from);
    }
}

/// State shared by the candidates of one text.
struct CandidateChecker<'a> {
    text: &'a str,
    /// (rule, end) of the candidate at hand.
    ends: Vec<(usize, usize)>,
    /// (rule, tries) of the candidate at hand.
    tried: Vec<(usize, usize)>,
    /// Checks that may fail before only the longest end is checked.
    patience: usize,
    allow: Option<&'a Allow>,
}

impl<'a> CandidateChecker<'a> {
    fn new(text: &'a str, allow: Option<&'a Allow>) -> CandidateChecker<'a> {
        CandidateChecker {
            text,
            allow,
            ends: Vec::new(),
            tried: Vec::new(),
            patience: text.len() / BYTES_PER_FAILED_CHECK + 4096,
        }
    }

    /// Checks the boundary, context and check of all matches that begin at `at`, the longest first.
    /// The first one of each rule that passes is a finding. `announced`: only these rules count,
    /// and they have a context word.
    fn candidates(
        &mut self,
        walker: &mut Walker,
        at: usize,
        announced: Option<&Bits>,
        found: &mut Vec<Finding>,
    ) {
        self.ends.clear();
        self.tried.clear();
        walker.walk(self.text.as_bytes(), at, &mut self.ends);
        let most = if self.patience == 0 { 1 } else { MAX_ENDS };
        for &(rule, end) in self.ends.iter().rev() {
            if announced.is_some_and(|bits| !has(bits, rule as u16)) {
                continue;
            }
            let place = self.tried.iter().position(|(r, _)| *r == rule);
            let tries = place.and_then(|i| self.tried.get(i)).map_or(0, |(_, n)| *n);
            let pattern = walker.pattern(rule);
            if tries >= most || !clean(pattern, self.text, at, end) {
                continue;
            }
            let allowed = |text: &str| self.allow.is_some_and(|allow| allow(pattern, text));
            let finding =
                judge(pattern, self.text, at, end, announced.is_some()).filter(|finding| {
                    !allowed(self.text.get(finding.span.clone()).unwrap_or_default())
                });
            let settled = if finding.is_some() { most } else { tries + 1 };
            self.patience = self.patience.saturating_sub(usize::from(finding.is_none()));
            found.extend(finding);
            match place.and_then(|i| self.tried.get_mut(i)) {
                Some(entry) => entry.1 = settled,
                None => self.tried.push((rule, settled)),
            }
        }
    }
}

fn clean(pattern: &Pattern, text: &str, at: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.get(at), end.checked_sub(1).and_then(|i| bytes.get(i)))
    else {
        return false;
    };
    let before = bytes.get(at.saturating_sub(BEFORE_BYTES)..at).unwrap_or_default();
    end - at <= pattern.longest
        && ends_clean(pattern, *last, bytes.get(end..).unwrap_or_default())
        && starts_clean(pattern, before, *first)
}

fn judge(pattern: &Pattern, text: &str, at: usize, end: usize, announced: bool) -> Option<Finding> {
    let candidate = text.get(at..end)?;
    if pattern.check.is_some_and(|check| !check(candidate)) {
        return None;
    }
    let before = text.as_bytes().get(at.saturating_sub(CONTEXT_BYTES)..at)?;
    let score = match pattern.context {
        Some((_, surer)) if announced || has_context_word(before, pattern) => surer,
        _ => pattern.score,
    };
    let value = pattern.value(candidate);
    Some(Finding {
        kind: pattern.kind.clone(),
        rule: pattern.rule.clone(),
        family: pattern.family,
        span: at + value.start..at + value.end,
        score,
    })
}

#[cfg(test)]
mod tests;
