//! Histogram of one run with three significant digits and unbounded memory.
//!
//! Load tests and comparisons require percentiles to within 0.1 %. The gateway's series use
//! [`Histogram`](crate::Histogram), which is bounded and merges by adding.

use hdrhistogram::Histogram;

use crate::histogram::MAX_VALUE;

/// A histogram of microseconds with three significant digits, plus the exact sum.
#[derive(Clone, Debug)]
pub struct Micros {
    hdr: Histogram<u64>,
    sum: u64,
}

impl Default for Micros {
    fn default() -> Self {
        let hdr = Histogram::new(3).expect("invariant: three significant digits are valid");
        Micros { hdr, sum: 0 }
    }
}

impl Micros {
    /// Count one value.
    #[inline]
    pub fn record(&mut self, micros: u64) {
        let micros = micros.min(MAX_VALUE);
        self.hdr.record(micros).expect("invariant: a resizing histogram takes any value");
        self.sum = self.sum.saturating_add(micros);
    }

    /// Count a value several times.
    pub fn record_n(&mut self, micros: u64, times: u64) {
        let micros = micros.min(MAX_VALUE);
        self.hdr.record_n(micros, times).expect("invariant: a resizing histogram takes any value");
        self.sum = self.sum.saturating_add(micros.saturating_mul(times));
    }

    /// Merge another histogram into this one.
    pub fn merge(&mut self, other: &Micros) {
        self.hdr.add(&other.hdr).expect("invariant: a resizing histogram accepts any range");
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.hdr.len()
    }

    /// Their exact sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value at a percentile from 0 to 100; `None` without values.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        (!self.hdr.is_empty()).then(|| self.hdr.value_at_percentile(percent))
    }

    /// Number of values at or below each of the ascending `bounds`, to three significant digits.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let mut values = self.hdr.iter_recorded().peekable();
        let mut under = 0;
        let mut counts = Vec::with_capacity(bounds.len());
        for bound in bounds {
            while let Some(v) =
                values.next_if(|v| self.hdr.lowest_equivalent(v.value_iterated_to()) <= *bound)
            {
                under += v.count_at_value();
            }
            counts.push(under);
        }
        counts
    }

    /// The underlying HDR histogram.
    pub fn hdr(&self) -> &Histogram<u64> {
        &self.hdr
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Micros {
        let mut micros = Micros::default();
        for v in values {
            micros.record(*v);
        }
        micros
    }

    fn merged(a: &Micros, b: &Micros) -> Micros {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    fn same(a: &Micros, b: &Micros) -> bool {
        a.hdr == b.hdr && a.sum == b.sum
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_commutative(
            a in proptest::collection::vec(0u64..10_000_000_000, 0..30),
            b in proptest::collection::vec(0u64..100_000, 0..30),
            c in proptest::collection::vec(0u64..100, 0..30),
        ) {
            let (a, b, c) = (of(&a), of(&b), of(&c));
            prop_assert!(same(&merged(&a, &b), &merged(&b, &a)));
            prop_assert!(same(&merged(&merged(&a, &b), &c), &merged(&a, &merged(&b, &c))));
        }

        #[test]
        fn cumulative_counts_rise_to_the_count(
            values in proptest::collection::vec(0u64..1_000_000, 0..100),
        ) {
            let micros = of(&values);
            let counts = micros.cumulative(&[1_000, 10_000, 100_000, MAX_VALUE]);
            prop_assert!(counts.is_sorted());
            prop_assert_eq!(counts[3], values.len() as u64);
            // A bound with at most three significant digits is exact.
            prop_assert_eq!(counts[0], values.iter().filter(|v| **v <= 1_000).count() as u64);
        }
    }
}
