//! The old version or the new one?
//!
//! - *In*: the share that the new one is to have, a key of the request, how requests at both went.
//! - *Out*: which; and that the new one is worse, and has no share any more.
//! - *Never*: a lock; a key that goes back and forth: whoever is with the new version stays there while its share grows.

use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

use lens::Tick;
use lens::observe::{Observe, Samples};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::random::Random;
use crate::tail::Tail;

/// A share of one, in millionths.
const WHOLE: u64 = 1_000_000;
/// The bit of a decision that says that the new version was taken back.
const ROLLED_BACK: u64 = 1 << 31;
/// What is added to the number of a decision: it has the upper half.
const NEXT: u64 = 1 << 32;

/// When the new version is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rollback {
    /// How much larger its share of failures may be.
    pub failures: f64,
    /// How many times as long the 95th percentile of its time to first token may be; 0: it does not matter.
    pub slower: f64,
    /// Requests of either before they are compared.
    pub min_requests: u64,
}

/// Which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The old one.
    Stable,
    /// The new one.
    Candidate,
}

/// Why the new version was taken back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Worse {
    /// Shares of failures: its own, and the old one's.
    Failures(f64, f64),
    /// 95th percentiles, likewise.
    Slower(Duration, Duration),
}

/// Requests that are looked back on: twice as many, and all counts are halved.
const RECENT: u64 = 1000;

/// How a request at a version went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// Well.
    Well,
    /// Its answer said that the client was wrong: which may be the version's fault, when it says so more often than the other.
    Refused,
    /// Badly.
    Badly,
}

/// How requests at a version went since its share was set.
#[derive(Debug, Default)]
struct Seen {
    well: AtomicU64,
    badly: AtomicU64,
    /// Of late: in all, those that were refused, and those that failed.
    recent: [AtomicU64; 3],
    ttft: Tail,
}

impl Seen {
    fn count(&self, went: Went) {
        if went == Went::Badly { &self.badly } else { &self.well }.fetch_add(1, Ordering::Relaxed);
        let [all, refused, failed] = &self.recent;
        match went {
            Went::Well => {}
            Went::Refused => drop(refused.fetch_add(1, Ordering::Relaxed)),
            Went::Badly => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
        // Two threads may halve at the same time, which is as if fewer had been seen.
        if all.fetch_add(1, Ordering::Relaxed) + 1 >= 2 * RECENT {
            self.recent.iter().for_each(|count| count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed));
        }
    }

    fn clear(&self) {
        [&self.well, &self.badly].into_iter().chain(&self.recent).for_each(|count| count.store(0, Ordering::Relaxed));
        self.ttft.clear();
    }

    /// Of late: in all, and the shares of those that were refused and that failed.
    fn recent(&self) -> (u64, f64, f64) {
        let [all, refused, failed] = self.recent.each_ref().map(|count| count.load(Ordering::Relaxed));
        let share = |count: u64| count as f64 / all.max(1) as f64;
        (all, share(refused), share(failed))
    }
}

/// A release.
#[derive(Debug)]
pub struct Release {
    /// Number, [`ROLLED_BACK`] and share in millionths in one word: a rollback must not undo a share that was set since it was found necessary.
    decision: AtomicU64,
    rollback: Option<Rollback>,
    stable: Seen,
    candidate: Seen,
    /// What the 95th percentile of the old version was when the share was set, nanoseconds; 0: not known.
    baseline: AtomicU64,
    random: Random,
}

impl Release {
    /// A release in which the new version has a share.
    pub fn new(share: f64, rollback: Option<Rollback>, seed: u64) -> Self {
        let release = Release {
            decision: AtomicU64::new(0),
            rollback,
            stable: Seen::default(),
            candidate: Seen::default(),
            baseline: AtomicU64::new(0),
            random: Random::new(seed),
        };
        release.set_share(share);
        release
    }

