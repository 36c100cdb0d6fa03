//! Backends that can stand in for each other.
//!
//! - *In*: what a request needs and has tried already, the time.
//! - *Out*: one of them, and why that one.
//! - *Never*: none while there is one that fits: when nobody is well, all are asked. A lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use serde::Serialize;

use crate::balance::prefix::Prefixes;
use crate::balance::{self, Deck};
use crate::budget::Budget;
use crate::ewma::Mean;
use crate::health::{Cause, State, nanos};
use crate::member::{Attempt, AttemptResult, Change, Member};
use crate::predict::{Predicted, Question};
use crate::random::Random;
use crate::settings::{Balance, PoolSettings};

/// How much a request moves the mean of their tokens.
const SIZE_SHARE: f64 = 0.05;
/// How much a first token moves the mean of their times.
const USUAL_SHARE: f64 = 0.05;
/// Backends below which nobody is told to be slower than the others.
const FEWEST: usize = 3;
/// Answers in a row that are much slower than the others' make a backend that is.
const SLOW: u64 = 3;

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// What the operator wants.
    pub settings: PoolSettings,
    members: Vec<Arc<Member>>,
    /// Of the settings, nanoseconds: they are looked at for each backend of each choice.
    slow_start: u64,
    forget: f64,
    same_weight: bool,
    /// Who is near; empty: nobody is nearer than others.
    near: Vec<bool>,
    pub(crate) random: Random,
    pub(crate) cursor: AtomicU64,
    pub(crate) prefixes: Prefixes,
    /// Tokens of a request.
    size: Mean,
    /// The time to first token of all its backends, nanoseconds.
    usual_ttft: Mean,
    /// Requests and retries.
    pub retries: Arc<Budget>,
    /// Requests and hedges.
    pub hedges: Arc<Budget>,
    backed: AtomicBool,
    /// The time to first token, nanoseconds, from which on an answer is much slower than those of the others; 0: not known.
    slow_from: AtomicU64,
}

/// What a request wants of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// What it is thought to use.
    pub tokens: u64,
    /// What it is to be sent to the same backend by.
    pub key: Option<&'a [u8]>,
    /// The hashes of its prompt's blocks, each of all before it: [`blocks`](crate::blocks).
    pub prefix: &'a [u64],
    /// Backends that it has been asked of.
    pub tried: &'a [usize],
    /// It has been asked of others, in another pool.
    pub again: bool,
    /// Backends that cannot serve it.
    pub unfit: &'a [usize],
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no other.
    Only,
    /// By the pool's rule.
    Balanced,
    /// It has seen the beginning of the prompt.
    Prefix,
    /// It is where this key goes.
    Affinity,
    /// It was ejected, and is tried.
    Trial,
    /// Nobody is well.
    NobodyWell,
    /// Nobody is well, or can serve it, in the pools before its own.
    Fallback,
}

impl Reason {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Only => "only",
            Reason::Balanced => "balanced",
            Reason::Prefix => "prefix",
            Reason::Affinity => "affinity",
            Reason::Trial => "trial",
            Reason::NobodyWell => "nobody_well",
            Reason::Fallback => "fallback",
        }
    }
}

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which backend, by its place in the pool.
    pub at: usize,
    /// Why.
    pub reason: Reason,
}

impl Wish<'_> {
    /// Whether it has been asked of somebody.
    pub(crate) fn is_another(&self) -> bool {
        self.again || !self.tried.is_empty()
    }
}

impl Pool {
    /// A pool. The same seed gives the same choices.
    pub fn new(settings: PoolSettings, members: Vec<Arc<Member>>, seed: u64) -> Self {
        let prefixes = Prefixes::new(settings.balance == Balance::Prefix);
        let (random, cursor) = (Random::new(seed), AtomicU64::new(0));
        let same_weight = members.windows(2).all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        let (size, usual_ttft, retries, hedges) = (Mean::default(), Mean::default(), Arc::default(), Arc::default());
        let (slow_start, forget) = (nanos(settings.slow_start), nanos(settings.forget) as f64);
        let (backed, slow_from) = (AtomicBool::new(false), AtomicU64::new(0));
        Pool {
            settings,
            members,
            slow_start,
            forget,
            same_weight,
            near: Vec::new(),
            random,
            cursor,
            prefixes,
            size,
            usual_ttft,
            retries,
            hedges,
            backed,
            slow_from,
        }
    }

    /// The same where some are nearer than others: these are asked as long as one of them is well, and fits.
    #[must_use]
    pub fn preferring(mut self, near: Vec<bool>) -> Self {
        // Where all are near, or none, nobody is nearer.
        self.near = if near.contains(&true) && near.contains(&false) { near } else { Vec::new() };
        self
    }

