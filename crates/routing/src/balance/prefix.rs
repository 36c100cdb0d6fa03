//! Selects the backend that was sent the longest prefix of the prompt before, and so may have it in
//! its cache.
//!
//! - *In*: hashes of a prompt's blocks, each including all blocks before it.
//! - *Out*: the backend that was last sent the longest of these prefixes, unless it is busy.
//! - *Never*: a lock, a text, growing memory: the table has [`SLOTS`] words, and newer entries
//!   replace older ones.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Candidates, least};
use crate::pool::{Reason, Selection};

/// Bytes of a block, about a hundred tokens. Engines cache blocks of sixteen tokens and more;
/// shared prefixes are longer.
const BLOCK: usize = 512;
/// Maximum blocks of a prompt: 64 KiB.
const MAX_BLOCKS: usize = 128;
/// Slots of the table: 2 MiB, enough for the prefixes of thirty thousand prompts of 4 KiB.
const SLOTS: usize = 1 << 18;
/// Requests above its share that a backend may have if it has the prefix cached. In the simulation,
/// a smaller value loses cache hits, and a larger one gains little.
const SLACK: f64 = 4.0;
/// One in this many requests ignores the table, so that new backends get prefixes.
const EXPLORE_EVERY: usize = 20;
/// Bits of a slot that store the backend's index.
const BACKEND_BITS: u32 = 16;

/// Separates texts. No text contains it.
const BETWEEN: u8 = 0xFF;

/// Hashes of a prompt's blocks, for one model, because caches of models are separate. A partial
/// block has no hash.
pub fn blocks<'t>(model: &[u8], texts: impl Iterator<Item = &'t [u8]>, out: &mut Vec<u64>) {
    let (mut hash, mut begun) = (xxh3_64_with_seed(model, 0), Vec::with_capacity(BLOCK));
    let mut seal = |block: &[u8]| {
        hash = xxh3_64_with_seed(block, hash);
        out.push(hash);
        out.len() < MAX_BLOCKS
    };
    for text in texts {
        let (head, rest) =
            text.split_at(if begun.is_empty() { 0 } else { text.len().min(BLOCK - begun.len()) });
        begun.extend_from_slice(head);
        if begun.len() == BLOCK {
            if !seal(&begun) {
                return;
            }
            begun.clear();
        }
        let whole = rest.chunks_exact(BLOCK);
        begun.extend_from_slice(whole.remainder());
        for block in whole {
            if !seal(block) {
                return;
            }
        }
        // A block is never full here: `remainder` is shorter, and full blocks are hashed at once.
        begun.push(BETWEEN);
        if begun.len() == BLOCK {
            if !seal(&begun) {
                return;
            }
            begun.clear();
        }
    }
}

/// Maps prefixes to the backends that were last sent them.
#[derive(Debug)]
pub(crate) struct Prefixes {
    slots: Box<[AtomicU64]>,
    looked: AtomicU64,
    found: AtomicU64,
}

impl Prefixes {
    /// A table; empty for pools that do not use it.
    pub(crate) fn new(used: bool) -> Self {
        let slots = (0..if used { SLOTS } else { 0 }).map(|_| AtomicU64::new(0)).collect();
        Prefixes { slots, looked: AtomicU64::new(0), found: AtomicU64::new(0) }
    }

    /// The table for a pool whose backends have other indexes now. `places` maps old indexes to new
    /// ones. Entries of removed backends are dropped.
    pub(crate) fn moved(&self, places: &[Option<usize>]) -> Prefixes {
        let moved = |word: u64| {
            let place = places.get((word & ((1 << BACKEND_BITS) - 1)) as usize).copied().flatten();
            let place = place.filter(|_| word != 0).and_then(|at| u16::try_from(at).ok());
            place.map_or(0, |at| word >> BACKEND_BITS << BACKEND_BITS | u64::from(at))
        };
        let slots = self
            .slots
            .iter()
            .map(|slot| AtomicU64::new(moved(slot.load(Ordering::Relaxed))))
            .collect();
        let (looked, found) = self.counts();
        Prefixes { slots, looked: AtomicU64::new(looked), found: AtomicU64::new(found) }
    }

