//! A pool of backends that serve the same models.
//!
//! - *In*: what a request needs, the backends it tried, the time.
//! - *Out*: a backend, and the reason.
//! - *Never*: a lock; `None` while an untried backend fits: without a healthy one, unhealthy ones
//!   are eligible (panic mode).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use serde::Serialize;

use crate::balance::prefix::Prefixes;
use crate::balance::turns::Turns;
use crate::balance::{self, Candidates};
use crate::budget::Budget;
use crate::ewma::Mean;
use crate::health::{Cause, State, nanos};
use crate::member::{Attempt, AttemptResult, Change, Member};
use crate::predict::{Predicted, RequestSize};
use crate::random::Random;
use crate::settings::{Balance, PoolSettings};

/// Weight of a request in the mean of tokens.
const SIZE_SHARE: f64 = 0.05;
/// Weight of a first token in the mean of times.
const USUAL_SHARE: f64 = 0.05;
/// Minimum number of backends for `max_ttft_ratio`.
const MIN_BACKENDS: usize = 3;
/// Slow answers in a row that make a backend slow.
const SLOW: u64 = 3;

/// The pool.
#[derive(Debug)]
pub struct Pool {
    /// Its settings.
    pub settings: PoolSettings,
    members: Vec<Arc<Member>>,
    /// Durations of the settings in nanoseconds: selection reads them for each backend.
    slow_start: u64,
    decay: f64,
    same_weight: bool,
    /// Backends in the gateway's zone. Empty: no preference.
    near: Vec<bool>,
    pub(crate) random: Random,
    pub(crate) turns: Turns,
    pub(crate) prefixes: Prefixes,
    /// Mean tokens of a request.
    size: Mean,
    /// Mean time to first token of all backends, in nanoseconds.
    usual_ttft: Mean,
    /// Retry budget.
    pub retries: Arc<Budget>,
    /// Hedge budget.
    pub hedges: Arc<Budget>,
    has_fallback: AtomicBool,
    /// Time to first token in nanoseconds above which an answer is slow; 0: unknown.
    slow_from: AtomicU64,
}

/// What a request needs from a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct BalanceRequest<'a> {
    /// Estimated tokens.
    pub tokens: u64,
    /// Key of `session` and `hash`.
    pub key: Option<&'a [u8]>,
    /// Hashes of the prompt's blocks, each including all blocks before it:
    /// [`blocks`](crate::blocks).
    pub prefix: &'a [u64],
    /// Backends of this pool that were tried.
    pub tried: &'a [usize],
    /// Whether backends of another pool were tried.
    pub again: bool,
    /// Backends that cannot serve it.
    pub unfit: &'a [usize],
}

/// Why a backend was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is the only backend.
    Only,
    /// By the pool's algorithm.
    Balanced,
    /// It was sent the longest prefix of the prompt.
    Prefix,
    /// The request's key maps to it.
    Affinity,
    /// It is probed after an ejection.
    HalfOpen,
    /// Panic mode: no backend is healthy.
    Panic,
    /// No backend of the earlier pools is healthy, or can serve the request.
    Fallback,
}

impl Reason {
    /// Name in records and headers.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Only => "only",
            Reason::Balanced => "balanced",
            Reason::Prefix => "prefix",
            Reason::Affinity => "affinity",
            Reason::HalfOpen => "half_open",
            Reason::Panic => "panic",
            Reason::Fallback => "fallback",
        }
    }
}

/// A selected backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Its index in the pool.
    pub at: usize,
    /// The reason.
    pub reason: Reason,
}

impl BalanceRequest<'_> {
    /// Whether any backend was tried.
    pub(crate) fn is_another(&self) -> bool {
        self.again || !self.tried.is_empty()
    }
}

