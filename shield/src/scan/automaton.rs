//! Many rules as one lazily built automaton, anchored.
//!
//! - *In*: rules; then a text and a position in it.
//! - *Out*: the ends of all matches that begin at the position.
//! - *Never*: a search. It walks from the position until no rule can match, and a budget bounds the
//!   sum of the walks.

use super::sieve::Sieve;
use crate::boundary::wordy;
use crate::pattern::Pattern;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind};

/// Bytes walked for each byte of text before walks are cut short.
const BUDGET: usize = 8;
/// Maximum bytes of a walk once the budget is spent; most matches are shorter.
const SHORT: usize = 48;

type Maker = Box<dyn Fn() -> Cache + Send + Sync>;

/// An automaton of several rules.
pub(super) struct Automaton {
    patterns: Vec<Pattern>,
    machine: Option<Machine>,
    sieve: Sieve,
}

struct Machine {
    dfa: DFA,
    caches: Pool<Cache, Maker>,
    longest: usize,
}

fn build(regexes: &[&str]) -> Option<DFA> {
    DFA::builder()
        .configure(
            Config::new()
                .match_kind(MatchKind::All)
                .skip_cache_capacity_check(true)
                .cache_capacity(16 << 20),
        )
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(64 << 20)))
        .build_many(regexes)
        .ok()
}

/// Whether the expression of a rule compiles.
pub(super) fn parses(pattern: &Pattern) -> bool {
    build(&[&pattern.regex]).is_some()
}

/// Whether the rule can begin with about any word.
pub(super) fn is_wide(pattern: &Pattern) -> bool {
    let Some(dfa) = build(&[&pattern.regex]) else { return false };
    let mut cache = dfa.create_cache();
    let Some(start) = begin(&dfa, &mut cache) else { return false };
    ["the", "how", "mat", "zip", "you"]
        .iter()
        .all(|word| word.bytes().try_fold(start, |s, b| step(&dfa, &mut cache, s, b)).is_some())
}

fn begin(dfa: &DFA, cache: &mut Cache) -> Option<LazyStateID> {
    let start = regex_automata::util::start::Config::new().anchored(Anchored::Yes);
    dfa.start_state(cache, &start).ok()
}

/// The next state, `None` when no rule is alive.
fn step(dfa: &DFA, cache: &mut Cache, state: LazyStateID, byte: u8) -> Option<LazyStateID> {
    let next = dfa.next_state(cache, state, byte).ok()?;
    (!next.is_dead() && !next.is_quit()).then_some(next)
}

/// Every ASCII byte, and of the others one of each part of a character that rules tell apart: they
/// are one class of the sieve.
fn tried() -> impl Iterator<Item = u8> {
    (0..=127u8)
        .chain([0x80, 0xA0, 0xA4, 0xB7, 0xBF, 0xC3, 0xD0, 0xE0, 0xE1, 0xE3, 0xE4, 0xED, 0xEF, 0xF0])
}

/// All triples of bytes that can begin a match, found by trying each.
fn beginnings(dfa: &DFA) -> Sieve {
    let mut sieve = Sieve::new();
    let mut cache = dfa.create_cache();
    let Some(start) = begin(dfa, &mut cache) else { return sieve };
    for a in tried() {
        let Some(one) = step(dfa, &mut cache, start, a) else { continue };
        for b in tried() {
            let Some(two) = step(dfa, &mut cache, one, b) else { continue };
            for c in tried() {
                if step(dfa, &mut cache, two, c).is_some() {
                    sieve.admit(a, b, c);
                }
            }
        }
    }
    sieve
}

impl Automaton {
    pub(super) fn new(patterns: Vec<&Pattern>) -> Automaton {
        let regexes: Vec<_> = patterns.iter().map(|p| &*p.regex).collect();
        let longest = patterns.iter().map(|p| p.longest).max().unwrap_or(0);
        let machine = (!patterns.is_empty()).then(|| build(&regexes)).flatten().map(|dfa| {
            let twin = dfa.clone();
            let make: Maker = Box::new(move || twin.create_cache());
            Machine { caches: Pool::new(make), dfa, longest }
        });
        let sieve = machine.as_ref().map_or_else(Sieve::new, |m| beginnings(&m.dfa));
        Automaton { patterns: patterns.into_iter().cloned().collect(), machine, sieve }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.machine.is_none()
    }

    /// What finds the places where a rule may begin.
    pub(super) fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    /// What walks over a text of `length` bytes.
    pub(super) fn walker(&self, length: usize) -> Walker<'_> {
        Walker {
            of: self,
            budget: length.saturating_mul(BUDGET).saturating_add(1 << 16),
            cache: self.machine.as_ref().map(|m| m.caches.get()),
        }
    }
}

type Held<'a> = regex_automata::util::pool::PoolGuard<'a, Cache, Maker>;

/// An automaton with its cache and its budget for one text.
pub(super) struct Walker<'a> {
    of: &'a Automaton,
    cache: Option<Held<'a>>,
    budget: usize,
}

impl Walker<'_> {
    /// The rule of that number.
    pub(super) fn pattern(&self, rule: usize) -> &Pattern {
        // The numbers are our own, so the fallback never runs.
        self.of.patterns.get(rule).unwrap_or(crate::pii::FIRST)
    }

    /// Pushes (rule, end) for every match that begins at `at`, except those that end inside a word:
    /// no rule may end there, and a long token would have such an end at each byte.
    pub(super) fn walk(&mut self, bytes: &[u8], at: usize, ends: &mut Vec<(usize, usize)>) {
        let (Some(machine), Some(cache)) = (&self.of.machine, &mut self.cache) else { return };
        let longest = if self.budget == 0 { SHORT.min(machine.longest) } else { machine.longest };
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(mut state) = begin(&machine.dfa, cache) else { return };
        // Matches are reported one byte late.
        let mut before = b' ';
        for (i, &byte) in rest.iter().take(longest + 1).enumerate() {
            let Ok(next) = machine.dfa.next_state(cache, state, byte) else { return };
            if next.is_tagged() {
                if next.is_match() {
                    if byte < 0x80 && wordy(before) && wordy(byte) {
                        (state, before) = (next, byte);
                        continue;
                    }
                    push_matches(&machine.dfa, cache, next, at + i, ends);
                } else if next.is_dead() || next.is_quit() {
                    self.budget = self.budget.saturating_sub(i + 1);
                    return;
                }
            }
            (state, before) = (next, byte);
        }
        self.budget = self.budget.saturating_sub(longest.min(rest.len()));
        if rest.len() <= longest
            && let Ok(last) = machine.dfa.next_eoi_state(cache, state)
            && last.is_match()
        {
            push_matches(&machine.dfa, cache, last, bytes.len(), ends);
        }
    }
}

fn push_matches(
    dfa: &DFA,
    cache: &Cache,
    state: LazyStateID,
    end: usize,
    ends: &mut Vec<(usize, usize)>,
) {
    for i in 0..dfa.match_len(cache, state) {
        ends.push((dfa.match_pattern(cache, state, i).as_usize(), end));
    }
}
