//! Selects the least loaded backend, of all or of two random ones.
//!
//! Two random choices are almost as good as all, and do not send every request to the same backend
//! between two updates (Mitzenmacher, 2001).

use super::{Candidates, DRAWS};
use crate::member::Member;
use crate::random::mix;

/// The backend with the lowest load for its weight. Ties are broken at random.
pub(super) fn by(candidates: &Candidates<'_>, busy: impl Fn(&Member) -> f64) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    let (mut equals, mut draw) = (0, candidates.pool.random.next());
    for (at, member) in candidates.all() {
        let cost = (busy(member) + 1.0) / candidates.effective_weight(member);
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

/// The better of two random backends.
pub(crate) fn of_two(candidates: &Candidates<'_>) -> Option<usize> {
    let (one, other) = two(candidates)?;
    let Some(other) = other else { return Some(one) };
    let prior = prior(candidates, one, other);
    let cost =
        |at| candidates.at(at).map_or(f64::INFINITY, |member| cost(candidates, member, prior));
    Some(if cost(other) < cost(one) { other } else { one })
}

/// Cost of a backend: its time to first token times the requests in flight, in requests of mean
/// size, plus this one.
fn cost(candidates: &Candidates<'_>, member: &Member, prior: f64) -> f64 {
    let waiting = (member.tokens() as f64 + candidates.request.tokens as f64)
        / candidates.pool.size()
        + candidates.faults(member);
    candidates.ttft(member).unwrap_or(prior) * (1.0 + waiting) / candidates.effective_weight(member)
}

/// A backend without measurements is assumed to equal the other one.
fn prior(candidates: &Candidates<'_>, one: usize, other: usize) -> f64 {
    let mean = |at| candidates.at(at).and_then(|member| candidates.ttft(member));
    mean(one).or_else(|| mean(other)).unwrap_or(1.0)
}

/// Two different random backends. If few are eligible, all are scanned to find them.
fn two(candidates: &Candidates<'_>) -> Option<(usize, Option<usize>)> {
    let (all, mut first) = (candidates.pool.members().len(), None);
    for _ in 0..DRAWS {
        let at = candidates.pool.random.below(all);
        if candidates.at(at).is_none() || first == Some(at) {
            continue;
        }
        match first {
            None => first = Some(at),
            Some(first) => return Some((first, Some(at))),
        }
    }
    let may: Vec<usize> = candidates.all().map(|(at, _)| at).collect();
    let first = first.or_else(|| may.get(candidates.pool.random.below(may.len())).copied())?;
    let others: Vec<usize> = may.into_iter().filter(|at| *at != first).collect();
    Some((first, others.get(candidates.pool.random.below(others.len())).copied()))
}
