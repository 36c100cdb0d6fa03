//! Selects backends in turn, by weight.
//!
//! - *In*: the weights of eligible backends.
//! - *Out*: the backend whose turn it is.
//! - *Never*: a lock; a turn for a retry, so that a failing backend does not get the turns of the
//!   others.
//!
//! Stride scheduling (Waldspurger and Weihl, 1995): each turn moves a backend's position forward by
//! the inverse of its weight, and the backend with the lowest position is next. Turns of a backend
//! are spread evenly over a round, and slow start needs only a larger stride.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Candidates, by_weight};

/// Distance of two turns of a backend with weight 1.
const STRIDE: f64 = (1 << 24) as f64;
/// Attempts to take a turn while other threads take theirs.
const TRIES: usize = 16;

/// Positions of a pool's backends.
#[derive(Debug)]
pub(crate) struct Turns {
    positions: Box<[AtomicU64]>,
    /// Position of the last turn. A backend that was not eligible continues half a stride later: it
    /// does not make up for lost turns.
    last: AtomicU64,
}

impl Turns {
    /// Positions of backends with these weights.
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Self {
        // Half a stride: heavy backends come first, light ones in the middle of the round.
        let first = |weight: u32| AtomicU64::new(stride(f64::from(weight)) / 2);
        Turns { positions: weights.map(first).collect(), last: AtomicU64::new(0) }
    }

    /// The eligible backend with the lowest position.
    fn lowest(&self, candidates: &Candidates<'_>) -> Option<(usize, u64)> {
        let last = self.last.load(Ordering::Relaxed);
        let positions = candidates.all().filter_map(|(at, member)| {
            let slot = self.positions.get(at)?;
            let stored = slot.load(Ordering::Relaxed);
            if stored >= last {
                return Some((at, stored));
            }
            // Stored at once: a position that moved along with the last turn would never be
            // reached.
            let caught_up = last + stride(candidates.effective_weight(member)) / 2;
            let _ = slot.compare_exchange(stored, caught_up, Ordering::Relaxed, Ordering::Relaxed);
            Some((at, slot.load(Ordering::Relaxed)))
        });
        positions.min_by_key(|(_, position)| *position)
    }
}

fn stride(weight: f64) -> u64 {
    (STRIDE / weight.max(f64::MIN_POSITIVE)) as u64
}

pub(super) fn choose(candidates: &Candidates<'_>) -> Option<usize> {
    // At random, because a failing backend always has the same successor.
    if candidates.request.is_another() {
        return by_weight(candidates, None);
    }
    let turns = &candidates.pool.turns;
    for _ in 0..TRIES {
        let (at, position) = turns.lowest(candidates)?;
        let (member, slot) = (candidates.at(at)?, turns.positions.get(at)?);
        let next = position + stride(candidates.effective_weight(member));
        if slot.compare_exchange(position, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            turns.last.fetch_max(position, Ordering::Relaxed);
            return Some(at);
        }
    }
    by_weight(candidates, None)
}
