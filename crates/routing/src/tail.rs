//! Tail latency of recent times, for hedging.
//!
//! - *In*: times, nanoseconds.
//! - *Out*: a quantile of the last minutes, within 10 %.
//! - *Never*: a lock; a quantile of fewer than [`MIN_TIMES`] times.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Buckets for each doubling.
const PER_OCTAVE: u32 = 8;
/// From 16 us to some 70 s.
const OCTAVES: u32 = 22;
const SHIFT: u32 = 14;
/// Minimum times for a quantile.
const MIN_TIMES: u64 = 20;
/// Share of the counts left after a second: half of them are of the last seventy seconds.
const KEPT: f64 = 0.99;

/// Counts of times, in eight buckets for each doubling, which decay each second.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Each time adds [`ONE`], so that the decay keeps fractions.
    buckets: [AtomicU32; (PER_OCTAVE * OCTAVES) as usize],
    /// The last computed quantile in nanoseconds; zero: unknown.
    p95: AtomicU64,
}

/// Increment for a time.
const ONE: u32 = 256;

impl Default for Tail {
    fn default() -> Self {
        Tail {
            buckets: [const { AtomicU32::new(0) }; (PER_OCTAVE * OCTAVES) as usize],
            p95: AtomicU64::new(0),
        }
    }
}

impl Tail {
    /// Add a time.
    pub(crate) fn add(&self, nanos: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                Some(count.saturating_add(ONE))
            });
        }
    }

    /// One second has passed.
    pub(crate) fn tick(&self) {
        let counts: Vec<u32> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let known = (total >= MIN_TIMES * u64::from(ONE)).then(|| quantile(&counts, total, 0.95));
        self.p95.store(known.unwrap_or(0), Ordering::Relaxed);
        for bucket in &self.buckets {
            let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count > 0).then_some((f64::from(count) * KEPT) as u32)
            });
        }
    }

    /// Clear all counts.
    pub(crate) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        self.p95.store(0, Ordering::Relaxed);
    }

    /// The 95th percentile in nanoseconds; `None`: too few times.
    pub(crate) fn p95(&self) -> Option<u64> {
        Some(self.p95.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0)
    }
}

/// Upper end of the bucket with the quantile.
fn quantile(counts: &[u32], total: u64, share: f64) -> u64 {
    let want = (total as f64 * share) as u64;
    let mut sum = 0;
    for (at, count) in counts.iter().enumerate() {
        sum += u64::from(*count);
        if sum > want {
            return end_of(at);
        }
    }
    end_of(counts.len())
}

fn bucket_of(nanos: u64) -> usize {
    let scaled = (nanos >> SHIFT).max(1);
    let octave = scaled.ilog2().min(OCTAVES - 1);
    // The bits after the first divide an octave.
    let within =
        ((nanos.max(1 << SHIFT) as u128 * u128::from(PER_OCTAVE)) >> (octave + SHIFT)) as u32;
    (octave * PER_OCTAVE + (within - PER_OCTAVE).min(PER_OCTAVE - 1)) as usize
}

fn end_of(bucket: usize) -> u64 {
    let (octave, within) = (bucket as u32 / PER_OCTAVE, bucket as u64 % u64::from(PER_OCTAVE));
    ((u64::from(PER_OCTAVE) + within + 1) << (octave + SHIFT)) / u64::from(PER_OCTAVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_accurate_and_decays() {
        let tail = Tail::default();
        (0..19).for_each(|_| tail.add(1_000_000));
        tail.tick();
        assert_eq!(tail.p95(), None, "too few");
        let tail = Tail::default();
        (1..=1000u64).for_each(|n| tail.add(n * 1_000_000));
        tail.tick();
        let p95 = tail.p95().unwrap() as f64 / 950e6;
        assert!((1.0..1.13).contains(&p95), "{p95}");
        (0..1000).for_each(|_| tail.tick());
        assert_eq!(tail.p95(), None, "old times have decayed");
    }

    #[test]
    fn every_time_is_below_the_end_of_its_bucket() {
        for nanos in [0, 1, 1 << 14, 20_000, 1_000_000, 999_999_999, 70_000_000_000, u64::MAX] {
            let bucket = bucket_of(nanos);
            assert!(bucket < (PER_OCTAVE * OCTAVES) as usize, "{nanos}");
            assert!(end_of(bucket) > nanos || nanos > 60_000_000_000, "{nanos} {}", end_of(bucket));
        }
    }
}
