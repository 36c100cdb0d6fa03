//! The features of labeled texts.
//!
//! - *In*: rows.
//! - *Out*: the buckets of every row, by kind and sentence.
//! - *Never*: a label.

use aho_corasick::BuildError;

use crate::data::Row;
use classifier::extract::extract;
use classifier::features::{KINDS, Kind, MIN_OCCURRENCES, Sink};
use classifier::lexicon::Lexicon;
use classifier::phrase::Phrases;

/// A bucket and the index of the sentence it occurs in.
type Met = (u32, u32);

/// Collects the features of one text.
#[derive(Debug)]
struct Bag {
    kinds: [Vec<Met>; KINDS],
    sentence: u32,
}

impl Sink for Bag {
    fn feature(&mut self, kind: Kind, bucket: u32) {
        if let Some(list) = self.kinds.get_mut(kind as usize) {
            list.push((bucket, self.sentence));
        }
    }

    fn fact(&mut self, bucket: u32) {
        self.feature(Kind::Parts, bucket);
    }

    fn sentence(&mut self) {
        self.sentence += 1;
    }
}

/// One row, ready for training.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Each bucket once, with the first sentence it occurs in, sorted by bucket.
    kinds: [Vec<Met>; KINDS],
    sentences: usize,
}

/// All rows, ready for training.
#[derive(Debug)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Extracts the features of every row.
    pub fn new(rows: &[Row]) -> Result<Self, BuildError> {
        let (lexicon, phrases) = (Lexicon::load(), Phrases::new()?);
        let one = |row: &Row| {
            let mut bag = Bag { kinds: Default::default(), sentence: 0 };
            extract(&lexicon, &phrases, &row.normal, &mut bag);
            let sentences = bag.sentence as usize + 1;
            Sample { kinds: bag.kinds.map(once), sentences }
        };
        Ok(Self(rows.iter().map(one).collect()))
    }

    pub(crate) fn all(&self) -> &[Sample] {
        &self.0
    }
}

fn once(mut met: Vec<Met>) -> Vec<Met> {
    met.sort_unstable();
    met.dedup_by_key(|m| m.0);
    met
}

impl Sample {
    /// The buckets of all kinds with their values. The vector of each kind has the length in
    /// `kinds`.
    pub(crate) fn line(&self, kinds: &[f32; KINDS]) -> Vec<(u32, f32)> {
        let value = |n: usize, kind: &f32| kind / (n.max(1) as f32).sqrt();
        let each = self
            .kinds
            .iter()
            .zip(kinds)
            .flat_map(|(met, kind)| met.iter().map(move |m| (m.0, value(met.len(), kind))));
        let mut line: Vec<(u32, f32)> = each.collect();
        line.sort_by_key(|(b, _)| *b);
        line
    }

    /// The features of the sentence with the highest score, as the scorer normalizes them. `None`
    /// if the text has one sentence.
    pub(crate) fn worst_sentence(
        &self,
        weights: &[f32],
        kinds: &[f32; KINDS],
    ) -> Option<Vec<(u32, f32)>> {
        if self.sentences < 3 {
            return None;
        }
        let (sums, _) = self.sentence_scores(weights, kinds);
        let (worst, _) = sums.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        let worst = worst as u32;
        let mut line = Vec::new();
        for ((met, kind), least) in self.kinds.iter().zip(kinds).zip(MIN_OCCURRENCES) {
            let n = met.iter().filter(|(_, sentence)| *sentence == worst).count();
            let value = kind / (n.max(least as usize) as f32).sqrt();
            let of = met.iter().filter(|(_, sentence)| *sentence == worst);
            line.extend(of.map(|(bucket, _)| (*bucket, value)));
        }
        line.sort_by_key(|(bucket, _)| *bucket);
        Some(line)
    }

    fn sentence_scores(&self, weights: &[f32], kinds: &[f32; KINDS]) -> (Vec<f32>, Vec<bool>) {
        let mut sentences = vec![0f32; self.sentences];
        let mut told = vec![false; self.sentences];
        for ((met, kind), least) in self.kinds.iter().zip(kinds).zip(MIN_OCCURRENCES) {
            let mut each = vec![(0f32, 0u32); self.sentences];
            for (bucket, sentence) in met {
                let weight = weights.get(*bucket as usize).copied().unwrap_or(0.0);
                if let Some((s, n)) = each.get_mut(*sentence as usize) {
                    (*s, *n) = (*s + weight, *n + 1);
                }
            }
            for ((all, told), (s, n)) in sentences.iter_mut().zip(&mut told).zip(each) {
                *all += s * kind / (n.max(least) as f32).sqrt();
                *told |= n > 0;
            }
        }
        (sentences, told)
    }

    /// The raw score, computed as the scorer computes it.
    pub(crate) fn raw(&self, weights: &[f32], kinds: &[f32; KINDS], peak: f32) -> f32 {
        let mut sums = [0f32; KINDS];
        for ((sum, met), kind) in sums.iter_mut().zip(&self.kinds).zip(kinds) {
            let weight = |met: &Met| weights.get(met.0 as usize).copied().unwrap_or(0.0);
            *sum = met.iter().map(weight).sum::<f32>() * kind / (met.len().max(1) as f32).sqrt();
        }
        let (sentences, told) = self.sentence_scores(weights, kinds);
        let worst = sentences
            .into_iter()
            .zip(told)
            .filter(|(_, told)| *told)
            .map(|(s, _)| s)
            .reduce(f32::max);
        sums.iter().sum::<f32>() + peak * worst.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{self, File};
    use classifier::hash::BUCKETS;
    use classifier::toxic::Table;
    use classifier::{Head, Model};

    /// Deterministic weights without meaning.
    fn model() -> Model {
        let weights = (0..BUCKETS as u32).map(|i| {
            [(i.wrapping_mul(2_654_435_761) >> 24) as u8, (i % 251) as u8, (i % 13) as u8]
                .map(u8::cast_signed)
        });
        let head = Head { scale: 0.01, kinds: [1.0, 0.5, 0.7], peak: 0.3, ..Head::default() };
        Model {
            weights: weights.collect(),
            heads: [head.clone(), head.clone(), head],
            lexicon: Lexicon::load(),
            phrases: Phrases::new().expect("phrases"),
            toxic: Table::new().expect("table"),
        }
    }

    #[test]
    fn training_sees_the_sums_that_the_scorer_sees() {
        let text = "The garden lies behind the house and is quiet. PLEASE ignore the weeds, all of them! Is it \\\"yours\\\"? No. It is mine and stays so.";
        let row = format!(
            "{{\"text\": \"{text}\", \"label\": \"benign\", \"category\": \"c\", \"source\": \"s\"}}"
        );
        let rows =
            data::rows([(File::Injection, row.as_str()), (File::Toxicity, ""), (File::Benign, "")])
                .expect("rows");
        let samples = Samples::new(&rows).expect("samples");
        let model = model();
        let weights: Vec<f32> = model.weights.iter().map(|[w, ..]| f32::from(*w) * 0.01).collect();
        let (row, sample) = rows.first().zip(samples.all().first()).expect("one row");
        let seen = sample.raw(&weights, &[1.0, 0.5, 0.7], 0.3);
        let ([scored, ..], _) = model.raw(&row.normal);
        assert!((seen - scored).abs() < 1e-3, "{seen} {scored}");
    }
}
