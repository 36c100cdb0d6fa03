//! Circuit breaker of a judge.
//!
//! - *In*: results of calls, with their times.
//! - *Out*: whether a call is admitted.
//! - *Never*: a lock. A race between two requests admits at most one extra call.
//!
//! Closed until [`MAX_FAILURES`] failures in a row, then open for [`OPEN_TIME`]. Then one probe is
//! admitted, and its result closes or reopens the breaker.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;

/// Failures in a row that open the breaker. Fewer would open it on a short disturbance; more would
/// make many requests wait.
pub const MAX_FAILURES: u32 = 5;
/// How long it stays open.
pub const OPEN_TIME: Duration = Duration::from_secs(5);

/// The state of one breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// When the next probe is admitted; used only while open.
    again: AtomicU64,
}

impl Breaker {
    /// Whether a call is admitted now.
    pub fn admits(&self, now: Tick) -> bool {
        if self.failures.load(Ordering::Relaxed) < MAX_FAILURES {
            return true;
        }
        let again = self.again.load(Ordering::Relaxed);
        // The call that wins the exchange is the probe.
        now.0 >= again
            && self
                .again
                .compare_exchange(again, later(now), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// A call succeeded.
    pub fn record_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A call failed.
    pub fn record_failure(&self, now: Tick) {
        self.again.store(later(now), Ordering::Relaxed);
        // Capped at the threshold, so that it cannot overflow.
        let _ = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            Some((n + 1).min(MAX_FAILURES))
        });
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MAX_FAILURES
    }
}

fn later(now: Tick) -> u64 {
    now.0.saturating_add(u64::try_from(OPEN_TIME.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_and_admits_one_probe() {
        let (breaker, rest) = (Breaker::default(), OPEN_TIME.as_nanos() as u64);
        for at in 0..u64::from(MAX_FAILURES) {
            assert!(breaker.admits(Tick(at)) && !breaker.is_open());
            breaker.record_failure(Tick(at));
        }
        assert!(breaker.is_open() && !breaker.admits(Tick(10)));
        let later = Tick(10 + rest);
        assert!(breaker.admits(later), "one probe");
        assert!(!breaker.admits(later), "only one probe");
        breaker.record_failure(later);
        assert!(!breaker.admits(Tick(later.0 + rest - 1)));
        assert!(breaker.admits(Tick(later.0 + rest)));
        breaker.record_success();
        assert!(breaker.admits(later) && !breaker.is_open());
    }

    #[test]
    fn one_success_resets_the_failures() {
        let breaker = Breaker::default();
        (0..MAX_FAILURES - 1).for_each(|_| breaker.record_failure(Tick(0)));
        breaker.record_success();
        breaker.record_failure(Tick(0));
        assert!(breaker.admits(Tick(0)));
    }
}
