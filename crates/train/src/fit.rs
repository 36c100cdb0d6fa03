//! Fits a model to a subset of the rows.
//!
//! - *In*: rows with their features, and which of them are in the training set.
//! - *Out*: a model whose threshold comes from held-out rows.
//! - *Never*: a row outside the training set.

use aho_corasick::BuildError;

use crate::data::{File, Row};
use crate::metrics::{Scored, auc, threshold, tpr};
use crate::sample::{Sample, Samples};
use crate::scale::scale;
use crate::solver::{Example, solve};
use classifier::features::KINDS;
use classifier::hash::BUCKETS;
use classifier::lexicon::Lexicon;
use classifier::phrase::Phrases;
use classifier::toxic::Table;
use classifier::{Accuracy, Head, Model, Task};

/// Number of cross-validation folds.
pub(crate) const FOLDS: usize = 5;

const PASSES: usize = 20;

/// Hyperparameters of a question, found by five-fold cross-validation.
struct Hyperparameters {
    /// Misclassification cost.
    cost: f32,
    /// Weight of each kind of feature.
    kinds: [f32; KINDS],
    /// Weight of the class log-ratio in the scale of a feature, 0 to 1.
    log_ratio_weight: f32,
    /// Weight of the worst sentence, added to the score of the whole text.
    peak: f32,
    /// Share of the largest weights that is clipped, so that a few features do not dominate.
    clip: f64,
}

fn hyperparameters(question: Task) -> Hyperparameters {
    match question {
        Task::Injection => Hyperparameters {
            cost: 0.7,
            kinds: [1.0, 0.5, 0.5],
            log_ratio_weight: 0.4,
            peak: 0.2,
            clip: 0.0,
        },
        Task::Toxicity => Hyperparameters {
            cost: 0.15,
            kinds: [0.7, 1.0, 1.5],
            log_ratio_weight: 0.3,
            peak: 0.0,
            clip: 1e-4,
        },
    }
}

/// Label and weight of a row for a question. `None`: the row is not labeled for it.
fn role(question: Task, row: &Row) -> Option<(bool, f32)> {
    let (own, other) = match question {
        Task::Injection => (File::Injection, File::Toxicity),
        Task::Toxicity => (File::Toxicity, File::Injection),
    };
    if row.file == own {
        // A harmful request is not toxic language and is excluded; a harmless request that looks
        // like one is a good negative.
        return (!row.positive || !row.category.starts_with("request:"))
            .then_some((row.positive, 1.0));
    }
    let useful = row.file == File::Benign
        || (row.file == other && question == Task::Toxicity && !row.positive && !row.own);
    useful.then_some((false, if row.file == other { 0.5 } else { 1.0 }))
}

struct Fitter<'a> {
    question: Task,
    hyperparameters: Hyperparameters,
    rows: &'a [Row],
    samples: &'a [Sample],
    seen: Vec<usize>,
}

