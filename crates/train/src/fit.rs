//! Fits a model to the rows.
//!
//! - *In*: rows with their features.
//! - *Out*: a model whose thresholds come from sources that were held out; scores of held-out rows.
//! - *Never*: a score of a row by weights that were trained on it, its source, or a near-duplicate.

use std::collections::HashMap;

use aho_corasick::BuildError;

use crate::data::{File, Row};
use crate::metrics::{Scored, auc, threshold, tpr};
use crate::partition::Partition;
use crate::sample::{Sample, Samples};
use crate::scale::scale;
use crate::solver::{Example, solve};
use classifier::features::KINDS;
use classifier::hash::BUCKETS;
use classifier::lexicon::Lexicon;
use classifier::phrase::Phrases;
use classifier::toxic::Table;
use classifier::{Accuracy, Head, Model, RARE, TASKS, Task};

const PASSES: usize = 12;
/// Rows of one group or source count less, by the root of their number; a group at most by this.
const MAX_GROUP: usize = 16;

/// Hyperparameters of a class, found by leaving sources out.
#[derive(Clone, Debug)]
pub struct Hyperparameters {
    /// Misclassification cost.
    pub cost: f32,
    /// Weight of each kind of feature.
    pub kinds: [f32; KINDS],
    /// Weight of the class log-ratio in the scale of a feature, 0 to 1.
    pub log_ratio_weight: f32,
    /// Weight of the worst sentence, added to the score of the whole text.
    pub peak: f32,
    /// Cost of the worst sentence of each text as an example of its own; 0: none.
    pub sentences: f32,
    /// Exponent by which the rows of a large source count less.
    pub balance: f32,
    /// Share of the largest weights that is clipped, so that a few features do not dominate.
    pub clip: f64,
    /// Maximum slope of the score. The weights of phrases of toxic language were set for this one.
    pub max_slope: f32,
}

/// The hyperparameters of a class.
pub fn hyperparameters(task: Task) -> Hyperparameters {
    match task {
        Task::Injection | Task::ToolInjection => Hyperparameters {
            cost: 0.7,
            kinds: [1.0, 0.5, 0.5],
            log_ratio_weight: 0.4,
            peak: 0.2,
            sentences: 0.0,
            balance: 0.5,
            clip: 0.0,
            max_slope: f32::INFINITY,
        },
        Task::Toxicity => Hyperparameters {
            cost: 0.15,
            kinds: [0.7, 1.0, 1.5],
            log_ratio_weight: 0.3,
            peak: 0.0,
            sentences: 0.0,
            balance: 0.5,
            clip: 1e-4,
            max_slope: 3.2,
        },
    }
}

/// Label and weight of a row for a class. `None`: it is not trained on for it.
fn role(task: Task, row: &Row) -> Option<(bool, f32)> {
    match (task, row.file) {
        (Task::Injection, File::Injection | File::Benign) => Some((row.positive, 1.0)),
        // A user may give instructions, so harmless prompts say nothing about tool results.
        (Task::ToolInjection, File::Injection) if !row.tool => row.positive.then_some((true, 0.5)),
        (Task::ToolInjection, File::Injection | File::Benign) => Some((row.positive, 1.0)),
        (Task::Injection | Task::ToolInjection, File::Toxicity) => None,
        // A harmful request is not toxic language and is excluded; a harmless request that looks
        // like one is a good negative.
        (Task::Toxicity, File::Toxicity) => {
            (!row.positive || !row.category.starts_with("request:")).then_some((row.positive, 1.0))
        }
        (Task::Toxicity, File::Injection) => (!row.positive && !row.own).then_some((false, 0.5)),
        (Task::Toxicity, File::Benign) => Some((false, 1.0)),
    }
}

/// Whether a row counts for the metrics of a class.
pub(crate) fn is_judged(task: Task, row: &Row) -> bool {
    !row.own
        && match task {
            Task::Injection => row.file == File::Injection,
            Task::ToolInjection => row.file != File::Toxicity && row.tool,
            Task::Toxicity => row.file == File::Toxicity && !row.category.starts_with("request:"),
        }
}

/// Trains one class.
#[derive(Debug)]
pub struct Fitter<'a> {
    task: Task,
    hyperparameters: Hyperparameters,
    rows: &'a [Row],
    samples: &'a [Sample],
    /// Weight of each row; 0: it is not trained on.
    weights: Vec<f32>,
}

