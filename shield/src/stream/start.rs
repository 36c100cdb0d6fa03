//! Positions where a match may start.
//!
//! - *In*: a position to go on from.
//! - *Out*: the next start that can still become a match, as a [`Thread`].
//! - *Never*: a thread for a word that its first bytes rule out. This covers nearly all words, so
//!   it determines the speed on large texts.

use super::automata::{INNER, OUTER, WORD};
use super::scan::{Scan, Thread};

/// Bytes checked at a start before a thread is made.
const LOOK: usize = 24;

impl Scan<'_> {
    /// The next start at or after a position.
    pub(super) fn begin(&mut self, at: usize) -> Option<Thread> {
        let (start, begun) = self.next_start(at)?;
        let before = self.byte_before(start);
        let mut thread = Thread { start, begun, ..Thread::default() };
        for (group, (into, table)) in
            thread.states.iter_mut().zip(&self.automata.tables).enumerate()
        {
            if begun & (1 << group) != 0 {
                *into = table.start(before);
            }
        }
        Some(thread)
    }

    /// The first position where a match of some table may begin, and these tables.
    fn next_start(&mut self, at: usize) -> Option<(usize, u8)> {
        let before = self.byte_before(at).unwrap_or(b' ');
        // The flag that a byte needs to be a start here.
        let mut wanted = if before.is_ascii_alphanumeric() { INNER } else { OUTER };
        for (offset, &byte) in self.text.as_bytes().get(at..)?.iter().enumerate() {
            let flags = self.automata.flags[usize::from(byte)];
            if flags & wanted != 0 && self.may_begin(at + offset) {
                let before = self.byte_before(at + offset).unwrap_or(b' ');
                let tables = self.survive(at + offset, before, self.begins(byte));
                if tables != 0 {
                    return Some((at + offset, tables));
                }
            }
            wanted = if flags & WORD != 0 { INNER } else { OUTER };
        }
        None
    }

    /// The tables that can still match after a quick check of the first bytes. Most words begin no
    /// match, and a thread for each would cost more.
    #[inline]
    fn survive(&mut self, start: usize, before: u8, tables: u8) -> u8 {
        let bytes = self.text.as_bytes();
        let first = (start > 0 || !self.before.bytes().is_empty()).then_some(before);
        let double = bytes
            .get(start)
            .zip(bytes.get(start + 1))
            .map(|(first, second)| usize::from(u16::from_be_bytes([*first, *second])));
        let tables = tables
            & double
                .and_then(|double| self.automata.doubles.get(double))
                .copied()
                .unwrap_or(u8::MAX);
        let mut left = tables;
        for (group, (table, sign)) in
            self.automata.tables.iter().zip(&self.automata.signs).enumerate()
        {
            if tables & (1 << group) == 0 {
                continue;
            }
            if let Some(far) = sign {
                // Text after the hold bound must not count: in other pieces, it would not have
                // arrived yet.
                if *far >= self.automata.options.hold_bytes {
                    continue;
                }
                let stop = start + far;
                if self.sign < start {
                    self.sign = memchr::memchr(b'@', bytes.get(start..).unwrap_or_default())
                        .map_or(bytes.len(), |at| start + at);
                }
                left &= !(u8::from(stop < bytes.len() && self.sign > stop) << group);
                continue;
            }
            let look = bytes.get(start..bytes.len().min(start + LOOK)).unwrap_or_default();
            // An upper bound: most starts end sooner.
            self.steps += look.len() as u64;
            left &= !(u8::from(table.dies(table.start(first), look)) << group);
        }
        left
    }

    /// Whether a match may begin at a position.
    fn may_begin(&self, at: usize) -> bool {
        let before = self.byte_before(at).unwrap_or(b' ');
        self.text.as_bytes().get(at).is_some_and(|byte| self.automata.pair(before, *byte))
    }

    #[inline]
    fn begins(&self, byte: u8) -> u8 {
        self.automata.begins[usize::from(byte)]
    }
}
