//! What a chart shows of one minute or hour: counts, tokens, cost, and sketches of times.
//!
//! - *In*: records, or bytes of a table.
//! - *Out*: exact sums, and percentiles to within 1.1 %.
//! - *Never*: a percentile that is kept. Rollups merge by adding, in any order.

use lens::histogram::DecodeError;
use lens::record::Outcome;
use lens::varint::{put, take};
use lens::{Record, TimeHistogram, Timing};

/// The version of the encoding.
const VERSION: u8 = 1;

/// The times of a rollup, in its order.
pub const ROLLUP_TIMINGS: [Timing; 5] =
    [Timing::EngineTtft, Timing::ClientTtft, Timing::Tpot, Timing::Total, Timing::ClientItl];

/// Times of the first version. Further ones are appended, and older versions ignore them.
const OLDEST_TIMINGS: usize = 4;

/// Sums and sketches of some requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollup {
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Prompt tokens that engines reported.
    pub input_tokens: u64,
    /// Generated tokens that engines reported.
    pub output_tokens: u64,
    /// Estimated generated tokens of the other requests.
    pub estimated_tokens: u64,
    /// Cost in dollars, of requests whose model has a price.
    pub cost: f64,
    /// Sketches, in the order of [`ROLLUP_TIMINGS`]. Estimated times per token are left out.
    pub times: [TimeHistogram; ROLLUP_TIMINGS.len()],
}

impl Rollup {
    /// Count a finished request.
    pub fn observe(&mut self, record: &Record) {
        if let Some(count) = self.outcomes.get_mut(record.outcome as usize) {
            *count += 1;
        }
        let usage = record.usage.as_ref();
        let is_estimated = usage.is_some_and(|usage| usage.estimated);
        if let Some(usage) = usage {
            self.input_tokens += usage.prompt_tokens.unwrap_or(0);
            let generated = usage.completion_tokens.unwrap_or(0);
            match is_estimated {
                true => self.estimated_tokens += generated,
                false => self.output_tokens += generated,
            }
        }
        self.cost += record.cost.unwrap_or(0.0);
        let tpot = record.tpot_us.filter(|_| !is_estimated).map(|us| us.round() as u64);
        let values = [record.engine_ttft_us, record.client_ttft_us, tpot, Some(record.total_us)];
        for (sketch, value) in self.times.iter_mut().zip(values) {
            if let Some(value) = value {
                sketch.record(value);
            }
        }
        if let ([.., gaps], Some(sketch)) = (&mut self.times, &record.client_itl_sketch) {
            gaps.add_sketch(&sketch.0);
        }
    }

    /// Merge another rollup into this one.
    pub fn merge(&mut self, other: &Rollup) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(&other.outcomes) {
            *mine += theirs;
        }
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.estimated_tokens += other.estimated_tokens;
        self.cost += other.cost;
        for (mine, theirs) in self.times.iter_mut().zip(&other.times) {
            mine.merge(theirs);
        }
    }

    /// Number of requests.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Number of requests with this outcome.
    pub fn with_outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or(0)
    }

    /// The rollup as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.outcomes.len() as u8];
        let tokens = [self.input_tokens, self.output_tokens, self.estimated_tokens];
        self.outcomes.iter().chain(&tokens).for_each(|number| put(&mut out, *number));
        out.extend(self.cost.to_le_bytes());
        self.times.iter().for_each(|sketch| sketch.encode(&mut out));
        out
    }

    /// The rollup of bytes.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = &mut bytes;
        let ([version, outcomes], rest) =
            bytes.split_first_chunk::<2>().ok_or(DecodeError::Short)?;
        let mut rollup = Rollup::default();
        let outcomes = usize::from(*outcomes);
        if *version != VERSION || outcomes > rollup.outcomes.len() {
            return Err(DecodeError::Other);
        }
        *bytes = rest;
        // An older version has written the first ones: outcomes are only appended.
        for count in rollup.outcomes.iter_mut().take(outcomes) {
            *count = take(bytes).ok_or(DecodeError::Short)?;
        }
        for tokens in
            [&mut rollup.input_tokens, &mut rollup.output_tokens, &mut rollup.estimated_tokens]
        {
            *tokens = take(bytes).ok_or(DecodeError::Short)?;
        }
        let (cost, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Short)?;
        rollup.cost = f64::from_le_bytes(*cost);
        *bytes = rest;
        for (at, sketch) in rollup.times.iter_mut().enumerate() {
            if at >= OLDEST_TIMINGS && bytes.is_empty() {
                break;
            }
            *sketch = TimeHistogram::decode(bytes)?;
        }
        Ok(rollup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded_len(sketch: &TimeHistogram) -> usize {
        let mut out = Vec::new();
        sketch.encode(&mut out);
        out.len()
    }

    #[test]
    fn bytes_give_the_equal_rollup_and_damaged_ones_an_error() {
        let mut rollup = Rollup { outcomes: [5, 0, 1, 0, 0, 0, 0, 2], ..Rollup::default() };
        (rollup.input_tokens, rollup.output_tokens, rollup.cost) = (1 << 40, 7, 0.25);
        rollup.times.iter_mut().zip(1..).for_each(|(sketch, us)| sketch.record(us * 1000));
        let bytes = rollup.encode();
        assert_eq!(Rollup::decode(&bytes), Ok(rollup.clone()));
        assert_eq!((rollup.requests(), rollup.with_outcome(Outcome::Limited)), (8, 2));
        let gaps = bytes.len() - encoded_len(&rollup.times[OLDEST_TIMINGS]);
        for cut in (0..bytes.len()).filter(|cut| *cut != gaps) {
            assert_eq!(Rollup::decode(&bytes[..cut]), Err(DecodeError::Short), "{cut}");
        }
        assert_eq!(Rollup::decode(&[9, 8]), Err(DecodeError::Other));
        // Fewer outcomes, and of the last one none; no gaps between tokens.
        let mut older = bytes[..gaps].to_vec();
        rollup.times[OLDEST_TIMINGS] = TimeHistogram::default();
        (older[1], _) = (older[1] - 1, older.remove(2 + rollup.outcomes.len() - 1));
        rollup.outcomes[rollup.outcomes.len() - 1] = 0;
        assert_eq!(Rollup::decode(&older), Ok(rollup));
        let more = [VERSION, bytes[1] + 1];
        assert_eq!(Rollup::decode(&more), Err(DecodeError::Other));
    }
}
