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
        let drawn = mix(hash ^ member.draw);
        // Of a weight of one the number itself is in the same order.
        if deck.pool.all_weigh_the_same() {
            return drawn as f64;
        }
        let share = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(member.weight) / share.ln()
    };
    let best = |may: &dyn Fn(&Member) -> bool| {
        let scored = deck.all().filter(|(_, member)| may(member)).map(|(at, member)| (score(member), at));
        scored.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, at)| at)
    };
    let home = best(&|_| true)?;
    let stays = |at: usize| Some(Choice { at, reason: Reason::Affinity });
    if holds {
        return stays(home);
    }
    // The next one is looked for only where the first is busy.
    let has_leisure = deck.leisure(SLACK);
    match deck.at(home) {
        Some(member) if has_leisure(member) => stays(home),
        _ => stays(best(&has_leisure).unwrap_or(home)),
    }
}
