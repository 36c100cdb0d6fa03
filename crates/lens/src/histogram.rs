//! The histogram of a series: base-2 exponential buckets in bounded memory, merged by adding.
//!
//! - *In*: integers: microseconds for times, units for counts.
//! - *Out*: exact count, sum, minimum and maximum; percentiles to within 1.1 %; the raw buckets for
//!   exporters.
//! - *Never*: memory outside the range from minimum to maximum; more than [`MAX_BUCKETS`] buckets.
//!
//! Bucket `i` counts values in `(2^(i/32), 2^((i+1)/32)]` of the exported unit, so OpenTelemetry's
//! exponential histograms of [`SCALE`] 5 and Prometheus's native ones are copies of the buckets.
//! The exported unit of [`TimeHistogram`] is seconds. The type has the number of recorded units per
//! exported unit as a parameter, because `2^(i/32)` microseconds is not a power of `2^(1/32)`
//! seconds. Times around 100 ms take a few hundred bytes, the worst case 8 KiB.

mod encoding;
pub use encoding::{DecodeError, MAX_BYTES};

use crate::sketch::Sketch;

/// The scale, as in OpenTelemetry: an octave has `2^SCALE` buckets.
pub const SCALE: u32 = 5;
/// Buckets per octave.
const PER_OCTAVE: f64 = (1 << SCALE) as f64;
/// Largest recorded value: one hour in microseconds. Larger values are clamped to it.
pub const MAX_VALUE: u64 = 3_600_000_000;
/// Buckets from 1 to [`MAX_VALUE`].
pub const MAX_BUCKETS: usize = 1018;

/// Times, recorded in microseconds and exported in seconds.
pub type TimeHistogram = Histogram<1_000_000>;
/// Counts such as tokens and bytes, exported as recorded.
pub type CountHistogram = Histogram<1>;

