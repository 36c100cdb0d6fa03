//! A moving average that decays, and jumps to peaks.
//!
//! Peak-EWMA as in Finagle and linkerd: a sample above the mean replaces it, one below moves it by
//! the decay since the last sample. A slow backend is detected after one answer, a recovered one
//! after a few time constants.

use std::sync::atomic::{AtomicU64, Ordering};

use lens::Tick;

/// Minimum time constant: one millisecond.
const SHORTEST: f64 = 1e6;
/// Counts below this are zero.
const MIN_COUNT: f64 = 0.05;

/// Mean of measured times, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct PeakEwma {
    /// `f64` bits; zero: no measurement.
    mean: AtomicU64,
    at: AtomicU64,
}

impl PeakEwma {
    /// Add a measurement. Of two concurrent ones, one may be lost.
    pub(crate) fn add(&self, nanos: u64, tau: f64, now: Tick) {
        let (mean, before) = (self.load(), self.at.swap(now.0, Ordering::Relaxed));
        let sample = nanos.max(1) as f64;
        let next = if mean == 0.0 || sample > mean {
            sample
        } else {
            let kept = (-(now.0.saturating_sub(before) as f64) / tau.max(SHORTEST)).exp();
            mean * kept + sample * (1.0 - kept)
        };
        self.mean.store(next.to_bits(), Ordering::Relaxed);
    }

    /// The mean; `None`: no measurement yet.
    pub(crate) fn mean(&self) -> Option<f64> {
        Some(self.load()).filter(|mean| *mean > 0.0)
    }

    /// Certainty from 0 to 1, which decays without measurements.
    pub(crate) fn certainty(&self, tau: f64, now: Tick) -> f64 {
        (-age(&self.at, now) / tau.max(SHORTEST)).exp()
    }

    fn load(&self) -> f64 {
        f64::from_bits(self.mean.load(Ordering::Relaxed))
    }
}

/// A count that decays.
#[derive(Debug, Default)]
pub(crate) struct DecayingCount {
    /// `f64` bits.
    count: AtomicU64,
    at: AtomicU64,
}

impl DecayingCount {
    /// Add one. Two concurrent additions may count as one.
    pub(crate) fn add(&self, tau: f64, now: Tick) {
        let count = self.count(tau, now) + 1.0;
        // In this order, a reader never combines the new time with the old count.
        self.count.store(count.to_bits(), Ordering::Release);
        self.at.store(now.0, Ordering::Release);
    }

    /// The decayed count; very small values are zero.
    pub(crate) fn count(&self, tau: f64, now: Tick) -> f64 {
        let at = self.at.load(Ordering::Acquire);
        let count = f64::from_bits(self.count.load(Ordering::Acquire));
        if count == 0.0 {
            return 0.0;
        }
        let left = count * (-(now.0.saturating_sub(at) as f64) / tau.max(SHORTEST)).exp();
        if left < MIN_COUNT { 0.0 } else { left }
    }
}

fn age(at: &AtomicU64, now: Tick) -> f64 {
    now.0.saturating_sub(at.load(Ordering::Relaxed)) as f64
}

/// A plain moving average: each sample moves it by a share.
#[derive(Debug, Default)]
pub(crate) struct Mean(AtomicU64);

impl Clone for Mean {
    fn clone(&self) -> Self {
        Mean(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Mean {
    pub(crate) fn add(&self, sample: f64, share: f64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let mean = f64::from_bits(bits);
            Some((if bits == 0 { sample } else { mean + (sample - mean) * share }).to_bits())
        });
    }

    /// The mean; `None`: no sample.
    pub(crate) fn mean(&self) -> Option<f64> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits != 0).then(|| f64::from_bits(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_apply_at_once_and_decay_slowly() {
        let (ewma, tau) = (PeakEwma::default(), 10e9);
        let at = |seconds: u64| Tick(seconds * 1_000_000_000);
        assert_eq!(ewma.mean(), None);
        ewma.add(100, tau, at(0));
        ewma.add(1000, tau, at(1));
        assert_eq!(ewma.mean(), Some(1000.0));
        ewma.add(100, tau, at(11));
        let mean = ewma.mean().unwrap();
        assert!((420.0..440.0).contains(&mean), "one time constant leaves 1/e of the way: {mean}");
        let mean = Mean::default();
        [10.0, 20.0].iter().for_each(|sample| mean.add(*sample, 0.5));
        assert_eq!(mean.mean(), Some(15.0));
    }
}
