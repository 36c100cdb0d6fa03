//! A backend as pools see it: its load, its speed, its health.
//!
//! - *In*: attempts and their results.
//! - *Out*: figures for selection.
//! - *Never*: a lock; a figure that depends on the caller. All pools with a backend share its
//!   member, and it survives reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine_metrics::{EngineMetrics, ScrapedMetrics};
use crate::ewma::{DecayingCount, Mean, PeakEwma};
use crate::health::{Cause, Health, State, nanos};
use crate::predict::{AnswerTimes, Load, MedianErrors, Predicted, Predictor, RequestSize};
use crate::settings::Ejection;
use crate::tail::Tail;

/// Share of its weight that a backend has at the start of slow start.
const FIRST_SHARE: f64 = 0.1;
/// Weight of a new sample in the mean time to connect.
const RTT_SHARE: f64 = 0.2;

/// A backend.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// Weight in selection.
    pub weight: u32,
    /// Hash of its name.
    pub(crate) draw: u64,
    pub(crate) health: Health,
    pub(crate) ttft: PeakEwma,
    /// Recent failures and refusals.
    pub(crate) faults: DecayingCount,
    pub(crate) tail: Tail,
    rtt: Mean,
    connected_at: AtomicU64,
    slow_in_a_row: AtomicU64,
    predictor: Predictor,
    /// Last scraped engine metrics. Selection never waits for this lock.
    heard: Mutex<Option<ScrapedMetrics>>,
    requests: AtomicU64,
    tokens: AtomicU64,
    /// Start of its time in rotation: creation, or the end of an ejection.
    since: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Result of an attempt, for the backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The backend answered. Errors that are the client's fault count as success.
    Success,
    /// No connection, no answer or an invalid one, a server error, or a timeout.
    Failure,
    /// 429: overloaded, not unhealthy. Retry elsewhere.
    Overloaded,
    /// No conclusion: the client left, a hedge won, or the gateway ended it.
    Unknown,
}

/// A state change of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ejected for that long.
    Ejected(Cause, Duration),
    /// Healthy again.
    Recovered,
}