impl<'a> Fitter<'a> {
    /// Prepares the rows.
    pub fn new(
        task: Task,
        hyperparameters: Hyperparameters,
        rows: &'a [Row],
        samples: &'a Samples,
    ) -> Self {
        let mut groups: HashMap<usize, usize> = HashMap::new();
        let mut families: HashMap<(&str, bool), usize> = HashMap::new();
        for row in rows.iter().filter(|row| role(task, row).is_some()) {
            *groups.entry(row.group).or_default() += 1;
            *families.entry((row.family(), row.positive)).or_default() += 1;
        }
        let weight = |row: &Row| {
            let Some((positive, weight)) = role(task, row) else { return 0.0 };
            if row.own {
                return weight;
            }
            let group = groups.get(&row.group).copied().unwrap_or(1).clamp(1, MAX_GROUP);
            let family = families.get(&(row.family(), positive)).copied().unwrap_or(1).max(1);
            weight * (group as f32).powf(-0.5) * (family as f32).powf(-hyperparameters.balance)
        };
        let mut weights: Vec<f32> = rows.iter().map(weight).collect();
        let trained = rows.iter().zip(&weights).filter(|(row, weight)| !row.own && **weight > 0.0);
        let (n, sum) = trained.fold((0f32, 0f32), |(n, sum), (_, weight)| (n + 1.0, sum + weight));
        for (_, weight) in rows.iter().zip(&mut weights).filter(|(row, _)| !row.own) {
            *weight *= n / sum.max(1e-9);
        }
        Fitter { task, hyperparameters, rows, samples: samples.all(), weights }
    }

    fn examples(&self, held: Option<(&Partition, usize)>) -> Vec<(usize, Example)> {
        let trains = |at: usize, row: &Row| held.is_none_or(|(p, part)| p.trains(part, at, row));
        let all = self.rows.iter().zip(self.samples).zip(&self.weights).enumerate();
        all.filter(|(at, ((row, _), weight))| **weight > 0.0 && trains(*at, row))
            .map(|(at, ((row, sample), weight))| {
                let x = sample.line(&self.hyperparameters.kinds);
                let y = if row.positive { 1.0 } else { -1.0 };
                (at, Example { x, y, cost: self.hyperparameters.cost * weight })
            })
            .collect()
    }

    /// Weights trained on all rows, or on those outside of a part.
    pub fn linear(&self, held: Option<(&Partition, usize)>) -> Vec<f32> {
        let hyperparameters = &self.hyperparameters;
        let (rows, mut examples): (Vec<usize>, Vec<Example>) =
            self.examples(held).into_iter().unzip();
        let scale = scale(&examples, hyperparameters.log_ratio_weight);
        let of = |bucket: u32| scale.get(bucket as usize).copied().unwrap_or(0.0);
        let scaled = |x: &mut Vec<(u32, f32)>| x.iter_mut().for_each(|(b, v)| *v *= of(*b));
        examples.iter_mut().for_each(|example| scaled(&mut example.x));
        let unscaled = |mut weights: Vec<f32>| {
            weights.iter_mut().zip(&scale).for_each(|(w, s)| *w *= s);
            weights
        };
        let weights = unscaled(solve(&examples, PASSES));
        if hyperparameters.sentences <= 0.0 {
            return weights;
        }
        // The worst sentence of each text, by the first weights, as an example of its own.
        let mut sentences = Vec::new();
        for (at, example) in rows.iter().zip(&examples) {
            let Some(sample) = self.samples.get(*at) else { continue };
            let Some(mut x) = sample.worst_sentence(&weights, &hyperparameters.kinds) else {
                continue;
            };
            scaled(&mut x);
            let cost = example.cost * hyperparameters.sentences;
            sentences.push(Example { x, y: example.y, cost });
        }
        examples.extend(sentences);
        unscaled(solve(&examples, PASSES))
    }

    /// Raw scores of the rows of a partition, each by weights that were trained without its part.
    pub fn held_out(&self, partition: &Partition) -> Vec<Option<f32>> {
        let mut held = vec![None; self.rows.len()];
        for part in 0..partition.len() {
            let is_measured =
                |(at, row): (usize, &Row)| partition.holds(part, at) && self.is_measured(row);
            if !self.rows.iter().enumerate().any(is_measured) {
                continue;
            }
            let weights = self.linear(Some((partition, part)));
            let hyperparameters = &self.hyperparameters;
            for (at, (slot, sample)) in held.iter_mut().zip(self.samples).enumerate() {
                if partition.holds(part, at) {
                    let raw = sample.raw(&weights, &hyperparameters.kinds, hyperparameters.peak);
                    *slot = Some(raw);
                }
            }
        }
        held
    }

