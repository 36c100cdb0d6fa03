//! Two counts over the last seconds, without a lock.

use crate::sync::{AtomicU64, Ordering};

use lens::Tick;

/// Length of the window in seconds.
const SECONDS: u64 = 10;
/// Bits of a count.
const COUNT: u32 = 16;
const MAX_COUNT: u64 = (1 << COUNT) - 1;

/// A ring of seconds. A word has the number of a second and two counts; a later second overwrites
/// it. Counts saturate at 65,535 in a second.
#[derive(Debug, Default)]
pub(crate) struct Window([AtomicU64; SECONDS as usize]);

impl Window {
    /// Count one of the first or of the second kind.
    pub(crate) fn count(&self, second_kind: bool, now: Tick) {
        let second = second(now);
        let add = |word: u64| {
            let (mut first, mut other) =
                if word >> (2 * COUNT) == second { counts(word) } else { (0, 0) };
            let which = if second_kind { &mut other } else { &mut first };
            *which = (*which + 1).min(MAX_COUNT);
            Some(second << (2 * COUNT) | other << COUNT | first)
        };
        if let Some(place) = self.0.get((second % SECONDS) as usize) {
            let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// Counts of both kinds in the last seconds.
    pub(crate) fn sums(&self, now: Tick) -> (u64, u64) {
        let this = second(now);
        let recent = |word: &u64| this.wrapping_sub(word >> (2 * COUNT)) < SECONDS && *word != 0;
        let words = self.0.iter().map(|word| word.load(Ordering::Relaxed)).filter(recent);
        words.map(counts).fold((0, 0), |(a, b), (first, other)| (a + first, b + other))
    }

    /// Clear all counts.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

fn second(now: Tick) -> u64 {
    (now.0 / 1_000_000_000) & 0xFFFF_FFFF
}

fn counts(word: u64) -> (u64, u64) {
    (word & MAX_COUNT, word >> COUNT & MAX_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_expire_after_ten_seconds() {
        let window = Window::default();
        let at = |seconds: u64| Tick(seconds * 1_000_000_000);
        (0..5).for_each(|_| window.count(false, at(100)));
        window.count(true, at(104));
        assert_eq!(window.sums(at(104)), (5, 1));
        assert_eq!(window.sums(at(110)), (0, 1));
        window.count(false, at(114));
        assert_eq!(window.sums(at(114)), (1, 0), "seconds 104 and 114 share a slot");
        (0..100_000).for_each(|_| window.count(false, at(114)));
        assert_eq!(window.sums(at(114)), (MAX_COUNT, 0));
        window.clear();
        assert_eq!(window.sums(at(114)), (0, 0));
    }
}
