//! Quality metrics of scores.
//!
//! - *In*: scores with labels.
//! - *Out*: ROC-AUC, true-positive rate at a false-positive rate of 1 %, precision and recall at a
//!   threshold.
//! - *Never*: an interpretation of the numbers.

/// A score and whether the row is positive.
pub type Scored = (f32, bool);

/// ROC-AUC: the probability that a positive scores above a negative; ties count half.
pub fn auc(scored: &[Scored]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank, mut sum, mut positives) = (0usize, 0f64, 0usize);
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let middle = rank as f64 + (ties.len() as f64 + 1.0) / 2.0;
        let here = ties.iter().filter(|s| s.1).count();
        sum += middle * here as f64;
        positives += here;
        rank += ties.len();
    }
    let (p, n) = (positives as f64, (sorted.len() - positives) as f64);
    if p * n > 0.0 { (sum - p * (p + 1.0) / 2.0) / (p * n) } else { f64::NAN }
}

/// The score above which at most `share` of the negatives lie.
pub fn threshold(scored: &[Scored], share: f64) -> f32 {
    let mut negatives: Vec<f32> = scored.iter().filter(|s| !s.1).map(|s| s.0).collect();
    negatives.sort_by(|a, b| b.total_cmp(a));
    negatives.get((negatives.len() as f64 * share) as usize).copied().unwrap_or(f32::NEG_INFINITY)
}

/// The share of rows strictly above `at`.
pub fn above(scored: impl IntoIterator<Item = f32>, at: f32) -> f64 {
    let (mut n, mut hit) = (0usize, 0usize);
    for s in scored {
        n += 1;
        hit += usize::from(s > at);
    }
    hit as f64 / n.max(1) as f64
}

/// True-positive rate at a false-positive rate of 1 %.
pub fn tpr(scored: &[Scored]) -> f64 {
    above(scored.iter().filter(|s| s.1).map(|s| s.0), threshold(scored, 0.01))
}
