//! Load-balancing algorithms. Those that need more than a few lines have a file.

mod affinity;
pub(crate) mod least;
pub(crate) mod prefix;
pub(crate) mod turns;

use lens::Tick;

use crate::member::Member;
use crate::pool::{BalanceRequest, Pool, Reason, Selection};
use crate::settings::Balance;

/// Share of the pool's usual time to first token that is assumed for a backend without recent
/// measurements.
const UNMEASURED_TTFT_RATIO: f64 = 0.5;
/// Random pairs that are tried before all backends are scanned.
const DRAWS: usize = 8;
/// Maximum load of a preferred backend, relative to the mean (Mirrokni, Thorup and Zadimoghaddam,
/// 2016).
const BUSY: f64 = 1.25;

/// A pool during one selection.
#[derive(Clone, Copy)]
pub(crate) struct Candidates<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) request: &'a BalanceRequest<'a>,
    pub(crate) now: Tick,
    /// Backends in the gateway's zone, if only these are eligible. Empty: all are.
    pub(crate) near: &'a [bool],
    /// Panic mode: unhealthy backends are eligible too.
    pub(crate) is_panic: bool,
}

impl<'a> Candidates<'a> {
    /// The backend at an index, if it is eligible.
    pub(crate) fn at(&self, at: usize) -> Option<&'a Member> {
        let member = self.pool.members().get(at)?;
        if !self.near.get(at).copied().unwrap_or(true) {
            return None;
        }
        let may = match self.is_panic {
            // A backend in Retry-After backoff receives first attempts only.
            true => !self.request.is_another() || !member.health.is_in_backoff(self.now),
            false => member.health.is_available(self.now),
        };
        (may && !self.request.tried.contains(&at) && !self.request.unfit.contains(&at))
            .then_some(&**member)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &'a Member)> + '_ {
        (0..self.pool.members().len()).filter_map(|at| Some((at, self.at(at)?)))
    }

    /// The current estimate of a backend's time to first token. Old measurements decay towards a
    /// value below the pool's usual one, so that a recovered backend gets requests again, and one
    /// that no longer answers is not considered the fastest.
    pub(crate) fn ttft(&self, member: &Member) -> Option<f64> {
        let mean = member.ttft.mean()?;
        let sure = member.ttft.certainty(self.pool.decay(), self.now);
        Some(
            mean * sure
                + self.pool.usual_ttft().unwrap_or(mean) * UNMEASURED_TTFT_RATIO * (1.0 - sure),
        )
    }

    /// Recent failures and refusals. Each counts as a request of mean size in flight: a backend
    /// that fails immediately has no requests in flight, and would win every selection.
    pub(crate) fn faults(&self, member: &Member) -> f64 {
        member.faults.count(self.pool.decay(), self.now)
    }

    pub(crate) fn effective_weight(&self, member: &Member) -> f64 {
        member.effective_weight(self.pool.slow_start(), self.now)
    }

    /// Whether the weights of eligible backends differ, slow start included.
    fn weights_differ(&self) -> bool {
        if self.pool.all_weigh_the_same() && self.pool.slow_start() == 0 {
            return false;
        }
        let mut weights = self.all().map(|(_, member)| self.effective_weight(member));
        weights.next().is_some_and(|first| weights.any(|weight| weight != first))
    }

    /// Tokens in flight for each unit of weight if the load were equal, this request included.
    fn fair(&self) -> f64 {
        let busy =
            |member: &Member| member.tokens() as f64 + self.faults(member) * self.pool.size();
        let sum = |(tokens, effective_weight), (_, member): (usize, &Member)| {
            (tokens + busy(member), effective_weight + self.effective_weight(member))
        };
        let (tokens, effective_weight) = self.all().fold((0.0, 0.0), sum);
        (tokens + self.request.tokens as f64) / f64::max(effective_weight, f64::MIN_POSITIVE)
    }

    /// Returns a test for backends whose load is at most that many requests of mean size above
    /// their share.
    pub(crate) fn is_within_share(&self, slack: f64) -> impl Fn(&Member) -> bool + '_ {
        let (fair, size) = (self.fair(), self.pool.size());
        let spare = slack * size;
        move |member| {
            let faults = self.faults(member);
            let busy = member.tokens() as f64 + self.request.tokens as f64 + faults * size;
            // An idle backend is never too busy.
            member.tokens() == 0 && faults < 1.0
                || busy <= BUSY * fair * self.effective_weight(member) + spare
        }
    }
}

/// Select a backend by the pool's algorithm.
pub(crate) fn choose(candidates: &Candidates<'_>) -> Option<Selection> {
    let balanced = |at| Selection { at, reason: Reason::Balanced };
    match &candidates.pool.settings.balance {
        Balance::RoundRobin => turns::choose(candidates).map(balanced),
        Balance::Weighted => by_weight(candidates, None).map(balanced),
        Balance::LeastRequests => {
            let busy = |member: &Member| member.requests() as f64 + candidates.faults(member);
            least::by(candidates, 1.0, busy).map(balanced)
        }
        Balance::LeastTokens => {
            let size = candidates.pool.size();
            let busy = |member: &Member| member.tokens() as f64 + candidates.faults(member) * size;
            least::by(candidates, size, busy).map(balanced)
        }
        Balance::PeakEwma => least::of_two(candidates).map(balanced),
        Balance::Prefix => prefix::choose(candidates),
        Balance::Session(_) => affinity::choose(candidates, true),
        Balance::Hash(_) => affinity::choose(candidates, false),
    }
}

/// A random backend, by weight, other than `except`.
fn by_weight(candidates: &Candidates<'_>, except: Option<usize>) -> Option<usize> {
    let all = || candidates.all().filter(|(at, _)| Some(*at) != except);
    let total: f64 = all().map(|(_, member)| candidates.effective_weight(member)).sum();
    let mut draw = candidates.pool.random.share() * total;
    let drawn = all().find(|(_, member)| {
        draw -= candidates.effective_weight(member);
        draw < 0.0
    });
    drawn.or_else(|| all().last()).map(|(at, _)| at)
}
