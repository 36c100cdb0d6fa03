//! Waits between attempts: exponential, drawn from the upper half, and at least what the store
//! demands.

use std::time::Duration;

/// Longest wait that a store can demand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

pub(super) struct Backoff {
    limits: (Duration, Duration),
    next: Duration,
}

impl Backoff {
    pub(super) fn new(limits: (Duration, Duration)) -> Self {
        Backoff { limits, next: limits.0 }
    }

    /// The wait after a failure.
    pub(super) fn after_failure(&mut self, retry_after: Option<Duration>) -> Duration {
        let wait = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.limits.1);
        wait.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }

    pub(super) fn reset(&mut self) {
        self.next = self.limits.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_obey_the_store() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new((seconds(1), seconds(4)));
        for limit in [1, 2, 4, 4] {
            let wait = backoff.after_failure(None);
            assert!(wait >= seconds(limit) / 2 && wait <= seconds(limit), "{wait:?}");
        }
        assert_eq!(backoff.after_failure(Some(seconds(30))), seconds(30));
        assert_eq!(backoff.after_failure(Some(seconds(9999))), MAX_RETRY_AFTER);
        backoff.reset();
        assert!(backoff.after_failure(None) <= seconds(1));
    }
}
