//! Circuit breaker of a judge.
//!
//! - *In*: how questions went, and when.
//! - *Out*: whether to ask.
//! - *Never*: a lock. A race between two requests costs one question too many.
//!
//! Closed until [`FAILURES`] in a row, then open for [`REST`]; after that one question goes
//! through, and its end decides.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;

/// Failures in a row that open it. Fewer would let one bad moment silence a judge; more would make
/// many requests wait.
pub const FAILURES: u32 = 5;
/// How long it stays open.
pub const REST: Duration = Duration::from_secs(5);

/// The state of one breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// When the next question may go; meaningful while open.
    again: AtomicU64,
}

impl Breaker {
    /// Whether to ask now.
    pub fn admits(&self, now: Tick) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return true;
        }
        let again = self.again.load(Ordering::Relaxed);
        // The call that moves the time is the probe.
        now.0 >= again
            && self
                .again
                .compare_exchange(again, later(now), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// A question was answered.
    pub fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A question failed.
    pub fn failed(&self, now: Tick) {
        self.again.store(later(now), Ordering::Relaxed);
        // It stays at the threshold: a counter that ran on could wrap.
        let _ = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some((n + 1).min(FAILURES)));
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES
    }
}

fn later(now: Tick) -> u64 {
    now.0.saturating_add(u64::try_from(REST.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_rests_and_tries_once() {
        let (breaker, rest) = (Breaker::default(), REST.as_nanos() as u64);
        for at in 0..u64::from(FAILURES) {
            assert!(breaker.admits(Tick(at)) && !breaker.is_open());
            breaker.failed(Tick(at));
        }
        assert!(breaker.is_open() && !breaker.admits(Tick(10)));
        let later = Tick(10 + rest);
        assert!(breaker.admits(later), "one may try");
        assert!(!breaker.admits(later), "and only one");
        breaker.failed(later);
        assert!(!breaker.admits(Tick(later.0 + rest - 1)));
        assert!(breaker.admits(Tick(later.0 + rest)));
        breaker.answered();
        assert!(breaker.admits(later) && !breaker.is_open());
    }

    #[test]
    fn one_good_answer_forgives() {
        let breaker = Breaker::default();
        (0..FAILURES - 1).for_each(|_| breaker.failed(Tick(0)));
        breaker.answered();
        breaker.failed(Tick(0));
        assert!(breaker.admits(Tick(0)));
    }
}
