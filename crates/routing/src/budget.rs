//! Budget for retries and hedges: a share of all requests, so that retries cannot turn an outage
//! into a storm.
//!
//! As in Finagle and linkerd: over ten seconds, at most a share of the requests, plus a minimum per
//! second.

use lens::Tick;

use crate::window::Window;

/// Length of the window in seconds.
const SECONDS: u64 = 10;

/// A budget.
#[derive(Debug, Default)]
pub struct Budget {
    spent: Window,
}

impl Budget {
    /// Count a request.
    pub fn earn(&self, now: Tick) {
        self.spent.count(false, now);
    }

    /// Spend one retry if the budget allows it: `share` of the requests, and at least
    /// `min_per_second`.
    pub fn spend(&self, share: f64, always: u64, now: Tick) -> bool {
        let (requests, extra) = self.spent.sums(now);
        let has = (extra + 1) as f64 <= requests as f64 * share || extra < always * SECONDS;
        if has {
            self.spent.count(true, now);
        }
        has
    }

    /// Requests and retries of the last ten seconds.
    pub fn recent(&self, now: Tick) -> (u64, u64) {
        self.spent.sums(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_a_share_of_requests() {
        let (budget, now) = (Budget::default(), Tick(1));
        assert!(!budget.spend(0.2, 0, now));
        (0..100).for_each(|_| budget.earn(now));
        assert_eq!((0..100).filter(|_| budget.spend(0.2, 0, now)).count(), 20);
        assert!(!budget.spend(0.2, 2, now));
        let few = Budget::default();
        assert_eq!((0..100).filter(|_| few.spend(0.2, 1, now)).count(), 10, "one a second, always");
    }
}
