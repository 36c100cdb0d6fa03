//! Selects the least loaded backend, of all or of two random ones.
//!
//! Two random choices are almost as good as all, and do not send every request to the same backend
//! between two updates (Mitzenmacher, 2001).
//!
//! If weights differ, comparing the load for each unit of weight would never select a light backend
//! of an idle pool. Then chance decides by weight, as long as load does not.

use super::{Candidates, DRAWS, by_weight};
use crate::member::Member;
use crate::random::mix;

/// If weights differ, costs within this ratio count as equal.
const SIMILAR: f64 = 1.25;

/// The backend with the lowest load for its weight. Ties are broken at random. `request`: the load
/// of one request.
pub(super) fn by(
    candidates: &Candidates<'_>,
    request: f64,
    busy: impl Fn(&Member) -> f64,
) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    let (mut equals, mut draw) = (0, candidates.pool.random.next());
    let differ = candidates.weights_differ();
    for (at, member) in candidates.all() {
        // The lowest of exponential variables that are divided by weights is distributed by weight.
        let own = if differ { -(1.0 - candidates.pool.random.share()).ln() } else { 1.0 };
        let cost = (busy(member) + own * request) / candidates.effective_weight(member);
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
    let differ = candidates.weights_differ();
    let (one, other) = if differ {
        let one = by_weight(candidates, None)?;
        (one, by_weight(candidates, Some(one)))
    } else {
        two(candidates)?
    };
    let Some(other) = other else { return Some(one) };
    let prior = prior(candidates, one, other);
    let mean_weight = differ.then(|| mean_weight(candidates));
    let cost = |at| {
        candidates.at(at).map_or(f64::INFINITY, |member| {
            let weight = mean_weight.map_or(1.0, |mean| candidates.effective_weight(member) / mean);
            cost(candidates, member, prior, weight)
        })
    };
    // The first one was drawn by weight.
    let similar = if differ { SIMILAR } else { 1.0 };
    Some(if cost(other) * similar < cost(one) { other } else { one })
}

/// Cost of a backend: its time to first token times the requests in flight for its weight, in
/// requests of mean size, plus this one.
fn cost(candidates: &Candidates<'_>, member: &Member, prior: f64, weight: f64) -> f64 {
    let size = candidates.pool.size();
    let waiting = member.tokens() as f64 / size + candidates.faults(member);
    let own = candidates.request.tokens as f64 / size;
    candidates.ttft(member).unwrap_or(prior) * (1.0 + own + waiting / weight)
}

/// Mean weight of eligible backends.
fn mean_weight(candidates: &Candidates<'_>) -> f64 {
    let (count, sum) = candidates.all().fold((0.0, 0.0), |(count, sum), (_, member)| {
        (count + 1.0, sum + candidates.effective_weight(member))
    });
    if count > 0.0 { sum / count } else { 1.0 }
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
