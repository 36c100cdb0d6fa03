//! How many requests may be asked twice: a share of all, so that retries never make a storm of an outage.
//!
//! As in Finagle and linkerd: over ten seconds, extra requests are at most a share of requests, and a few a second always.

use lens::Tick;

use crate::window::Window;

/// Seconds that a window has.
const SECONDS: u64 = 10;

/// A budget.
#[derive(Debug, Default)]
pub struct Budget {
    spent: Window,
}

impl Budget {
    /// A request came.
    pub fn earn(&self, now: Tick) {
        self.spent.count(false, now);
    }

    /// Spend one extra request, if there is one: `share` for each request, `always` in a second in any case.
    pub fn spend(&self, share: f64, always: u64, now: Tick) -> bool {
        let (requests, extra) = self.spent.sums(now);
        let has = (extra + 1) as f64 <= requests as f64 * share || extra < always * SECONDS;
        if has {
            self.spent.count(true, now);
        }
        has
    }

    /// Requests and extra ones of the last ten seconds.
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
