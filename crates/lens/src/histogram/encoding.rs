//! A histogram as bytes: for stores, where many are kept and merged later.
//!
//! - *In*: a histogram, or bytes from a file.
//! - *Out*: some 20 bytes for a few values, at most [`MAX_BYTES`]; or the equal histogram.
//! - *Never*: a histogram from bytes that contradict themselves: the counts must sum to the total,
//!   and the buckets must be possible ones, so that memory stays bounded.
//!
//! The layout: a byte for the version, one for the scale; then numbers of seven bits per byte: the
//! recorded units per exported unit, the count and, unless it is 0, the sum, minimum, maximum,
//! zeros, first bucket, number of buckets, and their counts. A count of 0 is followed by the number
//! of buckets that are 0 from there on.

use super::{Histogram, MAX_BUCKETS, MAX_VALUE, SCALE};
use crate::varint::{put, take, unzigzag, zigzag};

/// The version that this module writes and reads.
const VERSION: u8 = 1;
/// Maximum bytes of an encoded histogram.
pub const MAX_BYTES: usize = 2 + 9 * 10 + MAX_BUCKETS * 10;

/// Why bytes are not a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the histogram ends too early")]
    Short,
    /// A newer version of the encoding, another scale, or another unit.
    #[error("a histogram of another version, scale or unit")]
    Other,
    /// The numbers contradict each other.
    #[error("the numbers of the histogram contradict each other")]
    Contradiction,
}

impl<const PER_UNIT: u64> Histogram<PER_UNIT> {
    /// Append the histogram to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend([VERSION, SCALE as u8]);
        put(out, PER_UNIT);
        put(out, self.count);
        if self.count == 0 {
            return;
        }
        for number in [self.sum, self.min, self.max, self.zeros, zigzag(self.offset.into())] {
            put(out, number);
        }
        put(out, self.counts.len() as u64);
        let mut rest = self.counts.as_slice();
        while let Some((count, more)) = rest.split_first() {
            put(out, *count);
            rest = more;
            if *count == 0 {
                let zeros = more.iter().take_while(|count| **count == 0).count();
                put(out, zeros as u64);
                rest = rest.get(zeros..).unwrap_or_default();
            }
        }
    }

    /// Take a histogram from the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
        let header = bytes.split_first_chunk::<2>();
        let ([version, scale], rest) = header.ok_or(DecodeError::Short)?;
        *bytes = rest;
        if *version != VERSION || u32::from(*scale) != SCALE || number(bytes)? != PER_UNIT {
            return Err(DecodeError::Other);
        }
        let count = number(bytes)?;
        if count == 0 {
            return Ok(Self::default());
        }
        let (sum, min, max) = (number(bytes)?, number(bytes)?, number(bytes)?);
        let zeros = number(bytes)?;
        let offset = i32::try_from(unzigzag(number(bytes)?));
        let offset = offset.map_err(|_| DecodeError::Contradiction)?;
        let counts = Self::decode_counts(offset, bytes)?;
        let total = counts.iter().try_fold(zeros, |sum, count| sum.checked_add(*count));
        if total != Some(count) || min > max || max > MAX_VALUE {
            return Err(DecodeError::Contradiction);
        }
        Ok(Histogram { offset, counts, zeros, count, sum, min, max })
    }

    fn decode_counts(offset: i32, bytes: &mut &[u8]) -> Result<Vec<u64>, DecodeError> {
        let length = usize::try_from(number(bytes)?).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(Vec::new());
        }
        let possible = Self::index_of(1)..=Self::index_of(MAX_VALUE);
        let last = i64::from(offset).saturating_add(length.min(MAX_BUCKETS + 1) as i64 - 1);
        if !possible.contains(&offset) || last > i64::from(*possible.end()) {
            return Err(DecodeError::Contradiction);
        }
        let mut counts = Vec::with_capacity(length);
        while counts.len() < length {
            let count = number(bytes)?;
            counts.push(count);
            if count == 0 {
                let zeros = usize::try_from(number(bytes)?).unwrap_or(usize::MAX);
                if zeros > length - counts.len() {
                    return Err(DecodeError::Contradiction);
                }
                counts.resize(counts.len() + zeros, 0);
            }
        }
        Ok(counts)
    }
}

fn number(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    take(bytes).ok_or(DecodeError::Short)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{CountHistogram, TimeHistogram};

    fn encoded(values: &[u64]) -> (TimeHistogram, Vec<u8>) {
        let mut histogram = TimeHistogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        let mut bytes = Vec::new();
        histogram.encode(&mut bytes);
        (histogram, bytes)
    }

    proptest! {
        #[test]
        fn bytes_give_the_equal_histogram_and_merge_alike(
            a in proptest::collection::vec(0u64..10_000_000_000, 0..100),
            b in proptest::collection::vec(0u64..100_000, 0..100),
        ) {
            let ((mut one, first), (other, second)) = (encoded(&a), encoded(&b));
            prop_assert!(first.len() <= MAX_BYTES);
            let both = [first, second].concat();
            let mut rest = both.as_slice();
            let mut merged = TimeHistogram::decode(&mut rest).unwrap();
            merged.merge(&TimeHistogram::decode(&mut rest).unwrap());
            one.merge(&other);
            prop_assert_eq!(merged, one);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn damaged_bytes_give_an_error_or_a_bounded_histogram(
            values in proptest::collection::vec(0u64..10_000_000, 1..50),
            at in 0usize..1000,
            byte in 0u8..=255,
        ) {
            let (_, mut bytes) = encoded(&values);
            let cut = at % bytes.len();
            prop_assert_eq!(TimeHistogram::decode(&mut &bytes[..cut]), Err(DecodeError::Short));
            bytes[cut] = byte;
            if let Ok(read) = TimeHistogram::decode(&mut bytes.as_slice()) {
                prop_assert!(read.buckets().2.len() <= MAX_BUCKETS);
            }
        }
    }

    #[test]
    fn few_values_take_few_bytes_and_another_unit_is_refused() {
        let (_, few) = encoded(&[20_000, 20_100, 45_000]);
        assert!(few.len() < 32, "{}", few.len());
        assert_eq!(CountHistogram::decode(&mut few.as_slice()), Err(DecodeError::Other));
        let mut newer = few.clone();
        newer[0] = 2;
        assert_eq!(TimeHistogram::decode(&mut newer.as_slice()), Err(DecodeError::Other));
        let (empty, bytes) = encoded(&[]);
        assert_eq!(TimeHistogram::decode(&mut bytes.as_slice()), Ok(empty));
    }
}