    /// The same with what another has learnt of prompts, and has spent: it had the same settings and other backends.
    #[must_use]
    pub fn after(mut self, before: &Pool) -> Self {
        let places = before.members.iter().map(|known| self.members.iter().position(|member| member.name == known.name));
        self.prefixes = before.prefixes.moved(&places.collect::<Vec<_>>());
        (self.size, self.usual_ttft) = (before.size.clone(), before.usual_ttft.clone());
        self.slow_from = AtomicU64::new(before.slow_from.load(Ordering::Relaxed));
        (self.retries, self.hedges) = (before.retries.clone(), before.hedges.clone());
        self
    }

    /// Who is near; empty: nobody is nearer than others.
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

    pub(crate) fn forget(&self) -> f64 {
        self.forget
    }

    pub(crate) fn all_weigh_the_same(&self) -> bool {
        self.same_weight
    }

    /// Choose a backend; `None`: there is none that fits and was not tried.
    pub fn choose(&self, wish: &Wish<'_>, now: Tick) -> Option<Choice> {
        if let [only] = &*self.members {
            if !wish.tried.is_empty() || !wish.unfit.is_empty() {
                return None;
            }
            let reason = match () {
                () if only.health.may_be_asked(now) => Reason::Only,
                () if !wish.is_another() && only.health.may_try(now) => Reason::Trial,
                () => Reason::NobodyWell,
            };
            return Some(Choice { at: 0, reason });
        }
        if let Some(at) = self.trial(wish, now) {
            return Some(Choice { at, reason: Reason::Trial });
        }
        let deck = Deck { pool: self, wish, now, near: &self.near, everybody: false };
        let near = if self.near.is_empty() { None } else { balance::choose(&deck) };
        near.or_else(|| balance::choose(&Deck { near: &[], ..deck })).or_else(|| {
            // Nobody is well: an answer that may fail is better than none.
            let deck = Deck { near: &[], everybody: true, ..deck };
            balance::choose(&deck).map(|choice| Choice { reason: Reason::NobodyWell, ..choice })
        })
    }

    /// A request with that beginning goes to a backend.
    pub fn remember(&self, prefix: &[u64], at: usize) {
        self.prefixes.remember(prefix, at);
    }

    /// Choose another for a request that is late, without a memory of it: the better of two that are well. `None`: there is none.
    pub fn choose_other(&self, wish: &Wish<'_>, now: Tick) -> Option<usize> {
        balance::least::of_two(&Deck { pool: self, wish, now, near: &[], everybody: false })
    }

    /// Somebody who may be tried now. Requests that have been tried elsewhere already are spared that.
    fn trial(&self, wish: &Wish<'_>, now: Tick) -> Option<usize> {
        if wish.is_another() {
            return None;
        }
        let trying = |(_, member): &(usize, &Arc<Member>)| !member.health.is_up() && member.health.state(now) == State::Trying;
        let mut candidates = self.members.iter().enumerate().filter(trying).filter(|(at, _)| !wish.unfit.contains(at));
        candidates.find(|(_, member)| member.health.may_try(now)).map(|(at, _)| at)
    }

    /// Begin to ask a backend.
    pub fn begin(&self, at: usize, question: Question) -> Option<Attempt> {
        // Of what passes through unread nothing is known.
        if question.tokens() > 0 {
            self.size.add(question.tokens() as f64, SIZE_SHARE);
        }
        self.members.get(at).map(|member| Attempt::begin(member, question))
    }

    /// What the pool offers for a request: the best of those that are well.
    pub fn outlook(&self, question: &Question, unfit: &[usize], now: Tick) -> (bool, Option<Predicted>) {
        let well = || self.members.iter().enumerate().filter(|(at, _)| self.may_take(*at, unfit, now));
        let best = well().filter_map(|(_, member)| member.predict(question)).min_by(|one, other| one.ttft.total_cmp(&other.ttft));
        (well().next().is_some(), best)
    }

    /// Whether a backend is well, and none of those that cannot serve the request.
    pub fn may_take(&self, at: usize, unfit: &[usize], now: Tick) -> bool {
        self.members.get(at).is_some_and(|member| member.health.may_be_asked(now)) && !unfit.contains(&at)
    }

    /// Whether all that could be asked have failed: who rests has not, and is back soon.
    pub fn is_ill(&self, unfit: &[usize], now: Tick) -> bool {
        let mut fit = self.members.iter().enumerate().filter(|(at, _)| !unfit.contains(at)).peekable();
        fit.peek().is_some() && fit.all(|(_, member)| !matches!(member.health.state(now), State::Up | State::Resting))
    }

