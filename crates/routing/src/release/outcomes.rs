//! Results of requests: those of a version since its share was set, and those of a route's past.

use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

use crate::tail::Tail;

/// Number of recent requests that count. At twice this number, all counts are halved.
const RECENT: u64 = 1000;

/// Result of a request of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionResult {
    /// Success.
    Success,
    /// A 4xx: the client's fault, or the version's if it happens there more often.
    Refused,
    /// Failure.
    Failure,
}

/// Recent requests of a version, and their results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    /// Number of requests.
    pub(super) requests: u64,
    /// Share of refused ones.
    pub(super) refused: f64,
    /// Share of failed ones.
    pub(super) failed: f64,
}

impl Recent {
    /// Share of requests that did not succeed.
    pub(super) fn unsuccessful(&self) -> f64 {
        self.refused + self.failed
    }
}

/// Results of requests, and their times to first token.
#[derive(Debug, Default)]
pub(super) struct VersionCounts {
    well: AtomicU64,
    badly: AtomicU64,
    /// Recent requests: all, refused, failed.
    recent: [AtomicU64; 3],
    pub(super) ttft: Tail,
}

impl VersionCounts {
    pub(super) fn record(&self, went: VersionResult, ttft: Option<Duration>) {
        self.count(went);
        if let Some(ttft) = ttft {
            self.ttft.add(u64::try_from(ttft.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn count(&self, went: VersionResult) {
        if went == VersionResult::Failure { &self.badly } else { &self.well }
            .fetch_add(1, Ordering::Relaxed);
        let [all, refused, failed] = &self.recent;
        match went {
            VersionResult::Success => {}
            VersionResult::Refused => drop(refused.fetch_add(1, Ordering::Relaxed)),
            VersionResult::Failure => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
        // Two threads may halve at once; the effect is that fewer requests count.
        if all.fetch_add(1, Ordering::Relaxed) + 1 >= 2 * RECENT {
            self.recent.iter().for_each(|count| {
                count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed)
            });
        }
    }

    pub(super) fn clear(&self) {
        [&self.well, &self.badly]
            .into_iter()
            .chain(&self.recent)
            .for_each(|count| count.store(0, Ordering::Relaxed));
        self.ttft.clear();
    }

    /// Successes and failures.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.well.load(Ordering::Relaxed), self.badly.load(Ordering::Relaxed))
    }

    pub(super) fn recent(&self) -> Recent {
        let [requests, refused, failed] =
            self.recent.each_ref().map(|count| count.load(Ordering::Relaxed));
        let share = |count: u64| count as f64 / requests.max(1) as f64;
        Recent { requests, refused: share(refused), failed: share(failed) }
    }
}

/// Recent results of a route without its canary. They outlive the canary, its shares and reloads,
/// so that a canary with all requests is compared with what the route was before.
#[derive(Debug, Default)]
pub struct RouteHistory {
    counts: VersionCounts,
    /// The last known 95th percentile of time to first token in nanoseconds; 0: unknown.
    ttft_p95: AtomicU64,
}

impl RouteHistory {
    /// Record the result of a request that the canary did not serve.
    pub fn record(&self, went: VersionResult, ttft: Option<Duration>) {
        self.counts.record(went, ttft);
    }

    /// One second has passed.
    pub fn tick(&self) {
        self.counts.ttft.tick();
        if let Some(known) = self.counts.ttft.p95() {
            self.ttft_p95.store(known, Ordering::Relaxed);
        }
    }

    pub(super) fn recent(&self) -> Recent {
        self.counts.recent()
    }

    pub(super) fn ttft_p95(&self) -> Option<u64> {
        Some(self.ttft_p95.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0)
    }
}
