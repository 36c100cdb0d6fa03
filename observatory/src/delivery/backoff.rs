//! The wait after a failed attempt, and the state of the circuit.
//!
//! - *In*: failures and successes.
//! - *Out*: exponential waits with jitter, at least `Retry-After`.
//! - *Never*: a wait over [`MAX_RETRY_AFTER`], whatever the destination demands.

use std::time::Duration;

use crate::sink_counts::Circuit;

/// Failures in a row that open the circuit.
const OPEN_AFTER: u32 = 3;
/// Maximum wait that a destination can demand.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Failures in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Backoff { min: min.max(Duration::from_millis(1)), max: max.max(min), failures: 0 }
    }

    /// Notes a failure; returns the wait. `share` is a random number from 0 to 1.
    pub(super) fn failed(&mut self, after: Option<Duration>, share: f64) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let longest = doubled.min(self.max);
        let wait = longest.mul_f64(1.0 - share.clamp(0.0, 1.0) / 2.0);
        // Jitter is added to what the destination demands, so that not all clients come at once.
        let demanded = after.map(|after| after.min(MAX_RETRY_AFTER) + self.min.mul_f64(share));
        demanded.map_or(wait, |demanded| demanded.max(wait))
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The circuit while it waits.
    pub(super) fn waiting(&self) -> Circuit {
        if self.failures >= OPEN_AFTER { Circuit::Open } else { Circuit::Closed }
    }

    /// The circuit during an attempt.
    pub(super) fn trying(&self) -> Circuit {
        if self.failures >= OPEN_AFTER { Circuit::HalfOpen } else { Circuit::Closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn waits_double_to_the_maximum_with_jitter() {
        let mut backoff = Backoff::new(ms(100), ms(1000));
        let waits: Vec<Duration> = (0..6).map(|_| backoff.failed(None, 0.0)).collect();
        assert_eq!(waits, [ms(100), ms(200), ms(400), ms(800), ms(1000), ms(1000)]);
        assert_eq!(backoff.failed(None, 1.0), ms(500));
        backoff.succeeded();
        assert_eq!(backoff.failed(None, 0.5), ms(75));
        (0..100).for_each(|_| assert!(backoff.failed(None, 0.3) <= ms(1000)));
    }

    #[test]
    fn retry_after_is_a_minimum_with_a_maximum() {
        let mut backoff = Backoff::new(ms(100), ms(1000));
        assert_eq!(backoff.failed(Some(ms(5000)), 0.5), ms(5050));
        assert_eq!(backoff.failed(Some(ms(1)), 0.0), ms(200));
        assert_eq!(backoff.failed(Some(Duration::MAX), 0.0), MAX_RETRY_AFTER);
    }

    #[test]
    fn circuit_opens_after_failures_in_a_row() {
        let mut backoff = Backoff::new(ms(1), ms(1));
        assert_eq!((backoff.trying(), backoff.waiting()), (Circuit::Closed, Circuit::Closed));
        (0..OPEN_AFTER).for_each(|_| _ = backoff.failed(None, 0.0));
        assert_eq!((backoff.trying(), backoff.waiting()), (Circuit::HalfOpen, Circuit::Open));
        backoff.succeeded();
        assert_eq!(backoff.waiting(), Circuit::Closed);
    }
}
