//! Release of a new version (the canary) beside the stable one.
//!
//! - *In*: the canary's share, the key of a request, results of requests of both versions.
//! - *Out*: the version of a request; a rollback when the canary is worse.
//! - *Never*: a lock; a key that moves back: clients on the canary stay there while its share
//!   grows.

use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::random::Random;

mod outcomes;
use outcomes::{Recent, VersionCounts};
pub use outcomes::{RouteHistory, VersionResult};

/// A share of 1, in millionths.
const WHOLE: u64 = 1_000_000;
/// Bit of a decision that marks a rollback.
const ROLLED_BACK: u64 = 1 << 31;
/// Increment of the decision's number, which has the upper half of the word.
const NEXT: u64 = 1 << 32;
/// A version without any request is reported when it should have had this many.
const MIN_EXPECTED: f64 = 10.0;
/// Share of unsuccessful requests that rolls back a canary which cannot be compared.
const ALL_UNSUCCESSFUL: f64 = 0.95;

/// Conditions of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rollback {
    /// Maximum difference of the failure ratios.
    pub max_failure_increase: f64,
    /// Maximum ratio of the 95th percentiles of time to first token; 0 disables it.
    pub max_ttft_ratio: f64,
    /// Minimum requests of each version before they are compared.
    pub min_requests: u64,
}

/// A version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// The stable version.
    Stable,
    /// The canary.
    Canary,
}

impl Version {
    /// Name in metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Version::Stable => "stable",
            Version::Canary => "canary",
        }
    }
}

/// Why the canary was rolled back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RollbackCause {
    /// Failure ratios of the canary and the stable version.
    Failures(f64, f64),
    /// 95th percentiles of time to first token, likewise.
    Slower(Duration, Duration),
}

/// What the canary is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The stable version, since the share was set.
    Stable,
    /// The route without the canary, before the share was set.
    History,
    /// Nothing: neither has enough requests.
    None,
}

/// A release.
#[derive(Debug)]
pub struct Release {
    /// Number, [`ROLLED_BACK`] and share in millionths in one word: a rollback must not undo a
    /// share that was set after it was computed.
    decision: AtomicU64,
    rollback: Option<Rollback>,
    stable: VersionCounts,
    canary: VersionCounts,
    history: Arc<RouteHistory>,
    /// The decision whose version without requests was reported.
    reported: AtomicU64,
    random: Random,
}

impl Release {
    /// A release with that share of the canary.
    pub fn new(share: f64, rollback: Option<Rollback>, seed: u64) -> Self {
        let release = Release {
            decision: AtomicU64::new(0),
            rollback,
            stable: VersionCounts::default(),
            canary: VersionCounts::default(),
            history: Arc::default(),
            reported: AtomicU64::new(0),
            random: Random::new(seed),
        };
        release.set_share(share);
        release
    }

    /// With the past of its route.
    #[must_use]
    pub fn with_history(mut self, history: Arc<RouteHistory>) -> Self {
        self.history = history;
        self
    }

    /// The release after a reload, with new rules. `share`: the new share; `None` keeps the current
    /// one, and a rollback. Counts restart from zero; the past of the route is kept.
    pub fn after(
        before: &Release,
        share: Option<f64>,
        rollback: Option<Rollback>,
        seed: u64,
    ) -> Self {
        let release = Release::new(share.unwrap_or_default(), rollback, seed)
            .with_history(before.history.clone());
        if share.is_none() {
            // One word, so that a concurrent rollback is taken over completely or not at all.
            release.decision.store(before.decision.load(Ordering::Acquire), Ordering::Relaxed);
        }
        release
    }

    /// Share of the canary, 0 to 1.
    pub fn share(&self) -> f64 {
        share_of(self.decision.load(Ordering::Relaxed)) as f64 / WHOLE as f64
    }

    /// Whether the canary was rolled back.
    pub fn was_rolled_back(&self) -> bool {
        self.decision.load(Ordering::Relaxed) & ROLLED_BACK != 0
    }