impl Member {
    /// A backend that is in rotation from `now`.
    pub fn new(name: Arc<str>, weight: u32, now: Tick) -> Self {
        Member {
            draw: xxh3_64_with_seed(name.as_bytes(), 1),
            name,
            weight: weight.max(1),
            health: Health::default(),
            ttft: PeakEwma::default(),
            faults: DecayingCount::default(),
            tail: Tail::default(),
            rtt: Mean::default(),
            connected_at: AtomicU64::new(0),
            slow_in_a_row: AtomicU64::new(0),
            predictor: Predictor::default(),
            heard: Mutex::new(None),
            requests: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            since: AtomicU64::new(now.0),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// One second has passed. Called once for each backend.
    pub fn tick(&self) {
        self.tail.tick();
    }

    /// Its health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Requests in flight.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Estimated tokens in flight.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Attempts and failed attempts.
    pub fn totals(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Time to first token as selection sees it; `None`: unknown.
    pub fn ttft(&self) -> Option<Duration> {
        self.ttft.mean().map(|mean| Duration::from_nanos(mean as u64))
    }

    /// The 95th percentile of its time to first token.
    pub fn p95(&self) -> Option<Duration> {
        self.tail.p95().map(Duration::from_nanos)
    }

    /// Round trip, measured by connecting.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt.mean().map(|mean| Duration::from_nanos(mean as u64))
    }

    /// Record the time that a connection took.
    pub fn connected(&self, took: Duration, now: Tick) {
        self.rtt.add(nanos(took) as f64, RTT_SHARE);
        self.predictor.round_trip(took);
        self.connected_at.store(now.0, Ordering::Relaxed);
    }

    /// Time since the round trip was measured; `None`: never.
    pub fn measured_ago(&self, now: Tick) -> Option<Duration> {
        let at = self.connected_at.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(now.0.saturating_sub(at)))
    }

    /// Record scraped engine metrics, which are valid for that long.
    pub fn record_engine_metrics(&self, engine_metrics: EngineMetrics, fresh: Duration, now: Tick) {
        *self.heard.lock() = Some(ScrapedMetrics { engine_metrics, at: now, fresh: nanos(fresh) });
    }

    /// Engine metrics; `None`: none, or too old.
    pub fn engine_metrics(&self, now: Tick) -> Option<EngineMetrics> {
        let heard = (*self.heard.try_lock()?)?;
        (now.0.saturating_sub(heard.at.0) <= heard.fresh).then_some(heard.engine_metrics)
    }

    /// Record whether an answer was much slower than the pool's others.
    pub(crate) fn count_slow(&self, slow: bool) {
        if slow {
            self.slow_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else {
            self.slow_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn slow_in_a_row(&self) -> u64 {
        self.slow_in_a_row.load(Ordering::Relaxed)
    }

    /// Current load.
    pub fn busy(&self) -> Load {
        Load { requests: self.requests(), tokens: self.tokens() }
    }

    /// Predicted times of a request; `None`: too few measurements.
    pub fn predict(&self, question: &RequestSize) -> Option<Predicted> {
        self.predictor.predict(question, &self.busy())
    }

    /// Errors of predictions.
    pub fn prediction_errors(&self) -> MedianErrors {
        self.predictor.median_errors()
    }

    /// Current share, up to 1: lower during slow start, which takes that many nanoseconds.
    pub(crate) fn share(&self, slow_start: u64, now: Tick) -> f64 {
        let age = now.0.saturating_sub(self.since.load(Ordering::Relaxed));
        if age >= slow_start { 1.0 } else { (age as f64 / slow_start as f64).max(FIRST_SHARE) }
    }

    /// Weight times share.
    pub(crate) fn effective_weight(&self, slow_start: u64, now: Tick) -> f64 {
        f64::from(self.weight) * self.share(slow_start, now)
    }

    /// It is in rotation again.
    pub(crate) fn recovered(&self, now: Tick) {
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// Record the result of a health check. Returns true if the state changes.
    pub fn checked(&self, well: bool, checks: &crate::settings::Checks, now: Tick) -> bool {
        let changed = self.health.checked(well, checks);
        if changed && well {
            self.recovered(now);
        }
        changed
    }
}

/// A request at a backend. If it is dropped without a result, the result is unknown.
#[derive(Debug)]
pub struct Attempt {
    member: Arc<Member>,
    question: RequestSize,
    /// Load of the backend at the start, and the prediction made then.
    busy: Load,
    predicted: Option<Predicted>,
    over: bool,
}

impl Attempt {
    /// Start an attempt.
    pub fn begin(member: &Arc<Member>, question: RequestSize) -> Self {
        let (busy, predicted) = (member.busy(), member.predict(&question));
        member.asked.fetch_add(1, Ordering::Relaxed);
        member.requests.fetch_add(1, Ordering::Relaxed);
        member.tokens.fetch_add(question.tokens(), Ordering::Relaxed);
        Attempt { member: member.clone(), question, busy, predicted, over: false }
    }

    /// The prediction made at the start.
    pub fn predicted(&self) -> Option<Predicted> {
        self.predicted
    }

    /// The backend.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Record the time from the request sent to the first token.
    pub fn first_token(&self, took: Duration, forget: Duration, now: Tick) {
        self.member.ttft.add(nanos(took), nanos(forget) as f64, now);
        self.member.tail.add(nanos(took));
        self.member.predictor.learn_first(
            &self.question,
            &self.busy,
            self.predicted.as_ref(),
            took,
        );
    }

    /// Record the end of a complete answer, and how long it took.
    pub fn paced(&self, pace: &AnswerTimes) {
        self.member.predictor.learn_each(&self.busy, self.predicted.as_ref(), pace);
    }

    /// Record the result. Returns the state change of the backend, if any. `may_eject`: whether an
    /// ejection keeps the pool within `max_ejected`.
    pub fn end(
        mut self,
        ended: AttemptResult,
        ejection: &Ejection,
        may_eject: impl FnOnce() -> bool,
        now: Tick,
    ) -> Option<Change> {
        self.leave();
        match ended {
            AttemptResult::Success => self.member.health.succeeded(now).then(|| {
                self.member.recovered(now);
                Change::Recovered
            }),
            AttemptResult::Failure => {
                self.member.failed.fetch_add(1, Ordering::Relaxed);
                let cause = self.member.health.failed(ejection, now)?;
                let span =
                    may_eject().then(|| self.member.health.eject(cause, ejection, now))??;
                Some(Change::Ejected(cause, span))
            }
            AttemptResult::Overloaded => {
                self.member.health.probe_answered();
                None
            }
            AttemptResult::Unknown => None,
        }
    }

    /// The request no longer counts as in flight at the backend.
    pub fn leave(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.member.requests.fetch_sub(1, Ordering::Relaxed);
            self.member.tokens.fetch_sub(self.question.tokens(), Ordering::Relaxed);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Observe for Member {
    fn observe(&self, now: Tick, samples: &mut Samples) {
        let (asked, failed) = self.totals();
        samples.counts(&[
            ("llm_lens_backend_attempts_total", asked),
            ("llm_lens_backend_failures_total", failed),
            ("llm_lens_backend_ejections_total", self.health().ejections()),
            ("llm_lens_backend_in_flight", self.requests()),
            ("llm_lens_backend_tokens_in_flight", self.tokens()),
        ]);
        let errors = self.prediction_errors();
        for (target, error) in [("ttft", errors.ttft), ("completion", errors.completion)] {
            error.into_iter().for_each(|error| {
                samples.push_with("llm_lens_prediction_error_ratio", ("target", target), error)
            });
        }
        let engine_metrics = self.engine_metrics(now).unwrap_or_default();
        for (name, value) in [
            ("llm_lens_engine_running", engine_metrics.running),
            ("llm_lens_engine_waiting", engine_metrics.waiting),
            ("llm_lens_engine_cache_ratio", engine_metrics.cache),
        ] {
            value.into_iter().for_each(|value| samples.push(name, value));
        }
        let state = self.health().state(now);
        for known in State::ALL {
            samples.push_with(
                "llm_lens_backend_state",
                ("state", known.name()),
                f64::from(u8::from(known == state)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_counts_return_to_zero_for_every_result() {
        let member = Arc::new(Member::new("a".into(), 1, Tick(0)));
        let attempts: Vec<Attempt> = (0..3)
            .map(|n| Attempt::begin(&member, RequestSize { prompt: 10 * n, output: 0 }))
            .collect();
        assert_eq!((member.requests(), member.tokens()), (3, 30));
        let ejection = Ejection { consecutive: 1, ..Ejection::default() };
        let mut attempts = attempts.into_iter();
        let change =
            attempts.next().unwrap().end(AttemptResult::Failure, &ejection, || true, Tick(1));
        assert_eq!(change, Some(Change::Ejected(Cause::Consecutive, Duration::from_secs(5))));
        assert_eq!(
            attempts.next().unwrap().end(AttemptResult::Unknown, &ejection, || true, Tick(1)),
            None
        );
        drop(attempts);
        assert_eq!((member.requests(), member.tokens(), member.totals()), (0, 0, (3, 1)));
    }

    #[test]
    fn new_backend_has_a_growing_share() {
        let member = Member::new("a".into(), 4, Tick(0));
        let share =
            |seconds: u64| member.effective_weight(10_000_000_000, Tick(seconds * 1_000_000_000));
        assert_eq!([share(0), share(5), share(10), share(100)], [0.4, 2.0, 4.0, 4.0]);
        assert_eq!(member.effective_weight(0, Tick(0)), 4.0);
    }
}