    /// An attempt is over.
    pub fn end(&self, attempt: Attempt, ended: AttemptResult, now: Tick) -> Option<Change> {
        let member = attempt.member().clone();
        if matches!(ended, AttemptResult::Failure | AttemptResult::Overloaded) {
            member.faults.add(self.forget, now);
        }
        let change = attempt.end(ended, &self.settings.ejection, || self.is_backed() || self.bears(&member, now), now)?;
        // Who was too slow, was tried, and is it still, is not well.
        if change == Change::Recovered && self.slow_at().is_some_and(|limit| member.ttft.mean().is_some_and(|mean| mean > limit)) {
            let span = self.bears(&member, now).then(|| member.health.eject(Cause::Slow, &self.settings.ejection, now));
            return span.flatten().map(|span| Change::Ejected(Cause::Slow, span)).or(Some(change));
        }
        Some(change)
    }

    /// The time to first token, nanoseconds, from which on a backend is much slower than the others; `None`: too few are known.
    fn slow_at(&self) -> Option<f64> {
        let times = self.settings.ejection.slower_than;
        let well = |member: &&Arc<Member>| member.health.is_up();
        let mut means: Vec<f64> = self.members.iter().filter(well).filter_map(|member| member.ttft.mean()).collect();
        if times <= 0.0 || means.len() < FEWEST {
            return None;
        }
        means.sort_by(f64::total_cmp);
        means.get((means.len() - 1) / 2).map(|median| median * times)
    }

    /// Whether the pool bears to miss a backend, besides those that it misses already. The last one that may be asked it never does; who rests is back soon, and no
    /// reason to ask one that fails.
    fn bears(&self, without: &Member, now: Tick) -> bool {
        let others = || self.members.iter().filter(|member| !std::ptr::eq(&***member, without)).map(|member| member.health.state(now));
        let left_alone = others().filter(|state| !matches!(state, State::Up | State::Resting)).count() + 1;
        let somebody_stays = others().any(|state| matches!(state, State::Up | State::Resting));
        somebody_stays && left_alone as f64 <= (self.members.len() as f64 * self.settings.ejection.most).max(1.0)
    }

    /// Whether requests have somewhere else to go when nobody here is well. Then all that fail are left alone, whatever their share: until they are, each request
    /// would find out for itself. Those that are only slow are not.
    pub fn set_backed(&self, backed: bool) {
        self.backed.store(backed, Ordering::Relaxed);
    }

    fn is_backed(&self) -> bool {
        self.backed.load(Ordering::Relaxed)
    }

    /// The first token of an attempt was read so long after its request was sent.
    pub fn first_token(&self, attempt: &Attempt, took: Duration, now: Tick) {
        attempt.first_token(took, self.settings.forget, now);
        self.usual_ttft.add(nanos(took) as f64, USUAL_SHARE);
        let limit = self.slow_from.load(Ordering::Relaxed);
        if limit > 0 {
            attempt.member().count_slow(took.as_nanos() > u128::from(limit));
        }
    }

    /// The usual time to first token, nanoseconds; `None`: not known.
    pub(crate) fn usual_ttft(&self) -> Option<f64> {
        self.usual_ttft.mean()
    }

    /// Tokens of a request in the mean.
    pub(crate) fn size(&self) -> f64 {
        self.size.mean().unwrap_or(1.0).max(1.0)
    }

    /// A second has passed: who is much slower than the others is left alone. What has changed, by place.
    pub fn tick(&self, now: Tick) -> Vec<(usize, Change)> {
        let limit = self.slow_at();
        self.slow_from.store(limit.unwrap_or(0.0) as u64, Ordering::Relaxed);
        let Some(limit) = limit else { return Vec::new() };
        // One long prompt makes nobody slow.
        let slow = |member: &Member| {
            member.health.is_up() && member.slow_in_a_row() >= SLOW && member.ttft.mean().is_some_and(|mean| mean > limit)
        };
        let eject = |(at, member): (usize, &Arc<Member>)| {
            let out = slow(member) && self.bears(member, now);
            let span = out.then(|| member.health.eject(Cause::Slow, &self.settings.ejection, now))??;
            Some((at, Change::Ejected(Cause::Slow, span)))
        };
        self.members.iter().enumerate().filter_map(eject).collect()
    }

    /// Prompts' blocks that were looked for, and those that somebody had seen.
    pub fn prefix_blocks(&self) -> (u64, u64) {
        self.prefixes.counts()
    }

    /// The next of a circle.
    pub(crate) fn turn(&self) -> usize {
        self.cursor.fetch_add(1, Ordering::Relaxed) as usize
    }
}

impl Observe for Pool {
    /// Its own figures, then those of its backends, which have other labels.
    fn observe(&self, now: Tick, samples: &mut Samples) {
        let name: &str = &self.settings.name;
        let (looked, found) = self.prefix_blocks();
        samples.under(&[("pool", name), ("tier", &self.settings.tier)], |samples| {
            samples.counts(&[("llm_lens_prefix_blocks_total", looked), ("llm_lens_prefix_block_hits_total", found)]);
        });
        for member in self.members() {
            samples.under(&[("pool", name), ("backend", &member.name)], |samples| member.observe(now, samples));
        }
    }
}

#[cfg(test)]
mod tests;