impl Fitter<'_> {
    fn linear(&self, without: Option<usize>) -> Vec<f32> {
        let rows =
            self.seen.iter().filter_map(|i| Some((self.rows.get(*i)?, self.samples.get(*i)?)));
        let mut examples: Vec<Example> = rows
            .filter(|(row, _)| row.own || without != Some(row.fold))
            .filter_map(|(row, sample)| {
                let (positive, weight) = role(self.question, row)?;
                let y = if positive { 1.0 } else { -1.0 };
                Some(Example {
                    x: sample.line(&self.hyperparameters.kinds),
                    y,
                    cost: self.hyperparameters.cost * weight,
                })
            })
            .collect();
        let scale = scale(&examples, self.hyperparameters.log_ratio_weight);
        let of = |bucket: u32| scale.get(bucket as usize).copied().unwrap_or(0.0);
        examples.iter_mut().flat_map(|e| &mut e.x).for_each(|(b, v)| *v *= of(*b));
        let mut weights = solve(&examples, PASSES);
        weights.iter_mut().zip(&scale).for_each(|(w, s)| *w *= s);
        weights
    }

    /// Scores of held-out rows, by weights that were trained on the other folds.
    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for fold in 0..FOLDS {
            let weights = self.linear(Some(fold));
            for (row, sample) in
                self.seen.iter().filter_map(|i| Some((self.rows.get(*i)?, self.samples.get(*i)?)))
            {
                let Some((positive, _)) =
                    role(self.question, row).filter(|_| row.fold == fold && !row.own)
                else {
                    continue;
                };
                let judged = row.file
                    == if self.question == Task::Injection {
                        File::Injection
                    } else {
                        File::Toxicity
                    };
                let ordinary =
                    row.file == File::Benign && !row.category.starts_with("hard_negative");
                held.push(Held {
                    raw: sample.raw(
                        &weights,
                        &self.hyperparameters.kinds,
                        self.hyperparameters.peak,
                    ),
                    positive,
                    judged,
                    benign: row.file == File::Benign,
                    ordinary,
                });
            }
        }
        held
    }

    fn head(&self, scale: f32) -> Head {
        let held = self.held();
        let raw = |pick: &dyn Fn(&Held) -> bool| -> Vec<Scored> {
            held.iter().filter(|h| pick(h)).map(|h| (h.raw, h.positive)).collect()
        };
        let scored = raw(&|h| h.judged);
        let mut head = Head {
            scale,
            kinds: self.hyperparameters.kinds,
            peak: self.hyperparameters.peak,
            ..Head::default()
        };
        let all = tail(&raw(&|h| h.judged || h.benign), 0.01);
        head.threshold = all.max(tail(&raw(&|h| h.ordinary), ORDINARY));
        let spread = scored.iter().map(|(s, _)| (s - head.threshold).powi(2)).sum::<f32>()
            / scored.len().max(1) as f32;
        head.slope = 3.0 / spread.sqrt().max(1e-6);
        head.measured = Accuracy { auc: auc(&scored) as f32, tpr: tpr(&scored) as f32 };
        head
    }

    /// The quantization step of a weight.
    fn scale(&self, weights: &[f32]) -> f32 {
        let mut sizes: Vec<f32> = weights.iter().map(|w| w.abs()).filter(|w| *w > 0.0).collect();
        sizes.sort_by(f32::total_cmp);
        let kept =
            (sizes.len().saturating_sub(1) as f64 * (1.0 - self.hyperparameters.clip)) as usize;
        sizes.get(kept).copied().unwrap_or(1.0).max(1e-9) / 127.0
    }
}

/// The score of a held-out row.
struct Held {
    raw: f32,
    positive: bool,
    /// Whether the row is from the question's own file: counts for its metrics.
    judged: bool,
    /// Whether the row is from the benign file: no filter may flag it.
    benign: bool,
    /// Whether the row is an ordinary prompt or answer, not a hard negative.
    ordinary: bool,
}

/// Approximate score above which `share` of the negatives lie. One order statistic of a few hundred
/// rows is noisy, so this averages several.
fn tail(scored: &[Scored], share: f64) -> f32 {
    let around = [0.3, 0.5, 0.7, 1.0, 1.4, 2.0];
    around.iter().map(|of| threshold(scored, share * of)).sum::<f32>() / around.len() as f32
}

/// Target share of ordinary prompts above the threshold, for weights trained on four fifths of the
/// rows. Weights trained on all rows reach about half of it.
const ORDINARY: f64 = 0.012;

/// Fit a model to the rows that `pick` accepts and to all rows of `own.txt`.
pub fn fit(
    rows: &[Row],
    samples: &Samples,
    pick: impl Fn(&Row) -> bool,
) -> Result<Model, BuildError> {
    let seen: Vec<usize> =
        rows.iter().enumerate().filter(|(_, r)| r.own || pick(r)).map(|(i, _)| i).collect();
    let mut table = vec![[0i8; 2]; BUCKETS];
    let mut heads: [Head; 2] = Default::default();
    for (column, (question, head)) in Task::ALL.into_iter().zip(&mut heads).enumerate() {
        let fitter = Fitter {
            question,
            hyperparameters: hyperparameters(question),
            rows,
            samples: samples.all(),
            seen: seen.clone(),
        };
        let weights = fitter.linear(None);
        let scale = fitter.scale(&weights);
        for (slot, weight) in table.iter_mut().zip(&weights) {
            if let Some(cell) = slot.get_mut(column) {
                *cell = (weight / scale).round().clamp(-127.0, 127.0) as i8;
            }
        }
        *head = fitter.head(scale);
    }
    Ok(Model {
        weights: table,
        heads,
        lexicon: Lexicon::load(),
        phrases: Phrases::new()?,
        toxic: Table::new()?,
    })
}