    /// Set the canary's share: 1 switches over, 0 rolls back. Counts restart from zero.
    pub fn set_share(&self, share: f64) {
        // Clear the counts before the share is set: a tick that reads the new share must not use
        // older counts. Clear the canary first: with only the stable version cleared, the canary
        // would be compared with a failure ratio of zero.
        [&self.canary, &self.stable].iter().for_each(|seen| seen.clear());
        let share = (share.clamp(0.0, 1.0) * WHOLE as f64) as u64;
        let decide = |before: u64| Some((before & !(NEXT - 1)).wrapping_add(NEXT) | share);
        let _ = self.decision.fetch_update(Ordering::Release, Ordering::Relaxed, decide);
    }

    /// The version of a request: the same for the same key, at random without one.
    pub fn side(&self, key: Option<&[u8]>) -> Version {
        let share = share_of(self.decision.load(Ordering::Relaxed));
        let draw = match key {
            Some(key) => (u128::from(xxh3_64_with_seed(key, 2)) * u128::from(WHOLE)) >> 64,
            None => u128::from(self.random.below(WHOLE as usize) as u64),
        };
        if draw < u128::from(share) { Version::Canary } else { Version::Stable }
    }

    /// Record the result of a request.
    pub fn record_result(&self, side: Version, went: VersionResult, ttft: Option<Duration>) {
        self.counts_of(side).record(went, ttft);
        if side == Version::Stable {
            self.history.record(went, ttft);
        }
    }

    /// Successes and failures of a version since its share was set.
    pub fn counts(&self, side: Version) -> (u64, u64) {
        self.counts_of(side).totals()
    }

    /// What the canary is compared with.
    pub fn reference(&self) -> Reference {
        self.compared_with().0
    }

    /// A version without any request although its share would have given it some, or whose requests
    /// are missed for the comparison.
    pub fn without_requests(&self) -> Option<Version> {
        let [stable, canary] = [Version::Stable, Version::Canary].map(|side| {
            let (successes, failures) = self.counts(side);
            successes + failures
        });
        let (total, share) = ((stable + canary) as f64, self.share());
        if canary == 0 && total * share >= MIN_EXPECTED {
            return Some(Version::Canary);
        }
        let is_missed = stable == 0
            && if share < 1.0 {
                total * (1.0 - share) >= MIN_EXPECTED
            } else {
                total >= MIN_EXPECTED && self.reference() == Reference::None
            };
        is_missed.then_some(Version::Stable)
    }

    /// [`without_requests`](Self::without_requests), once for each share that is set.
    pub fn report_without_requests(&self) -> Option<Version> {
        let decision = self.decision.load(Ordering::Relaxed);
        if self.reported.load(Ordering::Relaxed) == decision {
            return None;
        }
        let version = self.without_requests()?;
        (self.reported.swap(decision, Ordering::Relaxed) != decision).then_some(version)
    }

    /// One second has passed: roll back if the canary is worse.
    pub fn tick(&self) -> Option<RollbackCause> {
        [&self.stable, &self.canary].iter().for_each(|seen| seen.ttft.tick());
        self.history.tick();
        let before = self.decision.load(Ordering::Acquire);
        let rollback = self.rollback.filter(|_| share_of(before) > 0)?;
        let worse = self.worse(&rollback)?;
        let after = before & !(NEXT - 1) | ROLLED_BACK;
        self.decision
            .compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| worse)
    }

    fn worse(&self, rollback: &Rollback) -> Option<RollbackCause> {
        let new = self.canary.recent();
        if new.requests < rollback.min_requests {
            return None;
        }
        let (reference, old) = self.compared_with();
        // Without a reference, its failure ratio is taken as zero, and a 4xx counts only if hardly
        // any request succeeds: clients are not all wrong.
        let (mine, theirs) = match reference {
            Reference::Stable | Reference::History => (new.unsuccessful(), old.unsuccessful()),
            Reference::None if new.unsuccessful() >= ALL_UNSUCCESSFUL => (new.unsuccessful(), 0.0),
            Reference::None => (new.failed, 0.0),
        };
        if mine > theirs + rollback.max_failure_increase {
            return Some(RollbackCause::Failures(mine, theirs));
        }
        let stable = self.stable.ttft.p95().filter(|_| reference == Reference::Stable);
        let (mine, theirs) = (self.canary.ttft.p95()?, stable.or(self.history.ttft_p95())?);
        let slower =
            rollback.max_ttft_ratio > 0.0 && mine as f64 > theirs as f64 * rollback.max_ttft_ratio;
        slower.then(|| {
            RollbackCause::Slower(Duration::from_nanos(mine), Duration::from_nanos(theirs))
        })
    }

    /// The reference and its recent requests.
    fn compared_with(&self) -> (Reference, Recent) {
        let wanted = self.rollback.map_or(1, |rollback| rollback.min_requests);
        let (stable, history) = (self.stable.recent(), self.history.recent());
        match () {
            () if stable.requests >= wanted => (Reference::Stable, stable),
            () if history.requests >= wanted => (Reference::History, history),
            () => (Reference::None, stable),
        }
    }

    fn counts_of(&self, side: Version) -> &VersionCounts {
        match side {
            Version::Stable => &self.stable,
            Version::Canary => &self.canary,
        }
    }
}