impl Pool {
    /// A pool. The same seed gives the same selections.
    pub fn new(settings: PoolSettings, members: Vec<Arc<Member>>, seed: u64) -> Self {
        let prefixes = Prefixes::new(settings.balance == Balance::Prefix);
        let random = Random::new(seed);
        let turns = Turns::new(members.iter().map(|member| member.weight));
        let same_weight = members
            .windows(2)
            .all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        let (size, usual_ttft, retries, hedges) =
            (Mean::default(), Mean::default(), Arc::default(), Arc::default());
        let (slow_start, decay) = (nanos(settings.slow_start), nanos(settings.decay) as f64);
        let (has_fallback, slow_from) = (AtomicBool::new(false), AtomicU64::new(0));
        Pool {
            settings,
            members,
            slow_start,
            decay,
            same_weight,
            near: Vec::new(),
            random,
            turns,
            prefixes,
            size,
            usual_ttft,
            retries,
            hedges,
            has_fallback,
            slow_from,
        }
    }

    /// Prefer the backends in the gateway's zone, as long as one of them is healthy and fits.
    #[must_use]
    pub fn preferring(mut self, near: Vec<bool>) -> Self {
        // If all or none are in the zone, there is no preference.
        self.near = if near.contains(&true) && near.contains(&false) { near } else { Vec::new() };
        self
    }

    /// Take over the prefix table and the budgets of the pool before a reload.
    #[must_use]
    pub fn after(mut self, before: &Pool) -> Self {
        let places = before
            .members
            .iter()
            .map(|known| self.members.iter().position(|member| member.name == known.name));
        self.prefixes = before.prefixes.moved(&places.collect::<Vec<_>>());
        (self.size, self.usual_ttft) = (before.size.clone(), before.usual_ttft.clone());
        self.slow_from = AtomicU64::new(before.slow_from.load(Ordering::Relaxed));
        (self.retries, self.hedges) = (before.retries.clone(), before.hedges.clone());
        self
    }

    /// Backends in the gateway's zone. Empty: no preference.
    pub fn near(&self) -> &[bool] {
        &self.near
    }

