//! How many samples a percentile needs.

/// Probability with which the largest sample is above the percentile.
const CONFIDENCE: f64 = 0.95;

/// The fewest samples of which a percentile is shown: with them, the largest sample is above the
/// true percentile with a probability of 95 %. Below, the percentile has no upper bound (Wilks,
/// "Determination of sample sizes for setting tolerance limits", 1941). 5 for p50, 59 for p95, 299
/// for p99. `percent` is above 0 and below 100.
pub fn min_samples(percent: f64) -> u64 {
    ((1.0 - CONFIDENCE).ln() / (percent / 100.0).ln()).ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_sample_is_above_the_percentile_with_95_percent() {
        for (percent, wanted) in [(50.0, 5), (90.0, 29), (95.0, 59), (99.0, 299), (99.9, 2995)] {
            let n = min_samples(percent);
            assert_eq!(n, wanted);
            let below = |n: u64| (percent / 100.0_f64).powf(n as f64);
            assert!(below(n) <= 0.05 + 1e-9 && below(n - 1) > 0.05, "{percent}");
        }
    }
}
