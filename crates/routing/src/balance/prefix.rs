//! Whoever has seen the beginning of the prompt, and so may have it in its cache.
//!
//! - *In*: hashes of a prompt's blocks, each of all blocks before it.
//! - *Out*: the backend that was last given the longest of these beginnings, unless it is busy.
//! - *Never*: a lock, a text, memory that grows: a table of [`SLOTS`] words, in which the newer takes the place of the older.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Deck, least};
use crate::pool::{Choice, Reason};

/// Bytes of a block: some hundred tokens. Engines cache blocks of sixteen tokens and more; what is shared is longer.
const BLOCK: usize = 512;
/// Most blocks of a prompt that are looked at: 64 KiB.
const MOST: usize = 128;
/// Places of the table: two mebibytes, for what thirty thousand prompts of 4 KiB have begun with.
const SLOTS: usize = 1 << 18;
/// How many requests beyond its share a backend may have that need not read the prompt again. In the simulation fewer lose caches, and more gain little.
const SLACK: f64 = 4.0;
/// One in so many goes where it would without a cache, and is looked for there from then on.
const EXPLORE: usize = 20;
/// Bits of a place that say which backend.
const WHO: u32 = 16;

/// What parts a text from the next; no text has it.
const BETWEEN: u8 = 0xFF;

/// The hashes of a prompt's blocks: for one model, whose caches are of no use to another. What does not fill a block is in none.
pub fn blocks<'t>(model: &[u8], texts: impl Iterator<Item = &'t [u8]>, out: &mut Vec<u64>) {
    let (mut hash, mut begun) = (xxh3_64_with_seed(model, 0), Vec::with_capacity(BLOCK));
    let mut seal = |block: &[u8]| {
        hash = xxh3_64_with_seed(block, hash);
        out.push(hash);
        out.len() < MOST
    };
    for text in texts {
        let (head, rest) = text.split_at(if begun.is_empty() { 0 } else { text.len().min(BLOCK - begun.len()) });
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
        // A block is never full here: `remainder` is shorter, and what fills one is sealed.
        begun.push(BETWEEN);
        if begun.len() == BLOCK {
            if !seal(&begun) {
                return;
            }
            begun.clear();
        }
    }
}

/// Who was given which beginning last.
#[derive(Debug)]
pub(crate) struct Prefixes {
    slots: Box<[AtomicU64]>,
    looked: AtomicU64,
    found: AtomicU64,
}

impl Prefixes {
    /// A table, or none where nobody looks.
    pub(crate) fn new(used: bool) -> Self {
        let slots = (0..if used { SLOTS } else { 0 }).map(|_| AtomicU64::new(0)).collect();
        Prefixes { slots, looked: AtomicU64::new(0), found: AtomicU64::new(0) }
    }

    /// The same of a pool whose backends stand in other places now: `places` says where, for each that there was. Who is gone has given up what he had.
    pub(crate) fn moved(&self, places: &[Option<usize>]) -> Prefixes {
        let moved = |word: u64| {
            let place = places.get((word & ((1 << WHO) - 1)) as usize).copied().flatten();
            let place = place.filter(|_| word != 0).and_then(|at| u16::try_from(at).ok());
            place.map_or(0, |at| word >> WHO << WHO | u64::from(at))
        };
        let slots = self.slots.iter().map(|slot| AtomicU64::new(moved(slot.load(Ordering::Relaxed)))).collect();
        let (looked, found) = self.counts();
        Prefixes { slots, looked: AtomicU64::new(looked), found: AtomicU64::new(found) }
    }

    pub(crate) fn remember(&self, prefix: &[u64], at: usize) {
        let Ok(at) = u16::try_from(at) else { return };
        for hash in prefix {
            if let Some(slot) = self.slot(*hash) {
                slot.store(*hash >> WHO << WHO | u64::from(at), Ordering::Relaxed);
            }
        }
    }

    /// How many of the blocks somebody has seen, and who.
    fn longest(&self, prefix: &[u64]) -> Option<(usize, usize)> {
        let who = |hash: u64| {
            let word = self.slot(hash)?.load(Ordering::Relaxed);
            (word != 0 && word >> WHO == hash >> WHO).then_some((word & ((1 << WHO) - 1)) as usize)
        };
        prefix.iter().enumerate().rev().find_map(|(at, hash)| Some((at + 1, who(*hash)?)))
    }

    /// Blocks that were looked for, and found.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.looked.load(Ordering::Relaxed), self.found.load(Ordering::Relaxed))
    }

    fn slot(&self, hash: u64) -> Option<&AtomicU64> {
        self.slots.get(hash as usize & (SLOTS - 1))
    }
}

pub(super) fn choose(deck: &Deck<'_>) -> Option<Choice> {
    let prefixes = &deck.pool.prefixes;
    // Without a few that go elsewhere, who is new would get no beginning that somebody has.
    let explores = deck.pool.random.below(EXPLORE) == 0;
    let seen = prefixes.longest(deck.wish.prefix).filter(|_| !explores);
    let taken = seen.filter(|(_, at)| deck.at(*at).is_some_and(|member| deck.leisure(SLACK)(member)));
    prefixes.looked.fetch_add(deck.wish.prefix.len() as u64, Ordering::Relaxed);
    match taken {
        Some((blocks, at)) => {
            prefixes.found.fetch_add(blocks as u64, Ordering::Relaxed);
            Some(Choice { at, reason: Reason::Prefix })
        }
        None => least::of_two(deck).map(|at| Choice { at, reason: Reason::Balanced }),
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
    fn the_same_beginning_has_the_same_hashes() {
        let (a, b) = ("a".repeat(2000), "b".repeat(2000));
        let (one, other) = (of(&[&a, &b]), of(&[&a, &a]));
        assert_eq!((one.len(), other.len()), (7, 7));
        assert_eq!(one[..3], other[..3]);
        assert!(one[3..].iter().zip(&other[3..]).all(|(one, other)| one != other));
        assert_ne!(of(&[&a])[1..], of(&[&a[..1000], &a[1000..]])[1..], "two texts are not one");
        assert_eq!(of(&[&a])[..2], of(&[&a[..1500]])[..2], "a prompt that grows keeps its beginning");
        let mut of_another = Vec::new();
        blocks(b"n", [a.as_bytes()].into_iter(), &mut of_another);
        assert!(of(&[&a]).iter().zip(&of_another).all(|(one, other)| one != other), "another model reads it anew");
        assert!(of(&["short"]).is_empty());
        assert_eq!(of(&[&"x".repeat(1 << 20)]).len(), MOST);
    }

    #[test]
    fn the_longest_beginning_is_found_and_the_table_is_bounded() {
        let prefixes = Prefixes::new(true);
        let (long, other) = (of(&[&"a".repeat(5000)]), of(&[&"b".repeat(5000)]));
        prefixes.remember(&long, 3);
        assert_eq!(prefixes.longest(&long), Some((9, 3)));
        assert_eq!(prefixes.longest(&long[..4]), Some((4, 3)));
        assert_eq!(prefixes.longest(&other), None);
        prefixes.remember(&long[..2], 5);
        assert_eq!((prefixes.longest(&long), prefixes.longest(&long[..2])), (Some((9, 3)), Some((2, 5))));
        assert!(Prefixes::new(false).slots.is_empty());
    }

    #[test]
    fn what_was_seen_moves_with_who_has_seen_it() {
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
