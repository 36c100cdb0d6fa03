//! Health of a backend.
//!
//! - *In*: results of attempts and of health checks, the time.
//! - *Out*: whether the backend is in rotation; state changes and their cause.
//! - *Never*: a lock on the request path. Client mistakes and clients that leave are no failures of
//!   a backend.
//!
//! A failing backend is ejected for a time that doubles with each ejection that follows soon. Then
//! one request a second may probe it (half-open) until one succeeds. Active checks make it
//! unhealthy and healthy independently.

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use serde::Serialize;

use crate::settings::{Checks, Ejection};
use crate::window::Window;

/// Time between two probes of an ejected backend. It doubles for each probe without a result.
const PROBE_INTERVAL_NANOS: u64 = 1_000_000_000;
/// Maximum doublings of that time: up to about a minute.
const TRIES: u32 = 6;
/// Maximum `Retry-After` that is honored. A backend that needs longer can send it again.
pub const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// State of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In rotation.
    Healthy,
    /// Out of rotation after failures.
    Ejected,
    /// Single requests probe it after an ejection.
    HalfOpen,
    /// Active checks fail.
    Unhealthy,
    /// It answered with `Retry-After`, and the time is not over.
    Backoff,
}

impl State {
    /// All states.
    pub const ALL: [State; 5] =
        [State::Healthy, State::Ejected, State::HalfOpen, State::Unhealthy, State::Backoff];

    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Ejected => "ejected",
            State::HalfOpen => "half_open",
            State::Unhealthy => "unhealthy",
            State::Backoff => "backoff",
        }
    }
}

/// Why a backend is out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is in rotation.
    None,
    /// Failures in a row.
    Consecutive,
    /// Too many failures among its requests.
    FailureRate,
    /// Much slower than the others.
    Slow,
    /// Checks failed.
    Check,
    /// It answered with `Retry-After`.
    RetryAfter,
}

/// Causes, indexed by their number in [`Health`].
const CAUSES: [Cause; 5] =
    [Cause::None, Cause::Consecutive, Cause::FailureRate, Cause::Slow, Cause::Check];

impl Cause {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Cause::None => "",
            Cause::Consecutive => "consecutive_failures",
            Cause::FailureRate => "failure_rate",
            Cause::Slow => "slow",
            Cause::Check => "health_check",
            Cause::RetryAfter => "retry_after",
        }
    }
}

/// Health of a backend.
#[derive(Debug, Default)]
pub struct Health {
    in_a_row: AtomicU32,
    recent: Window,
    /// End of the ejection; zero: not ejected.
    until: AtomicU64,
    /// Time from which it may be probed.
    next_try: AtomicU64,
    /// Probes without a result.
    tries: AtomicU32,
    /// Ejections in quick succession.
    times: AtomicU32,
    cause: AtomicU8,
    down: AtomicBool,
    /// Checks in a row that contradict the current state.
    otherwise: AtomicU32,
    ejections: AtomicU64,
    /// End of the Retry-After backoff.
    backoff_until: AtomicU64,
}

impl Health {
    /// The current state.
    pub fn state(&self, now: Tick) -> State {
        let until = self.until.load(Ordering::Relaxed);
        match self.down.load(Ordering::Relaxed) {
            true => State::Unhealthy,
            false if until == 0 && self.is_in_backoff(now) => State::Backoff,
            false if until == 0 => State::Healthy,
            false if now.0 < until => State::Ejected,
            false => State::HalfOpen,
        }
    }

    /// The cause of the current state, unless it is healthy.
    pub fn cause(&self, now: Tick) -> Cause {
        match self.state(now) {
            State::Healthy => Cause::None,
            State::Unhealthy => Cause::Check,
            State::Backoff => Cause::RetryAfter,
            _ => CAUSES
                .get(usize::from(self.cause.load(Ordering::Relaxed)))
                .copied()
                .unwrap_or(Cause::None),
        }
    }

    /// Remaining time of the ejection or backoff.
    pub fn remaining(&self, now: Tick) -> Option<Duration> {
        let until = match self.state(now) {
            State::Ejected => self.until.load(Ordering::Relaxed),
            State::Backoff => self.backoff_until.load(Ordering::Relaxed),
            State::Healthy | State::HalfOpen | State::Unhealthy => return None,
        };
        Some(Duration::from_nanos(until.saturating_sub(now.0)))
    }

    /// Number of ejections.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Whether it is in rotation, backoff aside.
    pub fn is_in_rotation(&self) -> bool {
        self.until.load(Ordering::Relaxed) == 0 && !self.down.load(Ordering::Relaxed)
    }

    /// Whether it is in Retry-After backoff.
    pub fn is_in_backoff(&self, now: Tick) -> bool {
        now.0 < self.backoff_until.load(Ordering::Relaxed)
    }

    /// Start a Retry-After backoff of that length, at most [`MAX_BACKOFF`].
    pub fn back_off(&self, span: Duration, now: Tick) {
        self.backoff_until
            .fetch_max(now.0.saturating_add(nanos(span.min(MAX_BACKOFF))), Ordering::Relaxed);
    }

