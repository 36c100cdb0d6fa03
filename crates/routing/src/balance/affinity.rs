//! Selects the same backend for the same key.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each backend gets a number from its name and
//! the key, and the largest wins. When a backend joins or leaves, only its own keys move. Weights
//! apply as in Schindelhauer and Schomaker (2005).

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Candidates, least};
use crate::member::Member;
use crate::pool::{Reason, Selection};
use crate::random::mix;

/// Requests above its share that a key's backend may have before the key moves to another.
const SLACK: f64 = 1.0;

/// The backend of a key. `holds` (`session`): it is selected even when busy.
pub(super) fn choose(candidates: &Candidates<'_>, holds: bool) -> Option<Selection> {
    let Some(key) = candidates.request.key else {
        return least::of_two(candidates).map(|at| Selection { at, reason: Reason::Balanced });
    };
    let hash = xxh3_64_with_seed(key, 0);
    let score = |member: &Member| {
        let drawn = mix(hash ^ member.draw);
        // For a weight of one, the number itself has the same order.
        if candidates.pool.all_weigh_the_same() {
            return drawn as f64;
        }
        let share = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(member.weight) / share.ln()
    };
    let best = |may: &dyn Fn(&Member) -> bool| {
        let scored = candidates
            .all()
            .filter(|(_, member)| may(member))
            .map(|(at, member)| (score(member), at));
        scored.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, at)| at)
    };
    let home = best(&|_| true)?;
    let stays = |at: usize| Some(Selection { at, reason: Reason::Affinity });
    if holds {
        return stays(home);
    }
    // The next backend is computed only if the first is busy.
    let has_leisure = candidates.is_within_share(SLACK);
    match candidates.at(home) {
        Some(member) if has_leisure(member) => stays(home),
        _ => stays(best(&has_leisure).unwrap_or(home)),
    }
}
