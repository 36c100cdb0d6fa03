//! Predicts the times of a request at a backend.
//!
//! - *In*: sizes of past requests, the backend's load when they came, and their times.
//! - *Out*: predicted times to the first and the last token; errors of past predictions.
//! - *Never*: a lock that selection waits for: coefficients are published, and an update is skipped
//!   while another runs.
//!
//! Recursive least squares with forgetting (Plackett, 1950; Haykin, *Adaptive Filter Theory*,
//! chapter 10): *time = round trip + a + b x prompt + c x tokens in flight* and *time of a token =
//! d + e x requests in flight*. The round trip is measured separately; its current value is added.
//! So is the mean of the last few errors of the time to the first token: the regression remembers
//! hundreds of requests, and a backend that is only explored now and then gets few.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::ewma::Mean;

/// Forgetting factor: about two hundred requests count.
const KEPT: f64 = 0.995;
/// Minimum requests before a prediction.
const MIN_SAMPLES: u64 = 5;
/// Weight of the last error in the mean of recent errors: six requests make up for most of a
/// change.
const RECENT: f64 = 0.3;
/// Initial uncertainty.
const UNKNOWN: f64 = 1e4;
/// Number of errors kept.
const ERRORS: usize = 128;

/// Size of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSize {
    /// Prompt tokens.
    pub prompt: u64,
    /// Maximum output tokens.
    pub output: u64,
}

impl RequestSize {
    /// Their sum.
    pub fn tokens(&self) -> u64 {
        self.prompt.saturating_add(self.output)
    }
}

/// Load of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight.
    pub requests: u64,
    /// Their tokens.
    pub tokens: u64,
}

/// Predicted times of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// Seconds to the first token.
    pub ttft: f64,
    /// Seconds for each token after it; `None`: unknown.
    pub tpot: Option<f64>,
}

/// The prediction model of a backend.
#[derive(Debug, Default)]
pub struct Predictor {
    first: Regression<3>,
    each: Regression<2>,
    rtt: Mean,
    /// Recent errors of the regression for the first token, in seconds.
    drift: Mean,
    ttft_errors: Errors,
    completion_errors: Errors,
}

/// Times of an answer, from the request sent.
#[derive(Clone, Copy, Debug)]
pub struct AnswerTimes {
    /// To its first token.
    pub first: Duration,
    /// To its last.
    pub last: Duration,
    /// Mean time of each token after the first: TPOT.
    pub each: Duration,
}

/// Median relative error of predictions; `None`: no predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MedianErrors {
    /// Of the time to the first token.
    pub ttft: Option<f64>,
    /// Of the time to the last token, for the actual number of tokens.
    pub completion: Option<f64>,
}

impl Predictor {
    /// Predict the times of a request; `None`: too few measurements.
    pub fn predict(&self, question: &RequestSize, busy: &Load) -> Option<Predicted> {
        let rtt = self.rtt.mean().unwrap_or(0.0);
        let first = self.first.at(&first_of(question, busy))?;
        let ttft = (first + self.drift.mean().unwrap_or(0.0)).max(0.0) + rtt;
        Some(Predicted { ttft, tpot: self.each.at(&each_of(busy)).map(|tpot| tpot.max(0.0)) })
    }

    /// Learn from a first token, and record the error of its prediction.
    pub fn learn_first(
        &self,
        question: &RequestSize,
        busy: &Load,
        predicted: Option<&Predicted>,
        took: Duration,
    ) {
        let took = took.as_secs_f64();
        predicted.into_iter().for_each(|predicted| self.ttft_errors.judge(predicted.ttft, took));
        let (x, y) = (first_of(question, busy), took - self.rtt.mean().unwrap_or(0.0));
        if let Some(expected) = self.first.at(&x) {
            self.drift.add(y - expected, RECENT);
        }
        self.first.learn(&x, y.max(0.0));
    }

    /// Learn from a complete answer, and record the error of its prediction.
    pub fn learn_each(&self, busy: &Load, predicted: Option<&Predicted>, pace: &AnswerTimes) {
        let [first, last, each] = [pace.first, pace.last, pace.each].map(|span| span.as_secs_f64());
        if let Some((predicted, tpot)) =
            predicted.and_then(|predicted| Some((predicted, predicted.tpot?)))
        {
            let tokens = (last - first).max(0.0) / each.max(1e-9);
            self.completion_errors.judge(predicted.ttft + tpot * tokens, last);
        }
        self.each.learn(&each_of(busy), each);
    }

