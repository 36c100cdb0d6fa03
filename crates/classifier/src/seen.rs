//! The set of buckets seen in a window.
//!
//! - *In*: buckets.
//! - *Out*: whether one is met for the first time.
//! - *Never*: a table that is allocated or cleared as a whole for each text. The cost of a prompt
//!   of thousands of short texts depends on their content.

use std::cell::Cell;

use super::hash::BUCKETS;

thread_local! {
    /// The table of this thread while it is not in use; always clear.
    static IDLE: Cell<Option<Table>> = const { Cell::new(None) };
}

/// 64 KiB of bits, one for each bucket, and the indexes of the words that are not zero.
struct Table {
    bits: Vec<u64>,
    touched: Vec<u16>,
}

/// A set of buckets. It takes the table of the thread, and puts it back when dropped.
pub(super) struct Seen(Table);

impl Seen {
    /// An empty set.
    pub(super) fn take() -> Self {
        Self(
            IDLE.take()
                .unwrap_or_else(|| Table { bits: vec![0; BUCKETS / 64], touched: Vec::new() }),
        )
    }

    /// Adds a bucket; false if it was there already, or is out of range.
    #[inline]
    pub(super) fn first(&mut self, bucket: u32) -> bool {
        let Table { bits, touched } = &mut self.0;
        let at = bucket / 64;
        let Some(word) = bits.get_mut(at as usize) else { return false };
        let bit = 1u64 << (bucket % 64);
        if *word == 0 {
            touched.push(at as u16);
        }
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    /// Empties the set.
    pub(super) fn clear(&mut self) {
        let Table { bits, touched } = &mut self.0;
        for at in touched.drain(..) {
            if let Some(word) = bits.get_mut(usize::from(at)) {
                *word = 0;
            }
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.clear();
        let Table { bits, touched } = &mut self.0;
        IDLE.set(Some(Table { bits: std::mem::take(bits), touched: std::mem::take(touched) }));
    }
}
