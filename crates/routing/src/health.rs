//! Is a backend well?
//!
//! - *In*: what its answers were, what checks found, the time.
//! - *Out*: whether it may be asked; what has changed, and why.
//! - *Never*: a lock on the way of a request. A client's mistake or departure is no failure of a backend.
//!
//! A backend that fails is ejected: left alone for a time that doubles with each ejection soon after another. Then one request a second may try it
//! (half-open) until one succeeds. Checks take it down and up again independently of that.

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use serde::Serialize;

use crate::settings::{Checks, Ejection};
use crate::window::Window;

/// Between two requests that try an ejected backend; twice as long after each that says nothing.
const TRY: u64 = 1_000_000_000;
/// How often it becomes twice as long: up to about a minute.
const TRIES: u32 = 6;
/// Longest rest that is believed: whoever means more says so again then.
pub const MOST_REST: Duration = Duration::from_secs(300);

/// What somebody wants to know of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is asked.
    Up,
    /// It is left alone.
    Ejected,
    /// Single requests try it.
    Trying,
    /// Checks fail.
    Down,
    /// It said itself when it wants to be asked again.
    Resting,
}

impl State {
    /// All states.
    pub const ALL: [State; 5] = [State::Up, State::Ejected, State::Trying, State::Down, State::Resting];

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Ejected => "ejected",
            State::Trying => "trying",
            State::Down => "down",
            State::Resting => "resting",
        }
    }
}

/// Why a backend is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing.
    None,
    /// Failures in a row.
    Consecutive,
    /// Too many failures among its requests.
    FailureRate,
    /// Much slower than the others.
    Slow,
    /// Checks failed.
    Check,
    /// It said `Retry-After`.
    RetryAfter,
}

/// Why it may be ejected.
const CAUSES: [Cause; 5] = [Cause::None, Cause::Consecutive, Cause::FailureRate, Cause::Slow, Cause::Check];

impl Cause {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Cause::None => "",
            Cause::Consecutive => "consecutive_failures",
            Cause::FailureRate => "failure_rate",
            Cause::Slow => "slower_than_the_pool",
            Cause::Check => "health_check",
            Cause::RetryAfter => "retry_after",
        }
    }
}

/// What is known of a backend's health.
#[derive(Debug, Default)]
pub struct Health {
    in_a_row: AtomicU32,
    recent: Window,
    /// Until when it is left alone; zero: it is not.
    until: AtomicU64,
    /// When it may be tried again.
    next_try: AtomicU64,
    /// Trials of which nothing was heard.
    tries: AtomicU32,
    /// Ejections soon after one another.
    times: AtomicU32,
    cause: AtomicU8,
    down: AtomicBool,
    /// Checks in a row that said otherwise than what holds.
    otherwise: AtomicU32,
    ejections: AtomicU64,
    /// Until when it wants not to be asked.
    rests_until: AtomicU64,
}

impl Health {
    /// What it is now.
    pub fn state(&self, now: Tick) -> State {
        let until = self.until.load(Ordering::Relaxed);
        match self.down.load(Ordering::Relaxed) {
            true => State::Down,
            false if until == 0 && self.rests(now) => State::Resting,
            false if until == 0 => State::Up,
            false if now.0 < until => State::Ejected,
            false => State::Trying,
        }
    }

    /// Why, if it is not up.
    pub fn cause(&self, now: Tick) -> Cause {
        match self.state(now) {
            State::Up => Cause::None,
            State::Down => Cause::Check,
            State::Resting => Cause::RetryAfter,
            _ => CAUSES.get(usize::from(self.cause.load(Ordering::Relaxed))).copied().unwrap_or(Cause::None),
        }
    }

