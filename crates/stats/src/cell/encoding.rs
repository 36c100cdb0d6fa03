//! Cells as bytes.
//!
//! - *In*: a cell, or bytes of a peer.
//! - *Out*: bytes, or the equal cell.
//! - *Never*: more histograms, error codes or buckets than a cell may have.
//!
//! The layout: a byte for the version; then whole numbers ([`lens::varint`]): requests by outcome,
//! the counts in the order of the struct, the number of error codes, each with its length, its text
//! and its count; a mask of the timings that follow, each a histogram and the low and high half of
//! its sum of squares.

use lens::histogram::DecodeError as HistogramError;
use lens::varint::{put, take};
use lens::{TimeHistogram, record::Outcome};

use super::{Cell, Distribution, MAX_CODE_BYTES, MAX_ERROR_CODES, TIMINGS};

/// The version that this module writes and reads.
const VERSION: u8 = 1;
/// Maximum requests of a cell of a peer, so that sums over peers do not overflow.
const MAX_REQUESTS: u64 = 1 << 56;

/// Why bytes are not a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the sketch ends too early")]
    Short,
    /// A newer version of the encoding.
    #[error("a sketch of another version")]
    Other,
    /// The numbers contradict each other.
    #[error("the numbers of the sketch contradict each other")]
    Contradiction,
    /// One of the histograms.
    #[error(transparent)]
    Histogram(#[from] HistogramError),
}

impl Cell {
    /// Append the cell to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.outcomes.iter().for_each(|count| put(out, *count));
        for count in [
            self.service_failures,
            self.judged,
            self.good,
            self.input_tokens,
            self.output_tokens,
            self.estimated_tokens,
            self.errors.len() as u64,
        ] {
            put(out, count);
        }
        for (code, count) in &self.errors {
            put(out, code.len() as u64);
            out.extend_from_slice(code.as_bytes());
            put(out, *count);
        }
        let bits = self.timings.iter().zip(0..).map(|(one, bit)| u64::from(one.is_some()) << bit);
        put(out, bits.sum());
        for distribution in self.timings.iter().flatten() {
            distribution.histogram.encode(out);
            put(out, distribution.squares as u64);
            put(out, (distribution.squares >> 64) as u64);
        }
    }

    /// Take a cell from the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
        let (version, rest) = bytes.split_first().ok_or(DecodeError::Short)?;
        if *version != VERSION {
            return Err(DecodeError::Other);
        }
        *bytes = rest;
        let mut outcomes = [0; Outcome::ALL.len()];
        for count in &mut outcomes {
            *count = number(bytes)?;
        }
        let total = outcomes.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
        let total = total.filter(|total| *total <= MAX_REQUESTS);
        let total = total.ok_or(DecodeError::Contradiction)?;
        let mut cell = Cell {
            outcomes,
            service_failures: number(bytes)?,
            judged: number(bytes)?,
            good: number(bytes)?,
            input_tokens: number(bytes)?,
            output_tokens: number(bytes)?,
            estimated_tokens: number(bytes)?,
            ..Cell::default()
        };
        cell.decode_errors(total, bytes)?;
        cell.decode_timings(total, bytes)?;
        Ok(cell)
    }

    fn decode_errors(&mut self, requests: u64, bytes: &mut &[u8]) -> Result<(), DecodeError> {
        let codes = number(bytes)?;
        // One more than a full table: `other`.
        if codes > MAX_ERROR_CODES as u64 + 1 {
            return Err(DecodeError::Contradiction);
        }
        for _ in 0..codes {
            let length = usize::try_from(number(bytes)?).unwrap_or(usize::MAX);
            if length > MAX_CODE_BYTES {
                return Err(DecodeError::Contradiction);
            }
            let (code, rest) = bytes.split_at_checked(length).ok_or(DecodeError::Short)?;
            *bytes = rest;
            let code = std::str::from_utf8(code).map_err(|_| DecodeError::Contradiction)?;
            let count = Some(number(bytes)?).filter(|count| *count <= requests);
            self.errors.insert(code.into(), count.ok_or(DecodeError::Contradiction)?);
        }
        Ok(())
    }

    fn decode_timings(&mut self, requests: u64, bytes: &mut &[u8]) -> Result<(), DecodeError> {
        let mask = number(bytes)?;
        if mask >> TIMINGS.len() != 0 {
            return Err(DecodeError::Other);
        }
        for (bit, timing) in self.timings.iter_mut().enumerate() {
            if mask >> bit & 1 == 0 {
                continue;
            }
            let histogram = TimeHistogram::decode(bytes)?;
            if histogram.count() > requests {
                return Err(DecodeError::Contradiction);
            }
            let (low, high) = (number(bytes)?, number(bytes)?);
            let squares = u128::from(high) << 64 | u128::from(low);
            *timing = Some(Box::new(Distribution { histogram, squares }));
        }
        Ok(())
    }
}

fn number(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    take(bytes).ok_or(DecodeError::Short)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objectives::Verdict;
    use crate::tests::record;

    fn cell(totals: &[u64]) -> Cell {
        let mut cell = Cell::default();
        for total in totals {
            let mut one = record("r", "ok");
            one.total_us = *total;
            one.error_code = total.is_multiple_of(3).then(|| format!("code-{}", total % 7));
            cell.observe(&one, &Verdict::default());
        }
        cell
    }

    fn encoded(cell: &Cell) -> Vec<u8> {
        let mut bytes = Vec::new();
        cell.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn cells_come_back_and_merge_as_if_counted_together(
            a in proptest::collection::vec(0u64..5_000_000, 0..40),
            b in proptest::collection::vec(0u64..5_000_000, 0..40),
        ) {
            let bytes = [encoded(&cell(&a)), encoded(&cell(&b))].concat();
            let mut rest = bytes.as_slice();
            let mut merged = Cell::decode(&mut rest).unwrap();
            merged.merge(&Cell::decode(&mut rest).unwrap());
            prop_assert!(rest.is_empty());
            prop_assert_eq!(merged, cell(&[a, b].concat()));
        }

        #[test]
        fn damaged_bytes_do_not_panic(
            totals in proptest::collection::vec(0u64..5_000_000, 1..20),
            at in 0usize..1000,
            byte in 0u8..=255,
        ) {
            let mut bytes = encoded(&cell(&totals));
            let at = at % bytes.len();
            prop_assert!(Cell::decode(&mut &bytes[..at]).is_err());
            bytes[at] = byte;
            if let Ok(read) = Cell::decode(&mut bytes.as_slice()) {
                prop_assert!(read.errors.len() <= MAX_ERROR_CODES + 1);
            }
        }
    }

    #[test]
    fn a_cell_of_alike_requests_takes_few_bytes() {
        let totals: Vec<u64> = (100_000..101_000).step_by(10).collect();
        let mut cell = cell(&totals);
        cell.errors.clear();
        assert!(encoded(&cell).len() < 200, "{}", encoded(&cell).len());
    }
}
