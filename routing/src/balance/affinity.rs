//! The same backend for the same key.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each backend draws a number from its name and the key, the largest wins. Who comes or goes takes
//! only his own keys along. Weights bend the numbers as Schindelhauer and Schomaker (2005) have it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Deck, least};
use crate::member::Member;
use crate::pool::{Choice, Reason};
use crate::random::mix;

/// How many requests beyond its share a key's backend may have: nothing is lost where it moves on.
const SLACK: f64 = 1.0;

/// The key's backend. One that must hold may be busy.
pub(super) fn choose(deck: &Deck<'_>, holds: bool) -> Option<Choice> {
    let Some(key) = deck.wish.key else {
        return least::of_two(deck).map(|at| Choice { at, reason: Reason::Balanced });
    };
    let hash = xxh3_64_with_seed(key, 0);
    let score = |member: &Member| {
        let drawn = mix(hash ^ xxh3_64_with_seed(member.name.as_bytes(), 1));
        let share = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(member.weight) / share.ln()
    };
    let best = |only_at_leisure: bool| {
        let may = deck.all().filter(|(_, member)| !only_at_leisure || deck.is_at_leisure(member, SLACK));
        may.max_by(|(_, one), (_, other)| score(one).total_cmp(&score(other))).map(|(at, _)| at)
    };
    let at = if holds { best(false) } else { best(true).or_else(|| best(false)) };
    at.map(|at| Choice { at, reason: Reason::Affinity })
}