    /// For how long yet it is left alone, or rests.
    pub fn remaining(&self, now: Tick) -> Option<Duration> {
        let until = match self.state(now) {
            State::Ejected => self.until.load(Ordering::Relaxed),
            State::Resting => self.rests_until.load(Ordering::Relaxed),
            State::Up | State::Trying | State::Down => return None,
        };
        Some(Duration::from_nanos(until.saturating_sub(now.0)))
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Whether it is well.
    pub fn is_up(&self) -> bool {
        self.until.load(Ordering::Relaxed) == 0 && !self.down.load(Ordering::Relaxed)
    }

    /// Whether it has said that it wants not to be asked yet.
    pub fn rests(&self, now: Tick) -> bool {
        now.0 < self.rests_until.load(Ordering::Relaxed)
    }

    /// It says that it wants not to be asked for so long; what is more than [`MOST_REST`] is not believed.
    pub fn rest(&self, span: Duration, now: Tick) {
        self.rests_until.fetch_max(now.0.saturating_add(nanos(span.min(MOST_REST))), Ordering::Relaxed);
    }

    /// Whether it is well, and wants to be asked.
    pub fn may_be_asked(&self, now: Tick) -> bool {
        self.is_up() && !self.rests(now)
    }

    /// Whether a request may try it now: one a second may, and fewer of who keeps those that try waiting. Who may must.
    pub(crate) fn may_try(&self, now: Tick) -> bool {
        if self.state(now) != State::Trying || self.rests(now) {
            return false;
        }
        let next = self.next_try.load(Ordering::Relaxed);
        let after = now.0.saturating_add(TRY << self.tries.load(Ordering::Relaxed).min(TRIES));
        let mine = now.0 >= next && self.next_try.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            self.tries.fetch_add(1, Ordering::Relaxed);
        }
        mine
    }

    /// It has said something: who tries it is not kept waiting.
    pub(crate) fn heard(&self) {
        self.tries.store(0, Ordering::Relaxed);
    }

    /// It answered as it should; whether that makes it well again.
    pub(crate) fn succeeded(&self, now: Tick) -> bool {
        self.recent.count(false, now);
        self.in_a_row.store(0, Ordering::Relaxed);
        self.heard();
        let until = self.until.load(Ordering::Relaxed);
        // An answer that was on its way when it was ejected changes nothing.
        until != 0 && now.0 >= until && self.until.swap(0, Ordering::Relaxed) != 0
    }

    /// It failed; the cause for which it should be ejected now, if there is one.
    pub(crate) fn failed(&self, ejection: &Ejection, now: Tick) -> Option<Cause> {
        self.recent.count(true, now);
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Who was tried and failed is left alone again at once.
        if self.state(now) == State::Trying {
            return Some(CAUSES.get(usize::from(self.cause.load(Ordering::Relaxed))).copied().unwrap_or(Cause::Consecutive));
        }
        if ejection.consecutive > 0 && in_a_row >= ejection.consecutive {
            return Some(Cause::Consecutive);
        }
        let (good, bad) = self.recent.sums(now);
        let share = bad as f64 / (good + bad).max(1) as f64;
        let tells = ejection.failure_rate > 0.0 && good + bad >= ejection.min_requests;
        (tells && share >= ejection.failure_rate).then_some(Cause::FailureRate)
    }