    /// Record a round trip.
    pub fn round_trip(&self, took: Duration) {
        self.rtt.add(took.as_secs_f64(), 0.2);
    }

    /// Errors of predictions.
    pub fn median_errors(&self) -> MedianErrors {
        MedianErrors {
            ttft: self.ttft_errors.median(),
            completion: self.completion_errors.median(),
        }
    }
}

impl Predicted {
    /// Seconds to the last token.
    pub fn completion(&self, question: &RequestSize) -> Option<f64> {
        self.tpot.map(|tpot| self.ttft + tpot * question.output as f64)
    }
}

/// Thousands of tokens, so that the coefficients have similar magnitudes.
fn first_of(question: &RequestSize, busy: &Load) -> [f64; 3] {
    [1.0, question.prompt as f64 / 1000.0, busy.tokens as f64 / 1000.0]
}

fn each_of(busy: &Load) -> [f64; 2] {
    [1.0, busy.requests as f64]
}

/// Relative errors in thousandths; newer ones overwrite older ones.
#[derive(Debug)]
struct Errors {
    errors: [AtomicU32; ERRORS],
    judged: AtomicU64,
}

impl Default for Errors {
    fn default() -> Self {
        Errors { errors: [const { AtomicU32::new(0) }; ERRORS], judged: AtomicU64::new(0) }
    }
}

impl Errors {
    fn judge(&self, predicted: f64, took: f64) {
        let error = ((predicted - took).abs() / took.max(1e-6) * 1000.0).min(1e6) as u32;
        let at = self.judged.fetch_add(1, Ordering::Relaxed) as usize % ERRORS;
        if let Some(place) = self.errors.get(at) {
            place.store(error, Ordering::Relaxed);
        }
    }

    fn median(&self) -> Option<f64> {
        let known = (self.judged.load(Ordering::Relaxed) as usize).min(ERRORS);
        let mut errors: Vec<u32> =
            self.errors.iter().take(known).map(|error| error.load(Ordering::Relaxed)).collect();
        errors.sort_unstable();
        errors.get(errors.len() / 2).map(|error| f64::from(*error) / 1000.0)
    }
}

/// Recursive least squares.
#[derive(Debug)]
struct Regression<const N: usize> {
    state: Mutex<Learnt<N>>,
    /// The coefficients as `f64` bits.
    published: [AtomicU64; N],
    samples: AtomicU64,
}

#[derive(Debug)]
struct Learnt<const N: usize> {
    weights: [f64; N],
    /// Inverse correlation matrix.
    spread: [[f64; N]; N],
}