/// A histogram in which `PER_UNIT` recorded units make one exported unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<const PER_UNIT: u64> {
    /// Index of the first bucket in `counts`.
    offset: i32,
    counts: Vec<u64>,
    zeros: u64,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl<const PER_UNIT: u64> Histogram<PER_UNIT> {
    /// Bucket of a value above 0. A power of two of the exported unit is exactly the upper bound of
    /// its bucket.
    #[inline]
    fn index_of(value: u64) -> i32 {
        ((value as f64 / PER_UNIT as f64).log2() * PER_OCTAVE).ceil() as i32 - 1
    }

    /// Count one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let value = value.min(MAX_VALUE);
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        match value {
            0 => self.zeros += 1,
            _ => *self.bucket(Self::index_of(value)) += 1,
        }
    }

    /// The counter of a bucket. Grows the window if the index is outside.
    fn bucket(&mut self, index: i32) -> &mut u64 {
        if self.counts.is_empty() {
            self.offset = index;
        }
        if index < self.offset {
            let missing = (self.offset - index) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.offset = index;
        }
        let at = (index - self.offset) as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        &mut self.counts[at]
    }

    /// Count the values of a sketch, each as the middle of its bucket. Sum and maximum are exact.
    pub fn add_sketch(&mut self, sketch: &Sketch) {
        for (value, count) in sketch.buckets() {
            let value = value.min(MAX_VALUE);
            self.min = if self.count == 0 { value } else { self.min.min(value) };
            self.count += count;
            match value {
                0 => self.zeros += count,
                _ => *self.bucket(Self::index_of(value)) += count,
            }
        }
        self.max = self.max.max(sketch.max().min(MAX_VALUE));
        self.sum = self.sum.saturating_add(sketch.sum());
    }

    /// Merge another histogram into this one.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.zeros += other.zeros;
        if let Some(last) = other.counts.len().checked_sub(1) {
            // Touch both ends first, so that the window grows at most once on each side.
            self.bucket(other.offset);
            self.bucket(other.offset + last as i32);
            let at = (other.offset - self.offset) as usize;
            self.counts[at..]
                .iter_mut()
                .zip(&other.counts)
                .for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their exact sum, in recorded units.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Their exact sum, in exported units.
    pub fn exported_sum(&self) -> f64 {
        self.sum as f64 / PER_UNIT as f64
    }

    /// Minimum and maximum; `None` without values.
    pub fn range(&self) -> Option<(u64, u64)> {
        (self.count > 0).then_some((self.min, self.max))
    }

    /// Number of zeros, index of the first bucket, and the counts of the buckets from there on.
    pub fn buckets(&self) -> (u64, i32, &[u64]) {
        (self.zeros, self.offset, &self.counts)
    }

    /// The value at a percentile from 0 to 100, nearest rank, to within 1.1 %; `None` without
    /// values.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let (min, max) = self.range()?;
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count);
        // The maximum is known exactly.
        if rank == self.count {
            return Some(max);
        }
        let mut seen = self.zeros;
        if seen >= rank {
            return Some(0);
        }
        for (index, count) in (self.offset..).zip(&self.counts) {
            seen += count;
            if seen >= rank {
                let middle = (((f64::from(index) + 0.5) / PER_OCTAVE).exp2() * PER_UNIT as f64)
                    .round() as u64;
                return Some(middle.clamp(min, max));
            }
        }
        Some(max)
    }

    /// Number of values at or below each of the ascending `bounds`, in exported units. A bucket
    /// that contains a bound counts as below it, so a count is accurate to one bucket width, 2.2 %.
    pub fn cumulative(&self, bounds: &[f64]) -> impl Iterator<Item = u64> {
        let mut buckets = (self.offset..).zip(&self.counts).peekable();
        let mut under = self.zeros;
        let max = self.max as f64 / PER_UNIT as f64;
        bounds.iter().map(move |bound| {
            if *bound >= max {
                return self.count;
            }
            while let Some((_, count)) =
                buckets.next_if(|(index, _)| (f64::from(*index) / PER_OCTAVE).exp2() < *bound)
            {
                under += count;
            }
            under
        })
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> TimeHistogram {
        let mut histogram = TimeHistogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram
    }

    fn merged(a: &TimeHistogram, b: &TimeHistogram) -> TimeHistogram {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    proptest! {
        #[test]
        fn merging_is_counting_all_in_any_order(
            a in proptest::collection::vec(0u64..10_000_000_000, 0..30),
            b in proptest::collection::vec(0u64..100_000, 0..30),
            c in proptest::collection::vec(0u64..100, 0..30),
        ) {
            let all = of(&[a.clone(), b.clone(), c.clone()].concat());
            let (a, b, c) = (of(&a), of(&b), of(&c));
            prop_assert_eq!(&merged(&merged(&a, &b), &c), &all);
            prop_assert_eq!(&merged(&a, &merged(&c, &b)), &all);
        }

        #[test]
        fn values_of_a_sketch_err_by_a_bucket_of_both(
            values in proptest::collection::vec(0u64..100_000_000, 1..200),
        ) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            let (mut got, exact) = (of(&[]), of(&values));
            got.add_sketch(&sketch);
            prop_assert_eq!((got.count(), got.sum()), (exact.count(), exact.sum()));
            prop_assert_eq!(got.range().map(|range| range.1), exact.range().map(|range| range.1));
            for percent in [1.0, 50.0, 99.0, 100.0] {
                let at = |one: &TimeHistogram| one.percentile(percent).unwrap() as f64;
                let (got, exact) = (at(&got), at(&exact));
                prop_assert!((got - exact).abs() <= exact * 0.04 + 1.0, "{got} for {exact}");
            }
        }

        #[test]
        fn percentiles_are_within_the_stated_error(
            mut values in proptest::collection::vec(0u64..MAX_VALUE, 1..200),
            percent in 0.0f64..=100.0,
        ) {
            let got = of(&values).percentile(percent).unwrap() as f64;
            values.sort_unstable();
            let rank =
                ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            prop_assert!((got - exact).abs() <= exact * 0.011 + 0.5, "{got} for {exact}");
        }

        #[test]
        fn cumulative_counts_rise_and_err_by_a_bucket(
            values in proptest::collection::vec(0u64..1_000_000, 0..100),
        ) {
            let bounds = [0.001, 0.01, 0.1, 3600.0];
            let counts: Vec<u64> = of(&values).cumulative(&bounds).collect();
            prop_assert!(counts.is_sorted());
            prop_assert_eq!(counts[3], values.len() as u64);
            for (bound, count) in bounds.iter().zip(&counts) {
                let under = |bound: f64| {
                    values.iter().filter(|value| **value as f64 / 1e6 <= bound).count() as u64
                };
                prop_assert!(under(*bound) <= *count && *count <= under(*bound * 1.022), "{bound}: {count}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_small_where_values_are_alike() {
        let mut all = TimeHistogram::default();
        (0..40).for_each(|power| {
            (0..200).for_each(|step| all.record((1u64 << power) + (1u64 << power) * step / 200))
        });
        assert!(
            all.counts.len() <= MAX_BUCKETS && all.heap_bytes() <= 16 << 10,
            "{}",
            all.counts.len()
        );
        let alike = of(&(90_000..110_000).step_by(100).collect::<Vec<u64>>());
        assert!(alike.heap_bytes() <= 256, "{}", alike.heap_bytes());
    }

    #[test]
    fn powers_of_two_end_their_buckets() {
        for power in 0..31 {
            assert_eq!(CountHistogram::index_of(1 << power), power * 32 - 1, "2^{power}");
            assert!(
                power < 6 || CountHistogram::index_of((1 << power) + 1) == power * 32,
                "2^{power} + 1"
            );
        }
        for (seconds, power) in [(1, 0), (2, 1), (1024, 10)] {
            assert_eq!(TimeHistogram::index_of(seconds * 1_000_000), power * 32 - 1, "2^{power} s");
            assert_eq!(
                TimeHistogram::index_of(seconds * 1_000_000 + 1),
                power * 32,
                "a microsecond more than 2^{power} s"
            );
        }
        assert_eq!((of(&[]).percentile(50.0), of(&[]).range()), (None, None));
        assert_eq!(
            (of(&[0, 0, 7]).percentile(50.0), of(&[0, 0, 7]).percentile(100.0)),
            (Some(0), Some(7))
        );
    }
}
