//! One scan over the held text and the text after it.
//!
//! - *In*: text that begins where the leading thread began, and the state of the channel.
//! - *Out*: pieces, and how much of the text is decided.
//! - *Never*: two threads. The leftmost start that can still become a match takes precedence over
//!   all later ones, so only this one is followed; if it fails, the held text after it is scanned
//!   again. A start is followed at most to the hold bound, so every byte is visited a bounded
//!   number of times.

use std::ops::Range;

use super::Piece;
use super::automata::{Automata, MAX_TABLES, Rule};
use super::choose::Choice;
use super::context::{REACH, Tail, join};
use super::edges::NEAR;
use super::open::Open;
use super::plain::Out;
use super::table::{DEAD, members};
use crate::context::{Bits, has};
use crate::finding::{Family, Finding};

/// Digits that make a held text look like the beginning of a number with a checksum: the issuer's
/// prefix of a payment card has so many.
const SUSPICIOUS_DIGITS: usize = 6;

/// Bytes between two checks of whether a thread is longer than all rules that its state allows.
const STRIDE: usize = 128;

/// What comes after the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// More text, at any time.
    More,
    /// More text, but held text is released now.
    Pause,
    /// No more text.
    Final,
}

/// A start that is followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thread {
    /// Where in the text.
    pub(super) start: usize,
    /// Bytes consumed.
    pub(super) taken: usize,
    /// In each table.
    pub(super) states: [u32; MAX_TABLES],
    /// The tables that may begin here, as bits.
    pub(super) begun: u8,
    /// The tables in which some rule ended, as bits.
    pub(super) ended: u8,
}

/// What a channel remembers between two texts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// The leading thread; it begins where the held text does.
    pub(super) thread: Option<Thread>,
    pub(super) open: Option<Open>,
}

/// How far a thread has come.
enum Fate {
    /// It cannot match any more.
    Over,
    /// It needs more text.
    Live,
    /// It has reached the hold bound.
    Full,
}

/// What to do about a thread.
enum Next {
    /// It is settled: continue at this position.
    At(usize),
    /// Wait for more text.
    Hold,
    /// Open a mask for this rule.
    Open(u16),
}

/// One scan.
pub(super) struct Scan<'s> {
    pub(super) automata: &'s Automata,
    pub(super) text: &'s str,
    pub(super) before: &'s Tail,
    /// Offset of the text in the channel.
    pub(super) base: usize,
    pub(super) ending: Ending,
    pub(super) out: &'s mut Out<'s>,
    pub(super) counts: &'s mut Vec<(u16, u32)>,
    /// Bytes stepped through automata.
    pub(super) steps: u64,
    /// How much of the text has been passed or masked. After a mask it is ahead of the scan, which
    /// still checks for secrets that begin under the mask and end after it.
    pub(super) sent: usize,
    /// Room for candidates.
    pub(super) ends: Vec<(usize, u16)>,
    /// The first `@` at or after the position where it was last searched for; the length of the
    /// text if it has no more.
    pub(super) sign: usize,
}