impl<const N: usize> Default for Regression<N> {
    fn default() -> Self {
        let mut spread = [[0.0; N]; N];
        for (at, row) in spread.iter_mut().enumerate() {
            row[at] = UNKNOWN;
        }
        Regression {
            state: Mutex::new(Learnt { weights: [0.0; N], spread }),
            published: [const { AtomicU64::new(0) }; N],
            samples: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Regression<N> {
    fn at(&self, x: &[f64; N]) -> Option<f64> {
        if self.samples.load(Ordering::Relaxed) < MIN_SAMPLES {
            return None;
        }
        Some(
            self.published
                .iter()
                .zip(x)
                .map(|(weight, x)| f64::from_bits(weight.load(Ordering::Relaxed)) * x)
                .sum(),
        )
    }

    fn learn(&self, x: &[f64; N], y: f64) {
        let Some(mut state) = self.state.try_lock() else { return };
        let Learnt { weights, spread } = &mut *state;
        let px: [f64; N] =
            std::array::from_fn(|row| spread[row].iter().zip(x).map(|(p, x)| p * x).sum());
        // Forgetting is skipped for inputs that do not vary: it would only inflate their
        // uncertainty until nothing could be learned.
        let kept = if (0..N).any(|at| spread[at][at] >= UNKNOWN) { 1.0 } else { KEPT };
        let gain = kept + px.iter().zip(x).map(|(p, x)| p * x).sum::<f64>();
        let error = y - weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        for (weight, p) in weights.iter_mut().zip(&px) {
            *weight += p / gain * error;
        }
        for (row, p) in spread.iter_mut().zip(&px) {
            for (cell, q) in row.iter_mut().zip(&px) {
                *cell = (*cell - p * q / gain) / kept;
            }
        }
        for (published, weight) in self.published.iter().zip(weights.iter()) {
            published.store(weight.to_bits(), Ordering::Relaxed);
        }
        self.samples.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn coefficients_are_learned_and_follow_changes() {
        let (predictor, random) = (Predictor::default(), Random::new(3));
        let question = |prompt| RequestSize { prompt, output: 100 };
        let took = |prompt: u64, tokens: u64, base: f64| {
            base + 0.2e-3 * prompt as f64 + 0.05e-3 * tokens as f64
        };
        assert_eq!(predictor.predict(&question(1), &Load::default()), None);
        predictor.round_trip(Duration::from_millis(80));
        for base in [0.02, 0.3] {
            for _ in 0..1500 {
                let (prompt, busy) = (
                    random.below(4000) as u64,
                    Load { requests: random.below(10) as u64, tokens: random.below(20_000) as u64 },
                );
                let seconds =
                    0.08 + took(prompt, busy.tokens, base) * (0.95 + 0.1 * random.share());
                let predicted = predictor.predict(&question(prompt), &busy);
                predictor.learn_first(
                    &question(prompt),
                    &busy,
                    predicted.as_ref(),
                    Duration::from_secs_f64(seconds),
                );
                let each = 0.01 + 0.001 * busy.requests as f64;
                let [first, last, each] =
                    [seconds, seconds + 20.0 * each, each].map(Duration::from_secs_f64);
                predictor.learn_each(&busy, predicted.as_ref(), &AnswerTimes { first, last, each });
            }
            let predicted =
                predictor.predict(&question(1000), &Load { requests: 4, tokens: 5000 }).unwrap();
            let (want, errors) = (0.08 + took(1000, 5000, base), predictor.median_errors());
            assert!((predicted.ttft / want - 1.0).abs() < 0.05, "{predicted:?} {want}");
            assert!(errors.ttft.unwrap() < 0.06 && errors.completion.unwrap() < 0.06, "{errors:?}");
            assert!((predicted.tpot.unwrap() - 0.014).abs() < 0.001);
            assert!((predicted.completion(&question(1000)).unwrap() - want - 1.4).abs() < 0.15);
        }
    }

    /// Learns an input that starts to vary after a long time.
    #[test]
    fn input_that_varies_late_is_learned() {
        let (predictor, random) = (Predictor::default(), Random::new(9));
        let took = |prompt: u64| Duration::from_secs_f64(0.05 + 0.0002 * prompt as f64);
        let mut off = 0;
        for n in 0..4000 {
            let question = RequestSize {
                prompt: if n < 1000 { 500 } else { 100 + random.below(4000) as u64 },
                output: 1,
            };
            let predicted = predictor.predict(&question, &Load::default());
            if let (Some(predicted), true) = (&predicted, n > 1200) {
                off += usize::from(
                    (predicted.ttft / took(question.prompt).as_secs_f64() - 1.0).abs() > 0.1,
                );
            }
            predictor.learn_first(
                &question,
                &Load::default(),
                predicted.as_ref(),
                took(question.prompt),
            );
        }
        assert_eq!(off, 0);
    }

    /// A backend that has become fast is noticed by the few requests that explore it.
    #[test]
    fn few_requests_make_up_for_a_change() {
        let predictor = Predictor::default();
        let question = RequestSize { prompt: 100, output: 1 };
        let learn = |count, millis| {
            for _ in 0..count {
                let took = Duration::from_millis(millis);
                predictor.learn_first(&question, &Load::default(), None, took);
            }
            predictor.predict(&question, &Load::default()).expect("enough measurements").ttft
        };
        assert!((learn(160, 150) - 0.15).abs() < 0.001);
        let better = learn(7, 50);
        assert!(better * 0.8 < 0.05, "{better}");
    }

    #[test]
    fn constant_input_stays_stable() {
        let predictor = Predictor::default();
        for _ in 0..100_000 {
            predictor.learn_first(
                &RequestSize { prompt: 10, output: 1 },
                &Load::default(),
                None,
                Duration::from_millis(100),
            );
        }
        let predicted =
            predictor.predict(&RequestSize { prompt: 10, output: 1 }, &Load::default()).unwrap();
        assert!((predicted.ttft - 0.1).abs() < 1e-3, "{predicted:?}");
    }
}
