//! Masks whose end is not known yet.
//!
//! - *In*: a thread that is masked before it is decided: at the hold bound, or at a pause.
//! - *Out*: the mask at once, its end later.
//! - *Never*: the swallowed text; it is kept nowhere, so no check sees it.

use super::Piece;
use super::automata::GROUPS;
use super::choose::score;
use super::scan::{Ending, Scan, State, Thread};
use super::table::DEAD;

/// A mask that has begun and not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Offset in the channel.
    start: usize,
    /// Bytes the thread has gone.
    taken: usize,
    states: [u32; GROUPS],
}

impl Scan<'_> {
    /// Begin a mask whose end is not known, and swallow. Where it ended, when it did.
    pub(super) fn open(&mut self, thread: &Thread, rule: u16, state: &mut State) -> Option<usize> {
        let (start, end) =
            (self.base + thread.start.max(self.sent), self.base + thread.start + thread.taken);
        let score = score(self.automata, rule, &self.context(thread.start));
        self.mask(thread.start, rule, score, start..end.max(start), true);
        state.open = Some(Open { start, taken: thread.taken, states: thread.states });
        self.swallow(state, thread.start + thread.taken)
    }

    /// Go on with an open mask until no match is possible. Rules are bounded, so it ends; exact to
    /// the byte, so that cuts do not matter.
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
            if open.states == [DEAD; GROUPS] {
                // A character is never torn.
                end = (at..=bytes.len()).find(|at| self.text.is_char_boundary(*at));
                break;
            }
        }
        self.sent = end.unwrap_or(bytes.len());
        if end.is_some() || self.ending == Ending::Final {
            (self.out)(Piece::Close(open.start..self.base + self.sent));
        } else {
            state.open = Some(open);
        }
        end
    }
}