impl Observe for Release {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.push("llm_lens_canary_share", self.share());
        samples.push("llm_lens_canary_rolled_back", f64::from(u8::from(self.was_rolled_back())));
        for side in [Version::Stable, Version::Canary] {
            let (version, (successes, failures)) = (side.name(), self.counts(side));
            for (result, count) in [("success", successes), ("failure", failures)] {
                samples.with_labels(&[("version", version), ("result", result)], |samples| {
                    samples.push("llm_lens_version_requests", count as f64)
                });
            }
        }
    }
}

/// The share of a decision, in millionths.
fn share_of(decision: u64) -> u64 {
    decision & (ROLLED_BACK - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rollback =
        Rollback { max_failure_increase: 0.05, max_ttft_ratio: 1.5, min_requests: 50 };

    fn canaries(release: &Release) -> Vec<u32> {
        (0..2000u32)
            .filter(|key| release.side(Some(&key.to_le_bytes())) == Version::Canary)
            .collect()
    }

    #[test]
    fn keys_on_the_canary_stay_there_while_its_share_grows() {
        let release = Release::new(0.05, None, 1);
        let few = canaries(&release);
        assert!((60..=140).contains(&few.len()), "{}", few.len());
        assert_eq!(few, canaries(&release));
        release.set_share(0.3);
        let more = canaries(&release);
        assert!((520..=680).contains(&more.len()) && few.iter().all(|key| more.contains(key)));
        release.set_share(1.0);
        assert_eq!(canaries(&release).len(), 2000);
        assert!((0..100).all(|_| release.side(None) == Version::Canary));
        release.set_share(0.0);
        assert!(
            canaries(&release).is_empty()
                && (0..100).all(|_| release.side(None) == Version::Stable)
        );
    }

    #[test]
    fn canary_that_fails_more_or_is_slower_is_rolled_back() {
        let tell = |release: &Release, side, times: u32, failures: u32, ms: u64| {
            for n in 0..times {
                release.record_result(
                    side,
                    if n >= failures { VersionResult::Success } else { VersionResult::Failure },
                    Some(Duration::from_millis(ms)),
                );
            }
        };
        let release = Release::new(0.1, Some(RULE), 1);
        tell(&release, Version::Stable, 200, 2, 100);
        tell(&release, Version::Canary, 49, 20, 100);
        assert_eq!(release.tick(), None, "too few");
        tell(&release, Version::Canary, 10, 0, 100);
        let Some(RollbackCause::Failures(new, old)) = release.tick() else { panic!("no rollback") };
        assert!(new > 0.3 && old < 0.02, "{new} {old}");
        assert!(release.was_rolled_back() && release.share() == 0.0);
        assert_eq!(release.tick(), None, "it rolls back once");
        release.set_share(0.2);
        tell(&release, Version::Stable, 200, 2, 100);
        tell(&release, Version::Canary, 60, 2, 130);
        assert_eq!(release.tick(), None, "slightly slower, same failures");
        tell(&release, Version::Canary, 60, 0, 300);
        assert!(matches!(release.tick(), Some(RollbackCause::Slower(new, old)) if new > old * 2));
    }

    #[test]
    fn canary_that_degrades_late_is_rolled_back() {
        let release = Release::new(0.5, Some(RULE), 1);
        let tell = |side, times: u32, went| {
            (0..times).for_each(|_| release.record_result(side, went, None))
        };
        tell(Version::Stable, 100_000, VersionResult::Success);
        tell(Version::Canary, 100_000, VersionResult::Success);
        assert_eq!(release.tick(), None);
        tell(Version::Canary, 150, VersionResult::Failure);
        assert!(matches!(release.tick(), Some(RollbackCause::Failures(..))));
        assert_eq!(release.counts(Version::Canary), (100_000, 150));
    }

    #[test]
    fn canary_with_more_4xx_is_rolled_back() {
        let tell = |release: &Release, side, times: u32, refused: u32| {
            (0..times).for_each(|n| {
                release.record_result(
                    side,
                    if n < refused { VersionResult::Refused } else { VersionResult::Success },
                    None,
                )
            });
        };
        let release = Release::new(0.5, Some(RULE), 1);
        tell(&release, Version::Stable, 100, 20);
        tell(&release, Version::Canary, 100, 22);
        assert_eq!(release.tick(), None, "the same share of 4xx");
        tell(&release, Version::Canary, 100, 100);
        assert!(matches!(release.tick(), Some(RollbackCause::Failures(..))));
        // Without a version to compare with, a share of 4xx means nothing, unless all are.
        let alone = Release::new(1.0, Some(RULE), 1);
        tell(&alone, Version::Canary, 100, 60);
        assert_eq!((alone.tick(), alone.reference()), (None, Reference::None));
        let refusing = Release::new(1.0, Some(RULE), 1);
        tell(&refusing, Version::Canary, 100, 100);
        assert_eq!(refusing.tick(), Some(RollbackCause::Failures(1.0, 0.0)));
    }

    #[test]
    fn canary_with_all_requests_is_compared_with_the_past_of_the_route() {
        // The route served requests before it had a canary; one in ten was refused.
        let route = || {
            let history = Arc::new(RouteHistory::default());
            for n in 0..200 {
                let went =
                    if n % 10 == 0 { VersionResult::Refused } else { VersionResult::Success };
                history.record(went, Some(Duration::from_millis(100)));
            }
            history.tick();
            // Long ago: the recent times have decayed, the last known percentile stays.
            (0..1000).for_each(|_| history.tick());
            Release::new(1.0, Some(RULE), 1).with_history(history)
        };
        let tell = |release: &Release, refused: u32, ms: u64| {
            (0..100).for_each(|n| {
                release.record_result(
                    Version::Canary,
                    if n < refused { VersionResult::Refused } else { VersionResult::Success },
                    Some(Duration::from_millis(ms)),
                )
            });
            release.tick()
        };
        let good = route();
        assert_eq!((tell(&good, 12, 130), good.reference()), (None, Reference::History));
        assert_eq!(good.without_requests(), None, "by design, and there is a reference");
        assert_eq!(tell(&route(), 100, 100), Some(RollbackCause::Failures(1.0, 0.1)));
        assert_eq!(tell(&route(), 30, 100), Some(RollbackCause::Failures(0.3, 0.1)));
        assert!(matches!(tell(&route(), 10, 300), Some(RollbackCause::Slower(..))));
        // The same for a key that every client shares: the share is not 1, but the canary has all.
        let all = route();
        all.set_share(0.3);
        assert!(matches!(tell(&all, 10, 300), Some(RollbackCause::Slower(..))));
    }

    #[test]
    fn requests_without_a_key_are_drawn() {
        let release = Release::new(0.3, None, 1);
        let canary = (0..2000).filter(|_| release.side(None) == Version::Canary).count();
        assert!((520..=680).contains(&canary), "{canary}");
    }

    #[test]
    fn version_without_requests_is_reported_once_for_each_share() {
        let release = Release::new(0.3, Some(RULE), 1);
        let tell = |side, times: u32| {
            (0..times).for_each(|_| release.record_result(side, VersionResult::Success, None))
        };
        tell(Version::Canary, 14);
        assert_eq!(release.report_without_requests(), None, "ten are expected, not 9.8");
        tell(Version::Canary, 1);
        assert_eq!(release.report_without_requests(), Some(Version::Stable));
        assert_eq!(release.report_without_requests(), None);
        assert_eq!(release.without_requests(), Some(Version::Stable));
        tell(Version::Stable, 1);
        assert_eq!(release.without_requests(), None);
        release.set_share(0.1);
        tell(Version::Stable, 100);
        assert_eq!(release.report_without_requests(), Some(Version::Canary));
        release.set_share(0.0);
        tell(Version::Stable, 1000);
        assert_eq!(release.report_without_requests(), None, "a share of 0 has no requests");
        // With all requests, the canary needs the past of the route.
        let alone = Release::new(1.0, Some(RULE), 1);
        (0..20).for_each(|_| alone.record_result(Version::Canary, VersionResult::Success, None));
        assert_eq!(alone.report_without_requests(), Some(Version::Stable));
    }

    #[test]
    fn after_switch_over_canary_is_compared_with_baseline() {
        let release = Release::new(0.5, Some(RULE), 1);
        let tell = |side, ms: u64| {
            (0..100).for_each(|_| {
                release.record_result(side, VersionResult::Success, Some(Duration::from_millis(ms)))
            })
        };
        tell(Version::Stable, 100);
        tell(Version::Canary, 100);
        assert_eq!(release.tick(), None);
        release.set_share(1.0);
        tell(Version::Canary, 110);
        assert_eq!(release.tick(), None);
        (0..5).for_each(|_| tell(Version::Canary, 400));
        assert!(matches!(release.tick(), Some(RollbackCause::Slower(..))));
    }

    #[test]
    fn reload_with_new_rules_keeps_the_decision() {
        let release = Release::new(0.5, Some(RULE), 1);
        (0..100).for_each(|_| {
            release.record_result(
                Version::Stable,
                VersionResult::Success,
                Some(Duration::from_millis(100)),
            )
        });
        release.tick();
        release.set_share(1.0);
        let again = Release::after(&release, None, Some(Rollback { min_requests: 20, ..RULE }), 2);
        assert_eq!((again.share(), again.was_rolled_back()), (1.0, false));
        (0..40).for_each(|_| {
            again.record_result(
                Version::Canary,
                VersionResult::Success,
                Some(Duration::from_millis(900)),
            )
        });
        assert_eq!(
            again.tick().map(|worse| matches!(worse, RollbackCause::Slower(..))),
            Some(true),
            "the stable version's reference is kept"
        );
        let after = Release::after(&again, None, Some(RULE), 3);
        assert_eq!(
            (after.share(), after.was_rolled_back()),
            (0.0, true),
            "a rollback survives a reload"
        );
        let anew = Release::after(&after, Some(0.1), Some(RULE), 4);
        assert_eq!((anew.share(), anew.was_rolled_back()), (0.1, false));
    }
}

/// Schedules of threads, explored by shuttle: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use std::sync::Arc;

    use shuttle::{check_random, thread};

    use super::*;

    /// An operator sets a share while a rollback is computed.
    #[test]
    fn a_rollback_never_undoes_a_share_that_was_set_since() {
        check_random(
            || {
                let rule =
                    Rollback { max_failure_increase: 0.05, max_ttft_ratio: 0.0, min_requests: 1 };
                let release = Arc::new(Release::new(0.25, Some(rule), 1));
                release.record_result(Version::Canary, VersionResult::Failure, None);
                let ticking = {
                    let release = release.clone();
                    thread::spawn(move || release.tick().is_some())
                };
                release.set_share(0.5);
                let _ = ticking.join().expect("no panic");
                assert_eq!((release.share(), release.was_rolled_back()), (0.5, false));
            },
            2_000,
        );
    }

    /// If several workers tick at once, one of them rolls back.
    #[test]
    fn concurrent_ticks_roll_back_once() {
        check_random(
            || {
                let rule =
                    Rollback { max_failure_increase: 0.05, max_ttft_ratio: 0.0, min_requests: 1 };
                let release = Arc::new(Release::new(0.25, Some(rule), 1));
                release.record_result(Version::Canary, VersionResult::Failure, None);
                let ticks: Vec<_> = (0..2)
                    .map(|_| {
                        let release = release.clone();
                        thread::spawn(move || release.tick().is_some())
                    })
                    .collect();
                let taken = ticks
                    .into_iter()
                    .map(|tick| tick.join().expect("no panic"))
                    .filter(|taken| *taken)
                    .count();
                assert_eq!((taken, release.share(), release.was_rolled_back()), (1, 0.0, true));
            },
            200,
        );
    }
}