    /// Whether it is in rotation and not in backoff.
    pub fn is_available(&self, now: Tick) -> bool {
        self.is_in_rotation() && !self.is_in_backoff(now)
    }

    /// Half-open, and the next request may probe the backend.
    pub fn is_probe_due(&self, now: Tick) -> bool {
        self.state(now) == State::HalfOpen
            && !self.is_in_backoff(now)
            && now.0 >= self.next_try.load(Ordering::Relaxed)
    }

    /// Half-open: whether this request may probe the backend. One request a second may, fewer while
    /// probes hang. `true` consumes the slot.
    pub(crate) fn may_probe(&self, now: Tick) -> bool {
        let next = self.next_try.load(Ordering::Relaxed);
        if !self.is_probe_due(now) {
            return false;
        }
        let after = now
            .0
            .saturating_add(PROBE_INTERVAL_NANOS << self.tries.load(Ordering::Relaxed).min(TRIES));
        let mine = now.0 >= next
            && self
                .next_try
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            self.tries.fetch_add(1, Ordering::Relaxed);
        }
        mine
    }

    /// A probe got a result: the interval between probes is short again.
    pub(crate) fn probe_answered(&self) {
        self.tries.store(0, Ordering::Relaxed);
    }

    /// Count a success. Returns true if it ends an ejection.
    pub(crate) fn succeeded(&self, now: Tick) -> bool {
        self.recent.count(false, now);
        self.in_a_row.store(0, Ordering::Relaxed);
        self.probe_answered();
        let until = self.until.load(Ordering::Relaxed);
        // An answer that was in flight at the time of the ejection changes nothing.
        until != 0 && now.0 >= until && self.until.swap(0, Ordering::Relaxed) != 0
    }

    /// Count a failure. Returns the cause for which the backend should be ejected now, if any.
    pub(crate) fn failed(&self, ejection: &Ejection, now: Tick) -> Option<Cause> {
        self.recent.count(true, now);
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // A failed probe ejects it again at once.
        if self.state(now) == State::HalfOpen {
            return Some(
                CAUSES
                    .get(usize::from(self.cause.load(Ordering::Relaxed)))
                    .copied()
                    .unwrap_or(Cause::Consecutive),
            );
        }
        if ejection.consecutive > 0 && in_a_row >= ejection.consecutive {
            return Some(Cause::Consecutive);
        }
        let (good, bad) = self.recent.sums(now);
        let share = bad as f64 / (good + bad).max(1) as f64;
        let tells = ejection.failure_rate > 0.0 && good + bad >= ejection.min_requests;
        (tells && share >= ejection.failure_rate).then_some(Cause::FailureRate)
    }

    /// Eject it. Returns the duration; `None` if it is ejected already.
    pub(crate) fn eject(&self, cause: Cause, ejection: &Ejection, now: Tick) -> Option<Duration> {
        let before = self.until.load(Ordering::Relaxed);
        if now.0 < before {
            return None;
        }
        // After enough time in rotation, earlier ejections no longer count.
        if before == 0
            && self.next_try.load(Ordering::Relaxed).saturating_add(nanos(ejection.max)) < now.0
        {
            self.times.store(0, Ordering::Relaxed);
        }
        let times = self.times.load(Ordering::Relaxed);
        let span = nanos(ejection.base).saturating_mul(1 << times.min(20)).min(nanos(ejection.max));
        let until = now.0.saturating_add(span);
        self.until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.next_try.store(until, Ordering::Relaxed);
        self.times.store(times.saturating_add(1), Ordering::Relaxed);
        self.probe_answered();
        self.cause.store(
            CAUSES.iter().position(|known| *known == cause).unwrap_or(0) as u8,
            Ordering::Relaxed,
        );
        self.in_a_row.store(0, Ordering::Relaxed);
        self.recent.clear();
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(Duration::from_nanos(span))
    }

    /// Active checks were turned off: discard their result.
    pub fn clear_checks(&self) {
        self.down.store(false, Ordering::Relaxed);
        self.otherwise.store(0, Ordering::Relaxed);
    }

    /// Count the result of a check. Returns true if the state changes.
    pub fn checked(&self, well: bool, checks: &Checks) -> bool {
        let down = self.down.load(Ordering::Relaxed);
        if well != down {
            self.otherwise.store(0, Ordering::Relaxed);
            return false;
        }
        let wanted = if well { checks.healthy } else { checks.unhealthy };
        if self.otherwise.fetch_add(1, Ordering::Relaxed) + 1 < wanted.max(1) {
            return false;
        }
        self.otherwise.store(0, Ordering::Relaxed);
        self.down.store(!well, Ordering::Relaxed);
        true
    }
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Probe;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * SECOND)
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time() {
        let (health, ejection) =
            (Health::default(), Ejection { consecutive: 3, ..Ejection::default() });
        let fail = |now| health.failed(&ejection, now);
        assert_eq!([fail(at(1)), fail(at(1))], [None, None]);
        health.succeeded(at(1));
        assert_eq!([fail(at(1)), fail(at(1)), fail(at(1))], [None, None, Some(Cause::Consecutive)]);
        assert_eq!(
            health.eject(Cause::Consecutive, &ejection, at(1)),
            Some(Duration::from_secs(5))
        );
        assert_eq!((health.state(at(5)), health.may_probe(at(5))), (State::Ejected, false));
        assert_eq!(health.remaining(at(5)), Some(Duration::from_secs(1)));
        assert_eq!(health.eject(Cause::Slow, &ejection, at(5)), None, "it is ejected already");
        assert_eq!(
            (health.state(at(6)), health.cause(at(6))),
            (State::HalfOpen, Cause::Consecutive)
        );
        assert!(health.may_probe(at(6)) && !health.may_probe(at(6)), "one a second");
        assert!(
            health.may_probe(at(7)) && !health.may_probe(at(8)) && health.may_probe(at(9)),
            "fewer while probes hang"
        );
        assert_eq!(fail(at(9)), Some(Cause::Consecutive), "one failed probe is enough");
        assert_eq!(
            health.eject(Cause::Consecutive, &ejection, at(9)),
            Some(Duration::from_secs(10))
        );
        assert!(!health.succeeded(at(10)), "an answer that was in flight");
        assert!(health.may_probe(at(19)) && health.succeeded(at(19)));
        assert!(health.is_in_rotation());
        // After a long healthy time, the first ejection is short again.
        assert_eq!(health.eject(Cause::Slow, &ejection, at(1000)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_share_of_failures_counts_when_there_are_enough_requests() {
        let (health, ejection) =
            (Health::default(), Ejection { consecutive: 0, ..Ejection::default() });
        for n in 0..9 {
            health.succeeded(at(1));
            assert_eq!(health.failed(&ejection, at(1)), None, "{n}");
        }
        health.succeeded(at(1));
        assert_eq!(health.failed(&ejection, at(1)), Some(Cause::FailureRate));
    }

    #[test]
    fn checks_change_state_after_enough_equal_results() {
        let checks = Checks {
            probe: Probe::Path("/health".into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let health = Health::default();
        let told: Vec<bool> = [false, false, true, false, false, false]
            .map(|well| health.checked(well, &checks))
            .to_vec();
        assert_eq!(told, [false, false, false, false, false, true]);
        assert_eq!((health.state(at(1)), health.cause(at(1))), (State::Unhealthy, Cause::Check));
        assert_eq!(
            [true, false, true, true].map(|well| health.checked(well, &checks)),
            [false, false, false, true]
        );
        assert!(health.is_in_rotation());
    }
}

/// Schedules of threads, explored by shuttle: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use std::sync::Arc;

    use shuttle::{check_random, thread};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * SECOND)
    }

    /// Call `act` in `count` threads at once, and return the results.
    fn each<T: Send + 'static>(
        count: usize,
        health: &Arc<Health>,
        act: fn(&Health, usize) -> T,
    ) -> Vec<T> {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let health = health.clone();
                thread::spawn(move || act(&health, number))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }

    #[test]
    fn failures_at_once_eject_it_once() {
        check_random(
            || {
                let health = Arc::new(Health::default());
                let ejected = each(3, &health, |health, _| {
                    let ejection =
                        Ejection { consecutive: 2, failure_rate: 0.0, ..Ejection::default() };
                    let cause = health.failed(&ejection, at(1));
                    cause.and_then(|cause| health.eject(cause, &ejection, at(1)))
                });
                assert_eq!(ejected.iter().flatten().count(), 1);
                assert_eq!((health.ejections(), health.state(at(2))), (1, State::Ejected));
                assert_eq!(health.remaining(at(1)), Some(Ejection::default().base));
            },
            2_000,
        );
    }

    #[test]
    fn one_request_probes_and_one_success_recovers() {
        check_random(
            || {
                let health = Arc::new(Health::default());
                health.eject(Cause::Consecutive, &Ejection::default(), at(1)).expect("it was up");
                let tried = each(3, &health, |health, _| health.may_probe(at(6)));
                assert_eq!(tried.iter().filter(|tried| **tried).count(), 1);
                let well = each(3, &health, |health, _| health.succeeded(at(6)));
                assert_eq!(well.iter().filter(|well| **well).count(), 1, "reported once");
                assert!(health.is_in_rotation());
            },
            2_000,
        );
    }

    /// A successful and a failed probe at once: the backend is healthy or ejected, and an ejected
    /// one is probed again.
    #[test]
    fn concurrent_probe_results_never_eject_permanently() {
        check_random(
            || {
                let health = Arc::new(Health::default());
                health.eject(Cause::Consecutive, &Ejection::default(), at(1)).expect("it was up");
                each(2, &health, |health, number| {
                    if number == 0 {
                        health.succeeded(at(6));
                    } else if let Some(cause) = health.failed(&Ejection::default(), at(6)) {
                        health.eject(cause, &Ejection::default(), at(6));
                    }
                });
                match health.state(at(6)) {
                    State::Healthy => {}
                    State::Ejected => {
                        assert!(health.may_probe(at(6 + 600)), "it is never probed again")
                    }
                    other => panic!("{other:?}"),
                }
            },
            2_000,
        );
    }
}
