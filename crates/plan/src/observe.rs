//! The metrics of rate limits, admission, pools, routes and the store.

use std::sync::atomic::{AtomicU64, Ordering};

use lens::Tick;
use lens::observe::{Observe, Samples};

use crate::shared_limits::Store;
use crate::{HedgeCounters, Mirror, Plan, PlannedRoute, RouteCounters};

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl Observe for Plan {
    fn observe(&self, now: Tick, samples: &mut Samples) {
        self.rate_limits.observe(now, samples);
        self.store.iter().for_each(|store| store.observe(now, samples));
        for upstream in self.routable() {
            let Some(queue) = &upstream.queue else { continue };
            samples.with_labels(&[("backend", &upstream.backend.name)], |samples| {
                queue.observe(now, samples)
            });
        }
        for route in &self.routes {
            samples.with_labels(&[("route", &route.route.name)], |samples| {
                route.observe(now, samples)
            });
        }
        for pool in self.pools() {
            let settings = &pool.pool.settings;
            samples.with_labels(&[("pool", &settings.name), ("tier", &settings.tier)], |samples| {
                pool.hedged.observe(now, samples)
            });
            pool.pool.observe(now, samples);
        }
    }
}

impl Observe for PlannedRoute {
    fn observe(&self, now: Tick, samples: &mut Samples) {
        self.release.iter().for_each(|release| release.observe(now, samples));
        self.mirror.iter().for_each(|mirror| mirror.observe(now, samples));
        if self.has_choice() {
            self.counters.observe(now, samples);
        }
    }
}

impl Observe for RouteCounters {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.counts(&[
            ("llm_lens_retries_total", load(&self.retries)),
            ("llm_lens_retries_denied_total", load(&self.retries_denied)),
            ("llm_lens_fallbacks_total", load(&self.fallbacks)),
            ("llm_lens_resumes_total", load(&self.resumes)),
        ]);
        for (decided, count) in self.decisions().filter(|(_, count)| *count > 0) {
            samples.push_with(
                "llm_lens_offload_decisions_total",
                ("decision", decided.name()),
                count as f64,
            );
        }
    }
}

impl Observe for Mirror {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        let counts = &self.counts;
        for (result, count) in [
            ("success", &counts.success),
            ("failure", &counts.failure),
            ("skipped", &counts.left_out),
        ] {
            samples.push_with(
                "llm_lens_mirrored_requests_total",
                ("result", result),
                load(count) as f64,
            );
        }
        samples.push(
            "llm_lens_mirrored_ttft_seconds_total",
            load(&counts.first_token_us) as f64 / 1e6,
        );
        samples.push("llm_lens_mirrored_first_tokens_total", load(&counts.first_tokens) as f64);
    }
}

impl Observe for HedgeCounters {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.counts(&[
            ("llm_lens_hedges_total", load(&self.asked)),
            ("llm_lens_hedges_won_total", load(&self.won)),
            ("llm_lens_hedged_tokens_total", load(&self.tokens)),
        ]);
    }
}

impl Observe for Store {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.counts(&[
            ("llm_lens_store_up", u64::from(self.is_connected())),
            ("llm_lens_store_successes_total", load(&self.answered)),
            ("llm_lens_store_failures_total", load(&self.failed)),
            ("llm_lens_store_fallbacks_total", load(&self.without)),
        ]);
    }
}
