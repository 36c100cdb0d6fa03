//! The least busy one: of all, or of two at random.
//!
//! Two random choices are nearly as good as all of them and do not send everybody to the same backend between two looks (Mitzenmacher, 2001).

use super::{DRAWS, Deck};
use crate::member::Member;
use crate::random::mix;

/// The one with the least of something for its strength; among equals, one at random.
pub(super) fn by(deck: &Deck<'_>, busy: impl Fn(&Member) -> f64) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    let (mut equals, mut draw) = (0, deck.pool.random.next());
    for (at, member) in deck.all() {
        let cost = (busy(member) + 1.0) / deck.strength(member);
        match best {
            Some((known, _)) if cost > known => {}
            Some((known, _)) if cost == known => {
                equals += 1;
                draw = mix(draw.wrapping_add(equals));
                if draw.is_multiple_of(equals) {
                    best = Some((cost, at));
                }
            }
            _ => (best, equals) = (Some((cost, at)), 1),
        }
    }
    best.map(|(_, at)| at)
}

/// The better of two at random.
pub(crate) fn of_two(deck: &Deck<'_>) -> Option<usize> {
    let (one, other) = two(deck)?;
    let Some(other) = other else { return Some(one) };
    let prior = prior(deck, one, other);
    let cost = |at| deck.at(at).map_or(f64::INFINITY, |member| cost(deck, member, prior));
    Some(if cost(other) < cost(one) { other } else { one })
}

/// What asking a backend costs: its time to first token for each of the requests in front, in mean ones, and this.
fn cost(deck: &Deck<'_>, member: &Member, prior: f64) -> f64 {
    let waiting = (member.tokens() as f64 + deck.wish.tokens as f64) / deck.pool.size() + deck.faults(member);
    deck.ttft(member).unwrap_or(prior) * (1.0 + waiting) / deck.strength(member)
}

/// What a backend of which nothing is known is taken for: the other.
fn prior(deck: &Deck<'_>, one: usize, other: usize) -> f64 {
    let mean = |at| deck.at(at).and_then(|member| deck.ttft(member));
    mean(one).or_else(|| mean(other)).unwrap_or(1.0)
}

/// Two different ones at random; where few may be asked, all are gone through to find them.
fn two(deck: &Deck<'_>) -> Option<(usize, Option<usize>)> {
    let (all, mut first) = (deck.pool.members().len(), None);
    for _ in 0..DRAWS {
        let at = deck.pool.random.below(all);
        if deck.at(at).is_none() || first == Some(at) {
            continue;
        }
        match first {
            None => first = Some(at),
            Some(first) => return Some((first, Some(at))),
        }
    }
    let may: Vec<usize> = deck.all().map(|(at, _)| at).collect();
    let first = first.or_else(|| may.get(deck.pool.random.below(may.len())).copied())?;
    let others: Vec<usize> = may.into_iter().filter(|at| *at != first).collect();
    Some((first, others.get(deck.pool.random.below(others.len())).copied()))
}