    /// Its backends.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    pub(crate) fn slow_start(&self) -> u64 {
        self.slow_start
    }

    pub(crate) fn decay(&self) -> f64 {
        self.decay
    }

    pub(crate) fn all_weigh_the_same(&self) -> bool {
        self.same_weight
    }

    /// Select a backend; `None`: no untried backend fits.
    pub fn choose(&self, request: &BalanceRequest<'_>, now: Tick) -> Option<Selection> {
        if let [only] = &*self.members {
            if !request.tried.is_empty() || !request.unfit.is_empty() {
                return None;
            }
            let reason = match () {
                () if only.health.is_available(now) => Reason::Only,
                () if !request.is_another() && only.health.may_probe(now) => Reason::HalfOpen,
                () => Reason::Panic,
            };
            return Some(Selection { at: 0, reason });
        }
        if let Some(at) = self.trial(request, now) {
            return Some(Selection { at, reason: Reason::HalfOpen });
        }
        let candidates = Candidates { pool: self, request, now, near: &self.near, is_panic: false };
        let near = if self.near.is_empty() { None } else { balance::choose(&candidates) };
        near.or_else(|| balance::choose(&Candidates { near: &[], ..candidates })).or_else(|| {
            // Panic mode: an attempt that may fail is better than none.
            let candidates = Candidates { near: &[], is_panic: true, ..candidates };
            balance::choose(&candidates).map(|choice| Selection { reason: Reason::Panic, ..choice })
        })
    }

    /// Record that a prompt with these blocks goes to a backend.
    pub fn remember(&self, prefix: &[u64], at: usize) {
        self.prefixes.remember(prefix, at);
    }

    /// Select the backend of a hedge, without effects: the better of two healthy ones; `None` if no
    /// other is available.
    pub fn select_hedge(&self, request: &BalanceRequest<'_>, now: Tick) -> Option<usize> {
        balance::least::of_two(&Candidates { pool: self, request, now, near: &[], is_panic: false })
    }

    /// A backend that this request may probe. Retries do not probe.
    fn trial(&self, request: &BalanceRequest<'_>, now: Tick) -> Option<usize> {
        if request.is_another() {
            return None;
        }
        let trying = |(_, member): &(usize, &Arc<Member>)| {
            !member.health.is_in_rotation() && member.health.state(now) == State::HalfOpen
        };
        let mut candidates = self
            .members
            .iter()
            .enumerate()
            .filter(trying)
            .filter(|(at, _)| !request.unfit.contains(at));
        candidates.find(|(_, member)| member.health.may_probe(now)).map(|(at, _)| at)
    }

    /// Start an attempt at a backend.
    pub fn begin(&self, at: usize, question: RequestSize) -> Option<Attempt> {
        // Requests that are passed through have no estimate.
        if question.tokens() > 0 {
            self.size.add(question.tokens() as f64, SIZE_SHARE);
        }
        self.members.get(at).map(|member| Attempt::begin(member, question))
    }

    /// What the pool offers for a request: its best backend that can serve it.
    pub fn tier_offer(
        &self,
        question: &RequestSize,
        unfit: &[usize],
        now: Tick,
    ) -> (bool, Option<Predicted>) {
        let well =
            || self.members.iter().enumerate().filter(|(at, _)| self.can_serve(*at, unfit, now));
        let best = well()
            .filter_map(|(_, member)| member.predict(question))
            .min_by(|one, other| one.ttft.total_cmp(&other.ttft));
        (well().next().is_some(), best)
    }

    /// Whether a backend can serve the request: it is healthy, or due for a probe. Without the
    /// probe, an ejected tier would stay ejected as long as the other tier serves all requests.
    pub fn can_serve(&self, at: usize, unfit: &[usize], now: Tick) -> bool {
        self.members.get(at).is_some_and(|member| {
            member.health.is_available(now) || member.health.is_probe_due(now)
        }) && !unfit.contains(&at)
    }

    /// Whether all backends that fit are out of rotation. A backend in backoff counts as in
    /// rotation, because it is back soon.
    pub fn has_failed(&self, unfit: &[usize], now: Tick) -> bool {
        let mut fit =
            self.members.iter().enumerate().filter(|(at, _)| !unfit.contains(at)).peekable();
        fit.peek().is_some()
            && fit.all(|(_, member)| {
                !matches!(member.health.state(now), State::Healthy | State::Backoff)
            })
    }

    /// Record the result of an attempt.
    pub fn end(&self, attempt: Attempt, ended: AttemptResult, now: Tick) -> Option<Change> {
        let member = attempt.member().clone();
        if matches!(ended, AttemptResult::Failure | AttemptResult::Overloaded) {
            member.faults.add(self.decay, now);
        }
        let change = attempt.end(
            ended,
            &self.settings.ejection,
            || self.is_backed() || self.allows_ejection(&member, now),
            now,
        )?;
        // A slow backend whose probe was slow as well stays ejected.
        if change == Change::Recovered
            && self
                .slow_at()
                .is_some_and(|limit| member.ttft.mean().is_some_and(|mean| mean > limit))
        {
            let span = self
                .allows_ejection(&member, now)
                .then(|| member.health.eject(Cause::Slow, &self.settings.ejection, now));
            return span.flatten().map(|span| Change::Ejected(Cause::Slow, span)).or(Some(change));
        }
        Some(change)
    }

    /// Time to first token in nanoseconds above which a backend is slow; `None`: too few backends
    /// have measurements.
    fn slow_at(&self) -> Option<f64> {
        let times = self.settings.ejection.max_ttft_ratio;
        let well = |member: &&Arc<Member>| member.health.is_in_rotation();
        let mut means: Vec<f64> =
            self.members.iter().filter(well).filter_map(|member| member.ttft.mean()).collect();
        if times <= 0.0 || means.len() < MIN_BACKENDS {
            return None;
        }
        means.sort_by(f64::total_cmp);
        means.get((means.len() - 1) / 2).map(|median| median * times)
    }

    /// Whether ejecting a backend keeps the pool within `max_ejected`. The last backend in rotation
    /// is never ejected. A backend in backoff counts as in rotation, because it is back soon.
    fn allows_ejection(&self, without: &Member, now: Tick) -> bool {
        let others = || {
            self.members
                .iter()
                .filter(|member| !std::ptr::eq(&***member, without))
                .map(|member| member.health.state(now))
        };
        let out_of_rotation =
            others().filter(|state| !matches!(state, State::Healthy | State::Backoff)).count() + 1;
        let one_stays = others().any(|state| matches!(state, State::Healthy | State::Backoff));
        one_stays
            && out_of_rotation as f64
                <= (self.members.len() as f64 * self.settings.ejection.max_ejected).max(1.0)
    }

    /// Set whether a fallback pool exists. With one, failing backends are ejected beyond
    /// `max_ejected`, because each request would try them before the fallback. For slow backends,
    /// `max_ejected` still applies.
    pub fn set_has_fallback(&self, has_fallback: bool) {
        self.has_fallback.store(has_fallback, Ordering::Relaxed);
    }

    fn is_backed(&self) -> bool {
        self.has_fallback.load(Ordering::Relaxed)
    }

    /// Record the time to first token of an attempt.
    pub fn first_token(&self, attempt: &Attempt, took: Duration, now: Tick) {
        attempt.first_token(took, self.settings.decay, now);
        self.usual_ttft.add(nanos(took) as f64, USUAL_SHARE);
        let limit = self.slow_from.load(Ordering::Relaxed);
        if limit > 0 {
            attempt.member().count_slow(took.as_nanos() > u128::from(limit));
        }
    }

    /// Mean time to first token in nanoseconds; `None`: unknown.
    pub(crate) fn usual_ttft(&self) -> Option<f64> {
        self.usual_ttft.mean()
    }

    /// Mean tokens of a request.
    pub(crate) fn size(&self) -> f64 {
        self.size.mean().unwrap_or(1.0).max(1.0)
    }

    /// One second has passed: eject slow backends. Returns state changes by index.
    pub fn tick(&self, now: Tick) -> Vec<(usize, Change)> {
        let limit = self.slow_at();
        self.slow_from.store(limit.unwrap_or(0.0) as u64, Ordering::Relaxed);
        let Some(limit) = limit else { return Vec::new() };
        // A single long prompt does not make a backend slow.
        let slow = |member: &Member| {
            member.health.is_in_rotation()
                && member.slow_in_a_row() >= SLOW
                && member.ttft.mean().is_some_and(|mean| mean > limit)
        };
        let eject = |(at, member): (usize, &Arc<Member>)| {
            let out = slow(member) && self.allows_ejection(member, now);
            let span =
                out.then(|| member.health.eject(Cause::Slow, &self.settings.ejection, now))??;
            Some((at, Change::Ejected(Cause::Slow, span)))
        };
        self.members.iter().enumerate().filter_map(eject).collect()
    }

    /// Prompt blocks looked up, and those found.
    pub fn prefix_blocks(&self) -> (u64, u64) {
        self.prefixes.counts()
    }
}

impl Observe for Pool {
    /// The pool's own samples, then those of its backends, which have one more label.
    fn observe(&self, now: Tick, samples: &mut Samples) {
        let name: &str = &self.settings.name;
        let (looked, found) = self.prefix_blocks();
        samples.with_labels(&[("pool", name), ("tier", &self.settings.tier)], |samples| {
            samples.counts(&[
                ("llm_lens_prefix_blocks_total", looked),
                ("llm_lens_prefix_block_hits_total", found),
            ]);
        });
        for member in self.members() {
            samples.with_labels(&[("pool", name), ("backend", &member.name)], |samples| {
                member.observe(now, samples)
            });
        }
    }
}

#[cfg(test)]
mod tests;
