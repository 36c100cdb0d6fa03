//! Compares two distributions of one timing.
//!
//! - *In*: two histograms of the same timing.
//! - *Out*: the percentiles side by side, the distance of the distributions and its significance.
//! - *Never*: a verdict. The caller decides which difference matters.

use serde::Serialize;

use crate::micros::Micros;

/// The percentiles that are compared.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

/// One percentile on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The percentile, 0 to 100.
    pub percentile: f64,
    /// Microseconds in the base distribution.
    pub base_us: u64,
    /// Microseconds in the new distribution.
    pub new_us: u64,
}

impl Pair {
    /// New over base; `None` when the base is zero.
    pub fn ratio(&self) -> Option<f64> {
        (self.base_us > 0).then(|| self.new_us as f64 / self.base_us as f64)
    }
}

/// Two distributions of one timing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The percentiles, ascending.
    pub pairs: Vec<Pair>,
    /// The two-sample Kolmogorov-Smirnov statistic: the largest vertical distance between the two
    /// cumulative distributions, 0 to 1, to the precision of the histograms.
    pub distance: f64,
    /// Whether the distance is significant at the 1 % level (asymptotic: distance > 1.628 * sqrt((n
    /// + m) / (n * m))).
    pub significant: bool,
}

/// Compare two histograms; `None` when one of them is empty.
pub fn compare(base: &Micros, new: &Micros) -> Option<Comparison> {
    let pairs = PERCENTILES
        .into_iter()
        .map(|p| {
            Some(Pair { percentile: p, base_us: base.percentile(p)?, new_us: new.percentile(p)? })
        })
        .collect::<Option<Vec<_>>>()?;
    let mut bounds: Vec<u64> = [base, new]
        .iter()
        .flat_map(|m| m.hdr().iter_recorded().map(|v| v.value_iterated_to()))
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let (n, m) = (base.count() as f64, new.count() as f64);
    let distance = base
        .cumulative(&bounds)
        .into_iter()
        .zip(new.cumulative(&bounds))
        .map(|(a, b)| (a as f64 / n - b as f64 / m).abs())
        .fold(0.0, f64::max);
    let significant = distance > 1.628 * ((n + m) / (n * m)).sqrt();
    Some(Comparison { pairs, distance, significant })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = u64>) -> Micros {
        let mut micros = Micros::default();
        values.for_each(|v| micros.record(v));
        micros
    }

    #[test]
    fn equal_is_near_and_shifted_is_far() {
        let base = of(1_000..2_000);
        let same = compare(&base, &of(1_000..2_000)).unwrap();
        assert_eq!((same.distance, same.significant), (0.0, false));
        let slower = compare(&base, &of(1_500..2_500)).unwrap();
        assert!((slower.distance - 0.5).abs() < 0.01 && slower.significant);
        assert!((slower.pairs[0].ratio().unwrap() - 4.0 / 3.0).abs() < 0.01);
        assert_eq!(compare(&base, &Micros::default()), None);
    }
}