impl Scan<'_> {
    /// Scan the text. Returns how much of it is decided; the rest must be held.
    pub(super) fn scan_text(&mut self, state: &mut State) -> usize {
        let keep = self.walk(state);
        self.pass(keep);
        keep
    }

    fn walk(&mut self, state: &mut State) -> usize {
        let mut at = 0;
        if state.open.is_some() {
            match self.swallow(state, 0) {
                Some(end) => at = end,
                None => return self.text.len(),
            }
        }
        loop {
            let Some(mut thread) = state.thread.take().or_else(|| self.begin(at)) else {
                return self.text.len();
            };
            let next = match self.follow(&mut thread) {
                Fate::Live if self.ending == Ending::More => Next::Hold,
                Fate::Over => self.settle(&thread, false),
                Fate::Live => self
                    .opens_at_pause(&thread)
                    .map_or_else(|| self.settle(&thread, false), Next::Open),
                Fate::Full => self
                    .opens_at_bound(&thread)
                    .map_or_else(|| self.settle(&thread, true), Next::Open),
            };
            at = match next {
                Next::At(at) => at,
                Next::Hold => {
                    let start = std::mem::take(&mut thread.start);
                    state.thread = Some(thread);
                    return start;
                }
                Next::Open(rule) => match self.open(&thread, rule, state) {
                    Some(end) => end,
                    None => return self.text.len(),
                },
            };
        }
    }

    /// Run a thread as far as the text or the bound goes.
    fn follow(&mut self, thread: &mut Thread) -> Fate {
        let limit = self.text.len().min(thread.start + self.automata.options.hold_bytes);
        let from = thread.start + thread.taken;
        for (group, (state, table)) in
            thread.states.iter_mut().zip(&self.automata.tables).enumerate()
        {
            let mut at = from;
            while *state != DEAD && at < limit {
                let stop = limit.min(at + STRIDE);
                let (to, took, ended) =
                    table.advance(*state, self.text.as_bytes().get(at..stop).unwrap_or_default());
                thread.ended |= u8::from(ended) << group;
                self.steps += took as u64 + 1;
                at = stop;
                *state = if at - thread.start > table.bound(to) { DEAD } else { to };
            }
        }
        thread.taken = limit - thread.start;
        if thread.states == [DEAD; MAX_TABLES] || !self.alive(thread) {
            return Fate::Over;
        }
        if thread.taken == self.automata.options.hold_bytes { Fate::Full } else { Fate::Live }
    }

    /// Rules that a live thread can still match.
    fn possible<'t>(&'t self, thread: &'t Thread) -> impl Iterator<Item = u16> + 't {
        let live = thread
            .states
            .iter()
            .zip(&self.automata.tables)
            .enumerate()
            .filter(|(_, (state, _))| **state != DEAD);
        let mut context = None;
        live.flat_map(|(_, (state, table))| members(table.possible(*state))).filter(move |number| {
            let long = self
                .automata
                .rules
                .get(usize::from(*number))
                .is_some_and(|rule| rule.pattern.longest >= thread.taken);
            long && self.may(thread, *number, &mut context)
        })
    }

    /// Whether a live thread can still match.
    fn alive(&self, thread: &Thread) -> bool {
        self.possible(thread).next().is_some()
    }

    /// Whether a rule may match at a thread's start at all.
    pub(super) fn may(&self, thread: &Thread, number: u16, context: &mut Option<Bits>) -> bool {
        let Some(rule) = self.automata.rules.get(usize::from(number)) else { return false };
        let (start, edges) = (thread.start, &self.automata.options.edges);
        if start < self.sent && rule.pattern.family != Family::Secret {
            return false;
        }
        let first = self.text.as_bytes().get(start).copied().unwrap_or(b' ');
        let (near, length) = self.near(start);
        let near = near.get(NEAR - length..).unwrap_or_default();
        (edges.starts)(&rule.pattern, near, first)
            && (rule.plain || has(context.get_or_insert_with(|| self.context(start)), number))
    }

    /// Settle a failed or finished thread. At the hold bound (`full`), the text after it is
    /// ignored.
    fn settle(&mut self, thread: &Thread, full: bool) -> Next {
        let limit = self.text.len().min(thread.start + self.automata.options.hold_bytes);
        let at_end = self.ending != Ending::More && limit == self.text.len();
        let choice = if thread.ended != 0 || at_end {
            self.choose(thread, limit, at_end, full)
        } else {
            Choice::None
        };
        let hit = match choice {
            Choice::Hit(hit) => hit,
            Choice::None => return Next::At(thread.start + 1),
            Choice::Later => return Next::Hold,
        };
        let value = self.value(thread.start, hit.end, hit.rule);
        let start = value.start.max(self.sent);
        if value.end > start {
            self.mask(start, hit.rule, hit.score, self.base + start..self.base + value.end, false);
            self.sent = value.end;
        }
        // A match that is masked already must not hide one that begins inside it and ends after it.
        Next::At(thread.start + 1)
    }

    /// The range of the value in a match of a rule.
    pub(super) fn value(&self, start: usize, end: usize, number: u16) -> Range<usize> {
        let rule = self.automata.rules.get(usize::from(number));
        let value =
            rule.zip(self.text.get(start..end)).map(|(rule, text)| rule.pattern.value(text));
        value.map_or(start..end, |value| start + value.start..start + value.end)
    }

    /// At a pause, the rule to open a mask for: a match that may continue, a secret with a
    /// recognized prefix, or a number that may become one with a checksum.
    fn opens_at_pause(&mut self, thread: &Thread) -> Option<u16> {
        if self.ending != Ending::Pause {
            return None;
        }
        if let Choice::Hit(hit) = self.choose(thread, self.text.len(), true, false) {
            return (hit.end == self.text.len()).then_some(hit.rule);
        }
        if !self.automata.options.masks_at_pause {
            return None;
        }
        let held = self.text.as_bytes().get(thread.start..).unwrap_or_default();
        let digits = held.iter().filter(|b| b.is_ascii_digit()).count();
        self.likeliest(thread, |rule| {
            rule.masks_at_bound && rule.names(held)
                || rule.is_number() && digits >= SUSPICIOUS_DIGITS
        })
    }

    /// At the hold bound, the rule to open a mask for: one of those that mask there.
    fn opens_at_bound(&self, thread: &Thread) -> Option<u16> {
        self.likeliest(thread, |rule| rule.masks_at_bound)
    }

    /// Of the rules that a live thread can still match, the chosen one with the highest score.
    fn likeliest(&self, thread: &Thread, chosen: impl Fn(&Rule) -> bool) -> Option<u16> {
        let rule = |number: &u16| self.automata.rules.get(usize::from(*number));
        self.possible(thread).filter(|number| rule(number).is_some_and(&chosen)).max_by(
            |left, right| {
                let score = |number| rule(number).map_or(0.0, |rule| rule.pattern.score);
                score(left).total_cmp(&score(right)).then(right.cmp(left))
            },
        )
    }

    /// Emit a mask, and the text before it.
    pub(super) fn mask(
        &mut self,
        start: usize,
        number: u16,
        score: f32,
        span: Range<usize>,
        open: bool,
    ) {
        self.pass(start);
        let Some(rule) = self.automata.rules.get(usize::from(number)).map(|rule| &rule.pattern)
        else {
            return;
        };
        match self.counts.iter_mut().find(|count| count.0 == number) {
            Some(count) => count.1 = count.1.saturating_add(1),
            None => self.counts.push((number, 1)),
        }
        let text = self.text.get(start..span.end.saturating_sub(self.base)).unwrap_or_default();
        let finding = Finding {
            kind: rule.kind.clone(),
            rule: rule.rule.clone(),
            family: rule.family,
            span,
            score,
        };
        (self.out)(self.base + start, Piece::Mask { finding: &finding, text, open });
    }

    /// Emit the text up to a position.
    pub(super) fn pass(&mut self, to: usize) {
        if let Some(text) = self.text.get(self.sent..to).filter(|text| !text.is_empty()) {
            (self.out)(self.base + self.sent, Piece::Pass(text));
        }
        self.sent = self.sent.max(to);
    }

    /// The byte before a position of the text.
    pub(super) fn byte_before(&self, at: usize) -> Option<u8> {
        match at.checked_sub(1) {
            Some(at) => self.text.as_bytes().get(at).copied(),
            None => self.before.bytes().last().copied(),
        }
    }

    /// The last bytes before a position, at the array's end, and how many there are.
    fn near(&self, at: usize) -> ([u8; NEAR], usize) {
        let text = self.text.as_bytes().get(..at).unwrap_or_default().iter().rev();
        let mut near = [0; NEAR];
        let known = text.chain(self.before.bytes().iter().rev());
        let length = near.iter_mut().rev().zip(known).map(|(into, byte)| *into = *byte).count();
        (near, length)
    }

    /// Rules with a context word before a position.
    pub(super) fn context(&self, at: usize) -> Bits {
        let mut window = [0; REACH];
        let text = self.text.as_bytes().get(..at).unwrap_or_default();
        let length = join(self.before.bytes(), text, &mut window);
        self.automata.contexts.before(window.get(..length).unwrap_or_default())
    }
}
