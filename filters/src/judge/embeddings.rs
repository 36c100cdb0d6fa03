//! Calls an embeddings API, and compares texts with examples of forbidden prompts.
//!
//! - *In*: texts of users and tools, or a window of an answer.
//! - *Out*: its similarity to the nearest example, as a score.
//! - *Never*: a second request for the examples once their vectors are known. Two concurrent first
//!   requests may both fetch them; the vectors are the same.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::common::JudgeCommon;
use super::newest::MAX_TEXTS;
use super::reading::{bounded, by_index, number};
use super::words::{Line, Words};
use crate::BoxFuture;
use crate::filter::{Filter, Hooks};
use crate::host::Call;
use crate::report::{Category, Failure, Report};
use crate::settings::Judge;
use crate::subject::{Subject, TextSource};

/// Maximum dimensions of a vector; the largest models have 8,192.
const MAX_DIMENSIONS: usize = 16_384;

/// The only kind of finding.
const LIKENESS: Line = ("likeness", "TOPIC_LIKENESS", Category::Topic);

/// The filter that calls an embeddings API.
#[derive(Debug)]
pub(super) struct Embeddings {
    common: JudgeCommon,
    examples: Vec<String>,
    vectors: OnceLock<Vec<Vector>>,
}

impl Embeddings {
    /// A filter with these settings.
    pub(super) fn new(settings: &Judge) -> Self {
        // `categories` is not used: there is only one kind of finding.
        let words = Words::new(&[LIKENESS], &[], Category::Topic, false);
        Embeddings {
            common: JudgeCommon::new(settings, words),
            examples: settings.examples.clone(),
            vectors: OnceLock::new(),
        }
    }

    async fn examples(&self, call: &Call<'_>) -> Result<&[Vector], Failure> {
        if let Some(known) = self.vectors.get() {
            return Ok(known);
        }
        let question = self.common.question_about(self.examples.iter().map(String::as_str));
        let vectors = self
            .common
            .call(call, &question, |answer| read(answer, self.examples.len(), None))
            .await?;
        Ok(self.vectors.get_or_init(|| vectors))
    }

    async fn compare(&self, subject: &Subject, call: &Call<'_>) -> Result<Report, Failure> {
        let pieces = self.common.newest(subject, MAX_TEXTS, TextSource::is_untrusted)?;
        if pieces.is_empty() || self.examples.is_empty() {
            return Ok(Report::default());
        }
        let examples = self.examples(call).await?;
        let dimensions = examples.first().map(|vector| vector.numbers.len());
        let question = self.common.question_about(pieces.iter().map(|piece| piece.words));
        let vectors = self
            .common
            .call(call, &question, |answer| read(answer, pieces.len(), dimensions))
            .await?;
        let mut tally = self.common.tally(subject);
        for (piece, vector) in pieces.iter().zip(&vectors) {
            let best = examples.iter().map(|example| example.likeness(vector)).fold(0.0, f32::max);
            if let Some(known) = self.common.words.find(LIKENESS.0) {
                tally.whole(piece, known, best);
            }
        }
        Ok(tally.done())
    }
}

/// The embedding of a text, with its Euclidean length.
#[derive(Debug)]
struct Vector {
    numbers: Vec<f32>,
    length: f64,
}

impl Vector {
    /// The cosine similarity of two vectors of the same dimensions, 0 to 1; negative values count
    /// as 0.
    fn likeness(&self, other: &Vector) -> f32 {
        let product: f64 = self
            .numbers
            .iter()
            .zip(&other.numbers)
            .map(|(one, two)| f64::from(*one) * f64::from(*two))
            .sum();
        bounded(product / (self.length * other.length)).unwrap_or_default()
    }
}

/// The vectors of a response, all with the same number of dimensions: `dimensions`, if it is known.
fn read(answer: &Value, asked: usize, dimensions: Option<usize>) -> Option<Vec<Vector>> {
    let vectors =
        by_index(answer.get("data")?, asked, |entry| read_vector(entry.get("embedding")?))?;
    let length = dimensions.or_else(|| vectors.first().map(|vector| vector.numbers.len()))?;
    vectors.iter().all(|vector| vector.numbers.len() == length).then_some(vectors)
}

fn read_vector(value: &Value) -> Option<Vector> {
    let numbers = value.as_array().filter(|numbers| numbers.len() <= MAX_DIMENSIONS)?;
    let numbers: Vec<f32> = numbers.iter().map(number).collect::<Option<_>>()?;
    let length = numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    // An empty vector and a vector of zeros have no direction.
    (length > 0.0).then_some(Vector { numbers, length })
}

impl Filter for Embeddings {
    fn hooks(&self) -> Hooks {
        self.common.hooks()
    }

    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        Box::pin(self.compare(subject, call))
    }
}