    fn is_measured(&self, row: &Row) -> bool {
        is_judged(self.task, row) || (row.file == File::Benign && !row.own)
    }

    /// The head, with thresholds from held-out rows.
    fn head(&self, scale: f32, held: &[Option<f32>]) -> Head {
        let scored = |pick: &dyn Fn(&Row) -> bool| -> Vec<Scored> {
            let rows = self.rows.iter().zip(held).filter(|(row, _)| pick(row));
            rows.filter_map(|(row, raw)| Some((raw.as_ref().copied()?, row.positive))).collect()
        };
        let [flag, block] = [0.01, 0.001].map(|share| {
            self.harmless().iter().map(|pick| tail(&scored(pick), share)).fold(f32::MIN, f32::max)
        });
        let judged = scored(&|row| is_judged(self.task, row));
        Head {
            scale,
            kinds: self.hyperparameters.kinds,
            peak: self.hyperparameters.peak,
            threshold: flag,
            slope: ((RARE / (1.0 - RARE)).ln() / (block - flag).max(1e-4))
                .min(self.hyperparameters.max_slope),
            measured: Accuracy { auc: auc(&judged) as f32, tpr: tpr(&judged) as f32 },
        }
    }

    /// Kinds of harmless rows, none of which may be flagged too often.
    fn harmless(&self) -> [IsKind; 2] {
        let task = self.task;
        let judged = move |row: &Row| is_judged(task, row) && !row.positive;
        let others = move |row: &Row| row.file == File::Benign && !row.own;
        [Box::new(judged), Box::new(others)]
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

/// Whether a row is of a kind.
type IsKind = Box<dyn Fn(&Row) -> bool>;

/// Approximate score above which `share` of the negatives lie. One order statistic of a few hundred
/// rows is noisy, so this averages several.
fn tail(scored: &[Scored], share: f64) -> f32 {
    let around = [0.5, 0.7, 1.0, 1.4, 2.0];
    around.iter().map(|of| threshold(scored, share * of)).sum::<f32>() / around.len() as f32
}

/// A model with the scores that it is measured by.
#[derive(Debug)]
pub struct Trained {
    /// The model, trained on all rows.
    pub model: Model,
    /// Raw scores of each class, for the rows of the partition by source, by weights that were
    /// trained without their source.
    pub held: [Vec<Option<f32>>; TASKS],
}

/// Fit a model to all rows.
///
/// # Errors
/// A table of phrases that cannot be compiled.
pub fn fit(rows: &[Row], samples: &Samples) -> Result<Trained, BuildError> {
    let partition = Partition::by_source(rows);
    let mut table = vec![[0i8; TASKS]; BUCKETS];
    let mut heads: [Head; TASKS] = Default::default();
    let mut held: [Vec<Option<f32>>; TASKS] = Default::default();
    for (column, (task, head)) in Task::ALL.into_iter().zip(&mut heads).enumerate() {
        let fitter = Fitter::new(task, hyperparameters(task), rows, samples);
        let weights = fitter.linear(None);
        let scale = fitter.scale(&weights);
        for (slot, weight) in table.iter_mut().zip(&weights) {
            if let Some(cell) = slot.get_mut(column) {
                *cell = (weight / scale).round().clamp(-127.0, 127.0) as i8;
            }
        }
        let raw = fitter.held_out(&partition);
        *head = fitter.head(scale, &raw);
        if let Some(held) = held.get_mut(column) {
            *held = raw;
        }
    }
    let model = Model {
        weights: table,
        heads,
        lexicon: Lexicon::load(),
        phrases: Phrases::new()?,
        toxic: Table::new()?,
    };
    Ok(Trained { model, held })
}

/// Raw scores of each class for the rows of a partition.
pub fn held_out(
    rows: &[Row],
    samples: &Samples,
    partition: &Partition,
) -> [Vec<Option<f32>>; TASKS] {
    Task::ALL
        .map(|task| Fitter::new(task, hyperparameters(task), rows, samples).held_out(partition))
}
