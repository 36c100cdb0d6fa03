//! Masks whose end is not known yet.
//!
//! - *In*: a thread that is masked before it is decided: at the hold bound, or at a pause.
//! - *Out*: the mask immediately, its end later.
//! - *Never*: the dropped text. It is not kept, so no check can use it.

use super::Piece;
use super::automata::MAX_TABLES;
use super::choose::score;
use super::scan::{Ending, Scan, State, Thread};
use super::table::DEAD;

/// A mask that has begun and not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Offset in the channel.
    start: usize,
    /// Bytes that the thread has consumed.
    taken: usize,
    states: [u32; MAX_TABLES],
}

impl Scan<'_> {
    /// Emit a mask whose end is unknown, and drop the text under it. Returns its end, if it was
    /// reached.
    pub(super) fn open(&mut self, thread: &Thread, rule: u16, state: &mut State) -> Option<usize> {
        let end = thread.start + thread.taken;
        let value = self.value(thread.start, end.min(self.text.len()), rule).start;
        let (start, end) = (self.base + value.max(self.sent), self.base + end);
        let score = score(self.automata, rule, &self.context(thread.start));
        self.mask(value, rule, score, start..end.max(start), true);
        state.open = Some(Open { start, taken: thread.taken, states: thread.states });
        self.swallow(state, thread.start + thread.taken)
    }

    /// Continue an open mask until no match is possible. Rules are bounded, so it ends. It steps
    /// single bytes, so that the cuts of the text do not matter. Returns its end, if it was
    /// reached.
    pub(super) fn swallow(&mut self, state: &mut State, from: usize) -> Option<usize> {
        let mut open = state.open.take()?;
        let bytes = self.text.as_bytes();
        let mut end = None;
        for (at, byte) in bytes.iter().enumerate().skip(from) {
            open.taken += 1;
            self.steps += 1;
            for (state, table) in open
                .states
                .iter_mut()
                .zip(&self.automata.tables)
                .filter(|(state, _)| **state != DEAD)
            {
                *state = table.step(*state, *byte);
                if open.taken > table.bound(*state) {
                    *state = DEAD;
                }
            }
            if open.states == [DEAD; MAX_TABLES] {
                // A mask ends at a character boundary.
                end = (at..=bytes.len()).find(|at| self.text.is_char_boundary(*at));
                break;
            }
        }
        self.sent = end.unwrap_or(bytes.len());
        if end.is_some() || self.ending == Ending::Final {
            (self.out)(open.start, Piece::Close(open.start..self.base + self.sent));
        } else {
            state.open = Some(open);
        }
        end
    }
}