    /// The same release under other rules. With another share it begins anew, and all that goes on being known is what the old version was like.
    pub fn after(before: &Release, share: Option<f64>, rollback: Option<Rollback>, seed: u64) -> Self {
        let release = Release::new(share.unwrap_or_default(), rollback, seed);
        if share.is_none() {
            // One word, so that a rollback meanwhile is taken over whole or not at all.
            release.decision.store(before.decision.load(Ordering::Acquire), Ordering::Relaxed);
        }
        let baseline = before.stable.ttft.p95().unwrap_or_else(|| before.baseline.load(Ordering::Relaxed));
        release.baseline.store(baseline, Ordering::Relaxed);
        release
    }

    /// The share of the new version, from 0 to 1.
    pub fn share(&self) -> f64 {
        share_of(self.decision.load(Ordering::Relaxed)) as f64 / WHOLE as f64
    }

    /// Whether it was taken back because it was worse.
    pub fn was_rolled_back(&self) -> bool {
        self.decision.load(Ordering::Relaxed) & ROLLED_BACK != 0
    }

    /// Give the new version another share: 1 switches, 0 goes back. What was seen begins anew.
    pub fn set_share(&self, share: f64) {
        // With the last of the old version nobody is left to be compared to: what it was like then is remembered.
        if let Some(known) = self.stable.ttft.p95() {
            self.baseline.store(known, Ordering::Relaxed);
        }
        // Before the share: a tick that knows the new one must not judge it by what was seen under the old one.
        // The new version's first: without counts of the old one it would be compared to one that never fails.
        [&self.candidate, &self.stable].iter().for_each(|seen| seen.clear());
        let share = (share.clamp(0.0, 1.0) * WHOLE as f64) as u64;
        let decide = |before: u64| Some((before & !(NEXT - 1)).wrapping_add(NEXT) | share);
        let _ = self.decision.fetch_update(Ordering::Release, Ordering::Relaxed, decide);
    }

    /// Which version a request is for; the same for the same key.
    pub fn side(&self, key: Option<&[u8]>) -> Side {
        let share = share_of(self.decision.load(Ordering::Relaxed));
        let draw = match key {
            Some(key) => (u128::from(xxh3_64_with_seed(key, 2)) * u128::from(WHOLE)) >> 64,
            None => u128::from(self.random.below(WHOLE as usize) as u64),
        };
        if draw < u128::from(share) { Side::Candidate } else { Side::Stable }
    }

