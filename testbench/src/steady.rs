//! Where a run becomes steady.
//!
//! The first requests of a run meet cold caches, closed connections and an empty queue. How many of
//! them are not typical is found from the data, by the marginal standard error rule (MSER-5): the
//! cut after which the mean of the rest is known best.
//!
//! - *In*: the samples of a run.
//! - *Out*: a [`Steady`]: from when, and whether there is a steady state at all.
//! - *Never*: a sample that is thrown away: the report shows all, and where the cut is.

use serde::Serialize;

use crate::measure::Sample;

/// Requests whose mean is one value of the series.
const BATCH: usize = 5;
/// Minimum batches of a series. With fewer there is nothing to be found.
const MIN_BATCHES: usize = 8;

/// The steady part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Steady {
    /// When it begins, from the start of the run, in microseconds.
    pub from_us: u64,
    /// Requests that were due before.
    pub before: usize,
    /// Whether the run became steady in its first half. If not, it drifts: it is too short, or the
    /// server does not keep up.
    pub is_steady: bool,
}

/// Finds the steady part, by the times of whole requests; `None` if there are too few.
pub fn find(samples: &[Sample]) -> Option<Steady> {
    let mut series: Vec<(u64, f64)> =
        samples.iter().filter(|s| s.is_ok()).map(|s| (s.due_us, latency(s))).collect();
    series.sort_by_key(|(due, _)| *due);
    let means: Vec<f64> = series
        .chunks_exact(BATCH)
        .map(|batch| batch.iter().map(|(_, value)| value).sum::<f64>() / BATCH as f64)
        .collect();
    if means.len() < MIN_BATCHES {
        return None;
    }
    let cut = best_cut(&means);
    let is_steady = cut <= means.len() / 2;
    let before = if is_steady { cut * BATCH } else { 0 };
    let from_us = if before == 0 { 0 } else { series.get(before)?.0 };
    Some(Steady { from_us, before, is_steady })
}

/// Time to the first token; of an answer without, its whole time.
fn latency(sample: &Sample) -> f64 {
    sample.ttft_us.unwrap_or(sample.total_us) as f64
}

/// The number of values to leave out, of all but the last few.
fn best_cut(means: &[f64]) -> usize {
    let (mut sum, mut squares) = (0.0, 0.0);
    let mut best = (0, f64::INFINITY);
    for (cut, value) in means.iter().enumerate().rev() {
        (sum, squares) = (sum + value, squares + value * value);
        let count = (means.len() - cut) as f64;
        if count < MIN_BATCHES as f64 / 2.0 {
            continue;
        }
        let spread = (squares - sum * sum / count).max(0.0);
        // The variance of the mean of the rest.
        let error = spread / (count * count);
        if error <= best.1 {
            best = (cut, error);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    /// Requests every 10 ms whose TTFT is that of `mean`, and 10 % of noise.
    fn samples(count: u64, mean: impl Fn(u64) -> f64) -> Vec<Sample> {
        let mut random = SmallRng::seed_from_u64(4);
        (0..count)
            .map(|n| Sample {
                due_us: n * 10_000,
                ttft_us: Some((mean(n) * random.random_range(0.9..1.1)) as u64),
                ..crate::measure::example()
            })
            .collect()
    }

    #[test]
    fn a_warm_up_is_found() {
        let warming =
            samples(1_000, |n| if n < 100 { 300_000.0 - 2_500.0 * n as f64 } else { 50_000.0 });
        let steady = find(&warming).unwrap();
        assert!(steady.is_steady && (85..=130).contains(&steady.before), "{steady:?}");
        assert_eq!(steady.from_us, steady.before as u64 * 10_000);
    }

    #[test]
    fn a_steady_run_has_next_to_no_warm_up_and_a_drift_no_steady_state() {
        let steady = find(&samples(1_000, |_| 50_000.0)).unwrap();
        assert!(steady.is_steady && steady.before <= 300, "{steady:?}");
        let drift = find(&samples(1_000, |n| 1_000.0 * (n + 1) as f64)).unwrap();
        assert!(!drift.is_steady, "{drift:?}");
        assert_eq!(find(&samples(39, |_| 1_000.0)), None);
    }
}