    /// Leave it alone; for how long. `None`: it is left alone already.
    pub(crate) fn eject(&self, cause: Cause, ejection: &Ejection, now: Tick) -> Option<Duration> {
        let before = self.until.load(Ordering::Relaxed);
        if now.0 < before {
            return None;
        }
        // Well for long enough, and what was is forgiven.
        if before == 0 && self.next_try.load(Ordering::Relaxed).saturating_add(nanos(ejection.max)) < now.0 {
            self.times.store(0, Ordering::Relaxed);
        }
        let times = self.times.load(Ordering::Relaxed);
        let span = nanos(ejection.base).saturating_mul(1 << times.min(20)).min(nanos(ejection.max));
        let until = now.0.saturating_add(span);
        self.until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.next_try.store(until, Ordering::Relaxed);
        self.times.store(times.saturating_add(1), Ordering::Relaxed);
        self.heard();
        self.cause.store(CAUSES.iter().position(|known| *known == cause).unwrap_or(0) as u8, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
        self.recent.clear();
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(Duration::from_nanos(span))
    }

    /// Nobody checks it any more: what checks have found says nothing.
    pub fn unchecked(&self) {
        self.down.store(false, Ordering::Relaxed);
        self.otherwise.store(0, Ordering::Relaxed);
    }

    /// A check has found it well or not; whether that changes what holds.
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
        let (health, ejection) = (Health::default(), Ejection { consecutive: 3, ..Ejection::default() });
        let fail = |now| health.failed(&ejection, now);
        assert_eq!([fail(at(1)), fail(at(1))], [None, None]);
        health.succeeded(at(1));
        assert_eq!([fail(at(1)), fail(at(1)), fail(at(1))], [None, None, Some(Cause::Consecutive)]);
        assert_eq!(health.eject(Cause::Consecutive, &ejection, at(1)), Some(Duration::from_secs(5)));
        assert_eq!((health.state(at(5)), health.may_try(at(5))), (State::Ejected, false));
        assert_eq!(health.remaining(at(5)), Some(Duration::from_secs(1)));
        assert_eq!(health.eject(Cause::Slow, &ejection, at(5)), None, "it is left alone already");
        assert_eq!((health.state(at(6)), health.cause(at(6))), (State::Trying, Cause::Consecutive));
        assert!(health.may_try(at(6)) && !health.may_try(at(6)), "one a second");
        assert!(health.may_try(at(7)) && !health.may_try(at(8)) && health.may_try(at(9)), "fewer of who says nothing");
        assert_eq!(fail(at(9)), Some(Cause::Consecutive), "one failure of who is tried is enough");
        assert_eq!(health.eject(Cause::Consecutive, &ejection, at(9)), Some(Duration::from_secs(10)));
        assert!(!health.succeeded(at(10)), "an answer that was on its way");
        assert!(health.may_try(at(19)) && health.succeeded(at(19)));
        assert!(health.is_up());
        // After a long time of health it begins with a short one.
        assert_eq!(health.eject(Cause::Slow, &ejection, at(1000)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_share_of_failures_counts_when_there_are_enough_requests() {
        let (health, ejection) = (Health::default(), Ejection { consecutive: 0, ..Ejection::default() });
        for n in 0..9 {
            health.succeeded(at(1));
            assert_eq!(health.failed(&ejection, at(1)), None, "{n}");
        }
        health.succeeded(at(1));
        assert_eq!(health.failed(&ejection, at(1)), Some(Cause::FailureRate));
    }

    #[test]
    fn checks_take_it_down_and_up() {
        let checks = Checks {
            probe: Probe::Path("/health".into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let health = Health::default();
        let told: Vec<bool> = [false, false, true, false, false, false].map(|well| health.checked(well, &checks)).to_vec();
        assert_eq!(told, [false, false, false, false, false, true]);
        assert_eq!((health.state(at(1)), health.cause(at(1))), (State::Down, Cause::Check));
        assert_eq!([true, false, true, true].map(|well| health.checked(well, &checks)), [false, false, false, true]);
        assert!(health.is_up());
    }
}

/// Threads in orders that a scheduler chooses: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use std::sync::Arc;

    use shuttle::{check_random, thread};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * SECOND)
    }

    /// What each of `count` threads makes of it, at once.
    fn each<T: Send + 'static>(count: usize, health: &Arc<Health>, act: fn(&Health, usize) -> T) -> Vec<T> {
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
                    let ejection = Ejection { consecutive: 2, failure_rate: 0.0, ..Ejection::default() };
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
    fn one_request_tries_it_and_one_finds_it_well() {
        check_random(
            || {
                let health = Arc::new(Health::default());
                health.eject(Cause::Consecutive, &Ejection::default(), at(1)).expect("it was up");
                let tried = each(3, &health, |health, _| health.may_try(at(6)));
                assert_eq!(tried.iter().filter(|tried| **tried).count(), 1);
                let well = each(3, &health, |health, _| health.succeeded(at(6)));
                assert_eq!(well.iter().filter(|well| **well).count(), 1, "told once");
                assert!(health.is_up());
            },
            2_000,
        );
    }

    /// A trial that succeeds and one that fails, at once: it is up or ejected, and once ejected it is tried again.
    #[test]
    fn whatever_trials_say_it_is_never_out_for_good() {
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
                    State::Up => {}
                    State::Ejected => assert!(health.may_try(at(6 + 600)), "it is never tried again"),
                    other => panic!("{other:?}"),
                }
            },
            2_000,
        );
    }
}
