//! The old version or the new one?
//!
//! - *In*: the share that the new one is to have, a key of the request, how requests at both went.
//! - *Out*: which; and that the new one is worse, and has no share any more.
//! - *Never*: a lock; a key that goes back and forth: whoever is with the new version stays there while its share grows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::random::Random;
use crate::tail::Tail;

/// A share of one, in millionths.
const WHOLE: u64 = 1_000_000;

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

/// How requests at a version went since its share was set.
#[derive(Debug, Default)]
struct Seen {
    well: AtomicU64,
    badly: AtomicU64,
    ttft: Tail,
}

/// A release.
#[derive(Debug)]
pub struct Release {
    share: AtomicU64,
    rollback: Option<Rollback>,
    rolled_back: AtomicBool,
    stable: Seen,
    candidate: Seen,
    random: Random,
}

impl Release {
    /// A release in which the new version has a share.
    pub fn new(share: f64, rollback: Option<Rollback>, seed: u64) -> Self {
        let release = Release {
            share: AtomicU64::new(0),
            rollback,
            rolled_back: AtomicBool::new(false),
            stable: Seen::default(),
            candidate: Seen::default(),
            random: Random::new(seed),
        };
        release.set_share(share);
        release
    }

    /// The share of the new version, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.share.load(Ordering::Relaxed) as f64 / WHOLE as f64
    }

    /// Whether it was taken back because it was worse.
    pub fn was_rolled_back(&self) -> bool {
        self.rolled_back.load(Ordering::Relaxed)
    }

    /// Give the new version another share: 1 switches, 0 goes back. What was seen begins anew.
    pub fn set_share(&self, share: f64) {
        self.rolled_back.store(false, Ordering::Relaxed);
        self.share.store((share.clamp(0.0, 1.0) * WHOLE as f64) as u64, Ordering::Relaxed);
        for seen in [&self.stable, &self.candidate] {
            seen.well.store(0, Ordering::Relaxed);
            seen.badly.store(0, Ordering::Relaxed);
            seen.ttft.clear();
        }
    }

    /// Which version a request is for; the same for the same key.
    pub fn side(&self, key: Option<&[u8]>) -> Side {
        let share = self.share.load(Ordering::Relaxed);
        let draw = match key {
            Some(key) => (u128::from(xxh3_64_with_seed(key, 2)) * u128::from(WHOLE)) >> 64,
            None => u128::from(self.random.below(WHOLE as usize) as u64),
        };
        if draw < u128::from(share) { Side::Candidate } else { Side::Stable }
    }

    /// A request of a version is over.
    pub fn seen(&self, side: Side, well: bool, ttft: Option<Duration>) {
        let seen = self.of(side);
        if well { &seen.well } else { &seen.badly }.fetch_add(1, Ordering::Relaxed);
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
        let rollback = self.rollback.filter(|_| self.share.load(Ordering::Relaxed) > 0)?;
        let worse = self.worse(&rollback)?;
        self.share.store(0, Ordering::Relaxed);
        self.rolled_back.store(true, Ordering::Relaxed);
        Some(worse)
    }

    fn worse(&self, rollback: &Rollback) -> Option<Worse> {
        let (new, old) = (self.counts(Side::Candidate), self.counts(Side::Stable));
        let share = |(well, badly): (u64, u64)| badly as f64 / (well + badly).max(1) as f64;
        // Where nobody is left with the old version, it is taken for one that never failed.
        if new.0 + new.1 >= rollback.min_requests && share(new) > share(old) + rollback.failures {
            return Some(Worse::Failures(share(new), share(old)));
        }
        let enough = new.0 >= rollback.min_requests && old.0 >= rollback.min_requests;
        let (mine, theirs) = (self.candidate.ttft.p95()?, self.stable.ttft.p95()?);
        let slower = enough && rollback.slower > 0.0 && mine as f64 > theirs as f64 * rollback.slower;
        slower.then(|| Worse::Slower(Duration::from_nanos(mine), Duration::from_nanos(theirs)))
    }

    fn of(&self, side: Side) -> &Seen {
        match side {
            Side::Stable => &self.stable,
            Side::Candidate => &self.candidate,
        }
    }
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
                release.seen(side, n >= failures, Some(Duration::from_millis(ms)));
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
}
