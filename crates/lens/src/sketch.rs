//! A small log-linear histogram for a single request.
//!
//! - *In*: gaps in microseconds.
//! - *Out*: exact count, mean and maximum; quantiles to within 1.6 %; text, for records.
//! - *Never*: memory outside the observed range. Only the buckets between the smallest and the
//!   largest value are allocated: a steady stream costs a few hundred bytes, an idle one nothing.
//!
//! The histograms of series ([`Histogram`](crate::Histogram)) have exponential buckets and compute
//! a logarithm per value; this one is log-linear and computes a shift.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::varint::{put, take};

/// Number of buckets, so that a text cannot ask for more.
const BUCKETS: usize = (u64::BITS as usize - 4) * PER_OCTAVE as usize;
/// Buckets per octave. The relative error of a quantile is at most half the reciprocal.
const PER_OCTAVE: u32 = 32;

/// The histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sketch {
    /// Index of the first bucket in `counts`.
    first: usize,
    counts: Vec<u32>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Sketch {
    /// Count one value.
    pub fn add(&mut self, value: u64) {
        let bucket = bucket_of(value);
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let missing = self.first - bucket;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let at = bucket - self.first;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(1);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// The sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The middle of each bucket that has values, and their count, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.numbered().map(|(bucket, count)| (middle_of(bucket).min(self.max), count))
    }

    /// The number of each bucket that has values, and their count.
    fn numbered(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(|(at, count)| (self.first + at, u64::from(*count)))
    }

    /// The sketch as text: sum, maximum and, for each bucket with values, the distance of its
    /// number from the one before and its count, as [`varint`](crate::varint)s in base64.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        put(&mut bytes, self.sum);
        put(&mut bytes, self.max);
        let mut before = 0;
        for (bucket, count) in self.numbered() {
            put(&mut bytes, (bucket - std::mem::replace(&mut before, bucket)) as u64);
            put(&mut bytes, count);
        }
        STANDARD_NO_PAD.encode(bytes)
    }

    /// The sketch of a text; `None` for any other text.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text).ok()?;
        let mut rest = bytes.as_slice();
        let (sum, max) = (take(&mut rest)?, take(&mut rest)?);
        let mut sketch = Sketch { sum, max, ..Sketch::default() };
        let mut bucket = 0usize;
        while !rest.is_empty() {
            let step = usize::try_from(take(&mut rest)?).ok()?;
            bucket = bucket.checked_add(step).filter(|bucket| *bucket < BUCKETS)?;
            let count = u32::try_from(take(&mut rest)?).ok().filter(|count| *count > 0)?;
            if sketch.counts.is_empty() {
                sketch.first = bucket;
            } else if step == 0 {
                return None;
            }
            sketch.counts.resize(bucket - sketch.first, 0);
            sketch.counts.push(count);
            sketch.count += u64::from(count);
        }
        Some(sketch)
    }

    /// The value at or below which `share` (0 to 1) of the values lie, by nearest rank; `None`
    /// without values.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Some(middle_of(self.first + at).min(self.max));
            }
        }
        None
    }
}

/// Bucket of a value: one per value below [`PER_OCTAVE`]; above, [`PER_OCTAVE`] per octave.
fn bucket_of(value: u64) -> usize {
    let octave = (value | u64::from(PER_OCTAVE - 1)).ilog2() - (PER_OCTAVE.ilog2() - 1);
    let shift = octave.saturating_sub(1);
    if value < u64::from(PER_OCTAVE) {
        return value as usize;
    }
    ((shift + 1) * PER_OCTAVE) as usize + ((value >> shift) as usize - PER_OCTAVE as usize)
}

fn middle_of(bucket: usize) -> u64 {
    let (octave, step) = (bucket / PER_OCTAVE as usize, (bucket % PER_OCTAVE as usize) as u64);
    match octave.checked_sub(1) {
        None => step,
        Some(shift) => ((u64::from(PER_OCTAVE) + step) << shift) + (1 << shift >> 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(
            mut values in proptest::collection::vec(0u64..10_000_000_000, 1..200),
            share in 0.0f64..=1.0,
        ) {
            let mut sketch = Sketch::default();
            for v in &values {
                sketch.add(*v);
            }
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let got = sketch.quantile(share).unwrap() as f64;
            prop_assert!((got - exact).abs() <= exact * 0.016 + 0.5, "{got} for {exact}");
            prop_assert_eq!(sketch.max(), *values.last().unwrap());
        }
    }

    proptest! {
        #[test]
        fn texts_give_the_equal_sketch(values in proptest::collection::vec(any::<u64>(), 0..50)) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            prop_assert_eq!(Sketch::from_text(&sketch.to_text()), Some(sketch));
        }

        #[test]
        fn other_texts_give_none_or_a_bounded_sketch(text in "[A-Za-z0-9+/]{0,40}") {
            if let Some(sketch) = Sketch::from_text(&text) {
                prop_assert!(sketch.counts.len() <= BUCKETS);
            }
        }
    }

    #[test]
    fn text_of_a_steady_stream_is_short() {
        let mut sketch = Sketch::default();
        (0..500).for_each(|at| sketch.add(40_000 + at % 7 * 300));
        assert_eq!(sketch.to_text(), "yIfgCcjGAucCnwIB1QE");
        assert_eq!(Sketch::from_text("not base64"), None);
        assert_eq!(Sketch::from_text("AA"), None, "no maximum");
    }

    #[test]
    fn empty_says_nothing() {
        assert_eq!((Sketch::default().quantile(0.5), Sketch::default().mean()), (None, None));
    }
}
