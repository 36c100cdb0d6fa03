//! The counts and distributions of one series in one interval.
//!
//! - *In*: finished records with the verdict of their objectives.
//! - *Out*: sums, percentiles, mean and standard deviation; bytes that can be merged anywhere.
//! - *Never*: a percentile that was averaged: cells are merged bucket by bucket. More than
//!   [`MAX_ERROR_CODES`] error codes; the rest counts as `other`.

mod encoding;
pub use encoding::DecodeError;

use std::collections::BTreeMap;
use std::sync::Arc;

use lens::record::Outcome;
use lens::{Record, TimeHistogram, Timing};

use crate::labels::OTHER;
use crate::objectives::Verdict;

/// Maximum different error codes of a cell.
pub const MAX_ERROR_CODES: usize = 64;
/// Maximum bytes of an error code.
const MAX_CODE_BYTES: usize = 64;

/// The timings of a cell.
pub const TIMINGS: [Timing; 7] = [
    Timing::Total,
    Timing::EngineTtft,
    Timing::ClientTtft,
    Timing::Tpot,
    Timing::EstimatedTpot,
    Timing::Queue,
    Timing::Guardrail,
];

/// A histogram, and the sum of squares for its standard deviation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The values, in microseconds.
    pub histogram: TimeHistogram,
    squares: u128,
}

impl Distribution {
    fn record(&mut self, micros: u64) {
        let micros = micros.min(lens::MAX_VALUE);
        self.histogram.record(micros);
        self.squares = self.squares.saturating_add(u128::from(micros).pow(2));
    }

    fn merge(&mut self, other: &Distribution) {
        self.histogram.merge(&other.histogram);
        self.squares = self.squares.saturating_add(other.squares);
    }

    /// Mean and standard deviation of the values, exact; `None` without values.
    pub fn mean_and_deviation(&self) -> Option<(f64, f64)> {
        let (count, sum) = (u128::from(self.histogram.count()), u128::from(self.histogram.sum()));
        if count == 0 {
            return None;
        }
        // Whole numbers, because the difference of two large sums would lose its digits.
        let spread = count.saturating_mul(self.squares).saturating_sub(sum.saturating_mul(sum));
        Some((sum as f64 / count as f64, (spread as f64).sqrt() / count as f64))
    }
}

/// Everything counted about the requests of a series in an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Requests that the gateway or an engine failed: [`Record::is_service_failure`].
    pub service_failures: u64,
    /// Requests of routes with objectives that were served, or that the service failed.
    pub judged: u64,
    /// Those of [`Cell::judged`] that were served and missed no objective.
    pub good: u64,
    /// Prompt tokens as reported by engines.
    pub input_tokens: u64,
    /// Generated tokens as reported by engines.
    pub output_tokens: u64,
    /// Estimated generated tokens of requests without reported usage.
    pub estimated_tokens: u64,
    /// Requests by error code.
    pub errors: BTreeMap<Arc<str>, u64>,
    timings: [Option<Box<Distribution>>; TIMINGS.len()],
}

impl Cell {
    /// Count a finished request.
    pub fn observe(&mut self, record: &Record, verdict: &Verdict) {
        self.outcomes[record.outcome as usize] += 1;
        self.service_failures += u64::from(record.is_service_failure());
        self.judged += u64::from(verdict.is_judged());
        self.good += u64::from(verdict.is_good());
        if let Some(usage) = &record.usage {
            let prompt = usage.prompt_tokens.filter(|_| !usage.prompt_estimated);
            self.input_tokens += prompt.unwrap_or(0);
            let generated = usage.completion_tokens.unwrap_or(0);
            match usage.estimated {
                true => self.estimated_tokens += generated,
                false => self.output_tokens += generated,
            }
        }
        if let Some(code) = &record.error_code {
            self.count_errors(code, 1);
        }
        for (timing, micros) in record.timings() {
            let at = TIMINGS.iter().position(|kept| *kept == timing);
            if let Some(distribution) = at.and_then(|at| self.timings.get_mut(at)) {
                distribution.get_or_insert_default().record(micros);
            }
        }
    }

    fn count_errors(&mut self, code: &str, count: u64) {
        if let Some(known) = self.errors.get_mut(code) {
            *known += count;
            return;
        }
        let has_room = self.errors.len() < MAX_ERROR_CODES && code.len() <= MAX_CODE_BYTES;
        let code = if has_room { code } else { OTHER };
        *self.errors.entry(code.into()).or_default() += count;
    }

    /// Merge another cell into this one.
    pub fn merge(&mut self, other: &Cell) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in [
            (&mut self.service_failures, other.service_failures),
            (&mut self.judged, other.judged),
            (&mut self.good, other.good),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.estimated_tokens, other.estimated_tokens),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        for (code, count) in &other.errors {
            self.count_errors(code, *count);
        }
        for (mine, theirs) in self.timings.iter_mut().zip(&other.timings) {
            if let Some(theirs) = theirs {
                mine.get_or_insert_default().merge(theirs);
            }
        }
    }

    /// Number of requests.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// The timings that have values.
    pub fn timings(&self) -> impl Iterator<Item = (Timing, &Distribution)> {
        let all = TIMINGS.into_iter().zip(&self.timings);
        all.filter_map(|(timing, distribution)| Some((timing, distribution.as_deref()?)))
    }

    /// A timing, if it has values.
    pub fn timing(&self, timing: Timing) -> Option<&Distribution> {
        self.timings().find(|(known, _)| *known == timing).map(|(_, distribution)| distribution)
    }
}