    /// A request of a version is over.
    pub fn seen(&self, side: Side, went: Went, ttft: Option<Duration>) {
        let seen = self.of(side);
        seen.count(went);
        if let Some(ttft) = ttft {
            seen.ttft.add(u64::try_from(ttft.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Requests of a version since its share was set: those that went well, and badly.
    pub fn counts(&self, side: Side) -> (u64, u64) {
        let seen = self.of(side);
        (seen.well.load(Ordering::Relaxed), seen.badly.load(Ordering::Relaxed))
    }

    /// A second has passed: is the new version worse? Then it has no share any more.
    pub fn tick(&self) -> Option<Worse> {
        [&self.stable, &self.candidate].iter().for_each(|seen| seen.ttft.tick());
        let before = self.decision.load(Ordering::Acquire);
        let rollback = self.rollback.filter(|_| share_of(before) > 0)?;
        let worse = self.worse(&rollback)?;
        let after = before & !(NEXT - 1) | ROLLED_BACK;
        self.decision.compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed).ok().map(|_| worse)
    }

    fn worse(&self, rollback: &Rollback) -> Option<Worse> {
        let ((new, new_refused, new_failed), (old, old_refused, old_failed)) = (self.candidate.recent(), self.stable.recent());
        let is_known = old >= rollback.min_requests;
        // Where nobody is left with the old version, it is taken for one that never failed; what clients do wrong can only be told from it beside the other.
        let (mine, theirs) = if is_known { (new_failed + new_refused, old_failed + old_refused) } else { (new_failed, 0.0) };
        if new >= rollback.min_requests && mine > theirs + rollback.failures {
            return Some(Worse::Failures(mine, theirs));
        }
        let before = Some(self.baseline.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0 && !is_known);
        let (mine, theirs) = (self.candidate.ttft.p95()?, self.stable.ttft.p95().filter(|_| is_known).or(before)?);
        let slower = new >= rollback.min_requests && rollback.slower > 0.0 && mine as f64 > theirs as f64 * rollback.slower;
        slower.then(|| Worse::Slower(Duration::from_nanos(mine), Duration::from_nanos(theirs)))
    }

    fn of(&self, side: Side) -> &Seen {
        match side {
            Side::Stable => &self.stable,
            Side::Candidate => &self.candidate,
        }
    }
}

impl Observe for Release {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        samples.push("llm_lens_candidate_share", self.share());
        samples.push("llm_lens_candidate_rolled_back", f64::from(u8::from(self.was_rolled_back())));
        for (side, version) in [(Side::Stable, "stable"), (Side::Candidate, "candidate")] {
            let (well, badly) = self.counts(side);
            for (ended, count) in [("well", well), ("badly", badly)] {
                samples.under(&[("version", version), ("ended", ended)], |samples| samples.push("llm_lens_version_requests", count as f64));
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

    const RULE: Rollback = Rollback { failures: 0.05, slower: 1.5, min_requests: 50 };

    fn candidates(release: &Release) -> Vec<u32> {
        (0..2000u32).filter(|key| release.side(Some(&key.to_le_bytes())) == Side::Candidate).collect()
    }

    #[test]
    fn who_is_with_the_new_version_stays_there_while_its_share_grows() {
        let release = Release::new(0.05, None, 1);
        let few = candidates(&release);
        assert!((60..=140).contains(&few.len()), "{}", few.len());
        assert_eq!(few, candidates(&release));
        release.set_share(0.3);
        let more = candidates(&release);
        assert!((520..=680).contains(&more.len()) && few.iter().all(|key| more.contains(key)));
        release.set_share(1.0);
        assert_eq!(candidates(&release).len(), 2000);
        assert!((0..100).all(|_| release.side(None) == Side::Candidate));
        release.set_share(0.0);
        assert!(candidates(&release).is_empty() && (0..100).all(|_| release.side(None) == Side::Stable));
    }

    #[test]
    fn a_version_that_fails_more_or_is_slower_is_taken_back_and_one_that_is_not_stays() {
        let tell = |release: &Release, side, times: u32, failures: u32, ms: u64| {
            for n in 0..times {
                release.seen(side, if n >= failures { Went::Well } else { Went::Badly }, Some(Duration::from_millis(ms)));
            }
        };
        let release = Release::new(0.1, Some(RULE), 1);
        tell(&release, Side::Stable, 200, 2, 100);
        tell(&release, Side::Candidate, 49, 20, 100);
        assert_eq!(release.tick(), None, "too few");
        tell(&release, Side::Candidate, 10, 0, 100);
        assert!(matches!(release.tick(), Some(Worse::Failures(new, old)) if new > 0.3 && old < 0.02));
        assert!(release.was_rolled_back() && release.share() == 0.0);
        assert_eq!(release.tick(), None, "once");
        release.set_share(0.2);
        tell(&release, Side::Stable, 200, 2, 100);
        tell(&release, Side::Candidate, 60, 2, 130);
        assert_eq!(release.tick(), None, "a little slower, and as well");
        tell(&release, Side::Candidate, 60, 0, 300);
        assert!(matches!(release.tick(), Some(Worse::Slower(new, old)) if new > old * 2));
    }

    #[test]
    fn a_version_that_becomes_worse_after_a_long_time_is_taken_back_as_soon() {
        let release = Release::new(0.5, Some(RULE), 1);
        let tell = |side, times: u32, went| (0..times).for_each(|_| release.seen(side, went, None));
        tell(Side::Stable, 100_000, Went::Well);
        tell(Side::Candidate, 100_000, Went::Well);
        assert_eq!(release.tick(), None);
        tell(Side::Candidate, 150, Went::Badly);
        assert!(matches!(release.tick(), Some(Worse::Failures(..))));
        assert_eq!(release.counts(Side::Candidate), (100_000, 150));
    }

    #[test]
    fn a_version_that_knows_no_model_is_worse_and_clients_that_are_wrong_make_nobody_worse() {
        let tell = |release: &Release, side, times: u32, refused: u32| {
            (0..times).for_each(|n| release.seen(side, if n < refused { Went::Refused } else { Went::Well }, None));
        };
        let release = Release::new(0.5, Some(RULE), 1);
        tell(&release, Side::Stable, 100, 20);
        tell(&release, Side::Candidate, 100, 22);
        assert_eq!(release.tick(), None, "as many are wrong here as there");
        tell(&release, Side::Candidate, 100, 100);
        assert!(matches!(release.tick(), Some(Worse::Failures(..))));
        // Nobody to compare to: a share of wrong clients says nothing.
        let alone = Release::new(1.0, Some(RULE), 1);
        tell(&alone, Side::Candidate, 100, 60);
        assert_eq!(alone.tick(), None);
    }

    #[test]
    fn after_the_switch_it_is_compared_to_what_was_before() {
        let release = Release::new(0.5, Some(RULE), 1);
        let tell = |side, ms: u64| (0..100).for_each(|_| release.seen(side, Went::Well, Some(Duration::from_millis(ms))));
        tell(Side::Stable, 100);
        tell(Side::Candidate, 100);
        assert_eq!(release.tick(), None);
        release.set_share(1.0);
        tell(Side::Candidate, 110);
        assert_eq!(release.tick(), None);
        (0..5).for_each(|_| tell(Side::Candidate, 400));
        assert!(matches!(release.tick(), Some(Worse::Slower(..))));
    }

    #[test]
    fn other_rules_are_no_other_decision() {
        let release = Release::new(0.5, Some(RULE), 1);
        (0..100).for_each(|_| release.seen(Side::Stable, Went::Well, Some(Duration::from_millis(100))));
        release.tick();
        release.set_share(1.0);
        let again = Release::after(&release, None, Some(Rollback { min_requests: 20, ..RULE }), 2);
        assert_eq!((again.share(), again.was_rolled_back()), (1.0, false));
        (0..40).for_each(|_| again.seen(Side::Candidate, Went::Well, Some(Duration::from_millis(900))));
        assert_eq!(again.tick().map(|worse| matches!(worse, Worse::Slower(..))), Some(true), "what the old one was like is known");
        let after = Release::after(&again, None, Some(RULE), 3);
        assert_eq!((after.share(), after.was_rolled_back()), (0.0, true), "who was taken back stays so");
        let anew = Release::after(&after, Some(0.1), Some(RULE), 4);
        assert_eq!((anew.share(), anew.was_rolled_back()), (0.1, false));
    }
}

/// Threads in orders that a scheduler chooses: `make test-interleavings`.
#[cfg(all(test, shuttle))]
mod interleavings {
    use std::sync::Arc;

    use shuttle::{check_random, thread};

    use super::*;

    /// An operator sets a share while the gateway finds the version worse.
    #[test]
    fn a_rollback_never_undoes_a_share_that_was_set_since() {
        check_random(
            || {
                let rule = Rollback { failures: 0.05, slower: 0.0, min_requests: 1 };
                let release = Arc::new(Release::new(0.25, Some(rule), 1));
                release.seen(Side::Candidate, Went::Badly, None);
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

    /// Of gateways' workers that tick at once, one takes the version back.
    #[test]
    fn a_version_is_taken_back_once() {
        check_random(
            || {
                let rule = Rollback { failures: 0.05, slower: 0.0, min_requests: 1 };
                let release = Arc::new(Release::new(0.25, Some(rule), 1));
                release.seen(Side::Candidate, Went::Badly, None);
                let ticks: Vec<_> = (0..2)
                    .map(|_| {
                        let release = release.clone();
                        thread::spawn(move || release.tick().is_some())
                    })
                    .collect();
                let taken = ticks.into_iter().map(|tick| tick.join().expect("no panic")).filter(|taken| *taken).count();
                assert_eq!((taken, release.share(), release.was_rolled_back()), (1, 0.0, true));
            },
            200,
        );
    }
}
