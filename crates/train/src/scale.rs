//! Prior weights of features.
//!
//! - *In*: examples with their labels.
//! - *Out*: one factor per bucket, 1 on average, higher if it is much more common in one class.
//! - *Never*: a sign; the solver learns it.

use crate::solver::Example;
use classifier::hash::BUCKETS;

/// Factors from the log-ratio of the frequencies in the two classes (as in naive Bayes), blended
/// with 1.
pub(crate) fn scale(examples: &[Example], log_ratio_weight: f32) -> Vec<f32> {
    let mut counts = vec![[0f32; 2]; BUCKETS];
    for example in examples {
        for (bucket, _) in &example.x {
            if let Some(n) = counts
                .get_mut(*bucket as usize)
                .and_then(|c| c.get_mut(usize::from(example.y > 0.0)))
            {
                *n += 1.0;
            }
        }
    }
    let all = |side: usize| {
        counts.iter().filter_map(|c| c.get(side)).map(|n| f64::from(n + 1.0)).sum::<f64>() as f32
    };
    let rest = (all(0) / all(1)).ln();
    let ratio = |[without, with]: &[f32; 2]| (((with + 1.0) / (without + 1.0)).ln() + rest).abs();
    let known = || counts.iter().filter(|[a, b]| a + b > 0.0);
    let mean = known().map(|c| f64::from(ratio(c))).sum::<f64>() / known().count().max(1) as f64;
    counts
        .iter()
        .map(|c| 1.0 - log_ratio_weight + log_ratio_weight * ratio(c) / (mean as f32).max(1e-6))
        .collect()
}