    pub(crate) fn remember(&self, prefix: &[u64], at: usize) {
        let Ok(at) = u16::try_from(at) else { return };
        for hash in prefix {
            if let Some(slot) = self.slot(*hash) {
                slot.store(
                    *hash >> BACKEND_BITS << BACKEND_BITS | u64::from(at),
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// The number of known blocks, and the backend that was sent them.
    fn longest(&self, prefix: &[u64]) -> Option<(usize, usize)> {
        let who = |hash: u64| {
            let word = self.slot(hash)?.load(Ordering::Relaxed);
            (word != 0 && word >> BACKEND_BITS == hash >> BACKEND_BITS)
                .then_some((word & ((1 << BACKEND_BITS) - 1)) as usize)
        };
        prefix.iter().enumerate().rev().find_map(|(at, hash)| Some((at + 1, who(*hash)?)))
    }

    /// Blocks looked up and found.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.looked.load(Ordering::Relaxed), self.found.load(Ordering::Relaxed))
    }

    fn slot(&self, hash: u64) -> Option<&AtomicU64> {
        self.slots.get(hash as usize & (SLOTS - 1))
    }
}

pub(super) fn choose(candidates: &Candidates<'_>) -> Option<Selection> {
    let prefixes = &candidates.pool.prefixes;
    // Without this, a new backend would never get a known prefix.
    let explores = candidates.pool.random.below(EXPLORE_EVERY) == 0;
    let seen = prefixes.longest(candidates.request.prefix).filter(|_| !explores);
    let taken = seen.filter(|(_, at)| {
        candidates.at(*at).is_some_and(|member| candidates.is_within_share(SLACK)(member))
    });
    prefixes.looked.fetch_add(candidates.request.prefix.len() as u64, Ordering::Relaxed);
    match taken {
        Some((blocks, at)) => {
            prefixes.found.fetch_add(blocks as u64, Ordering::Relaxed);
            Some(Selection { at, reason: Reason::Prefix })
        }
        None => least::of_two(candidates).map(|at| Selection { at, reason: Reason::Balanced }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<u64> {
        let mut out = Vec::new();
        blocks(b"m", texts.iter().map(|text| text.as_bytes()), &mut out);
        out
    }

    #[test]
    fn common_prefix_has_common_hashes() {
        let (a, b) = ("a".repeat(2000), "b".repeat(2000));
        let (one, other) = (of(&[&a, &b]), of(&[&a, &a]));
        assert_eq!((one.len(), other.len()), (7, 7));
        assert_eq!(one[..3], other[..3]);
        assert!(one[3..].iter().zip(&other[3..]).all(|(one, other)| one != other));
        assert_ne!(of(&[&a])[1..], of(&[&a[..1000], &a[1000..]])[1..], "text boundaries count");
        assert_eq!(
            of(&[&a])[..2],
            of(&[&a[..1500]])[..2],
            "a prompt that grows keeps its beginning"
        );
        let mut of_another = Vec::new();
        blocks(b"n", [a.as_bytes()].into_iter(), &mut of_another);
        assert!(
            of(&[&a]).iter().zip(&of_another).all(|(one, other)| one != other),
            "each model has its own hashes"
        );
        assert!(of(&["short"]).is_empty());
        assert_eq!(of(&[&"x".repeat(1 << 20)]).len(), MAX_BLOCKS);
    }

    #[test]
    fn longest_prefix_is_found() {
        let prefixes = Prefixes::new(true);
        let (long, other) = (of(&[&"a".repeat(5000)]), of(&[&"b".repeat(5000)]));
        prefixes.remember(&long, 3);
        assert_eq!(prefixes.longest(&long), Some((9, 3)));
        assert_eq!(prefixes.longest(&long[..4]), Some((4, 3)));
        assert_eq!(prefixes.longest(&other), None);
        prefixes.remember(&long[..2], 5);
        assert_eq!(
            (prefixes.longest(&long), prefixes.longest(&long[..2])),
            (Some((9, 3)), Some((2, 5)))
        );
        assert!(Prefixes::new(false).slots.is_empty());
    }

    #[test]
    fn prefixes_move_with_their_backend() {
        let prefixes = Prefixes::new(true);
        let (a, b) = (of(&[&"a".repeat(2000)]), of(&[&"b".repeat(2000)]));
        prefixes.remember(&a, 0);
        prefixes.remember(&b, 2);
        let moved = prefixes.moved(&[None, Some(0), Some(1)]);
        assert_eq!((moved.longest(&a), moved.longest(&b)), (None, Some((3, 1))));
        assert_eq!(moved.moved(&[Some(0), Some(7)]).longest(&b), Some((3, 7)));
        assert_eq!(moved.moved(&[]).longest(&b), None);
    }
}
