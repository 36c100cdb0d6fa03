//! The features of labelled texts.
//!
//! - *In*: rows.
//! - *Out*: for every row its buckets by kind, the parts its words play, its size.
//! - *Never*: a label.

use aho_corasick::BuildError;

use super::data::Row;
use crate::classify::extract::extract;
use crate::classify::features::{KINDS, Kind, PARTS, Sink, numbers, size};
use crate::classify::lexicon::Lexicon;
use crate::classify::phrase::Phrases;

/// The features of one text.
#[derive(Debug)]
struct Bag {
    kinds: [Vec<u32>; KINDS],
    parts: [f32; PARTS],
}

impl Sink for Bag {
    fn feature(&mut self, kind: Kind, bucket: u32) {
        if let Some(list) = self.kinds.get_mut(kind as usize) {
            list.push(bucket);
        }
    }

    fn fact(&mut self, bucket: u32) {
        self.feature(Kind::Parts, bucket);
    }

    fn part(&mut self, class: u8) {
        if let Some(n) = self.parts.get_mut(class as usize) {
            *n += 1.0;
        }
    }

    fn sentence(&mut self) {}
}

/// One row, ready for training.
#[derive(Debug)]
pub(super) struct Sample {
    kinds: [Vec<(u32, f32)>; KINDS],
    pub(super) all: Vec<(u32, f32)>,
    parts: [f32; PARTS],
    size: (f32, f32),
}

/// All rows, ready for training.
#[derive(Debug)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Takes the features of every row.
    pub fn new(rows: &[Row]) -> Result<Self, BuildError> {
        let (lexicon, phrases) = (Lexicon::new(), Phrases::new()?);
        let one = |row: &Row| {
            let mut bag = Bag { kinds: Default::default(), parts: [0.0; PARTS] };
            extract(&lexicon, &phrases, &row.normal, &mut bag);
            let kinds = bag.kinds.map(unit);
            let mut all: Vec<(u32, f32)> = kinds.iter().flatten().copied().collect();
            all.sort_by_key(|(b, _)| *b);
            Sample { kinds, all, parts: bag.parts, size: size(&row.normal) }
        };
        Ok(Self(rows.iter().map(one).collect()))
    }

    pub(super) fn all(&self) -> &[Sample] {
        &self.0
    }
}

/// Every bucket once, all of one length.
fn unit(mut buckets: Vec<u32>) -> Vec<(u32, f32)> {
    buckets.sort_unstable();
    buckets.dedup();
    let value = 1.0 / (buckets.len().max(1) as f32).sqrt();
    buckets.into_iter().map(|b| (b, value)).collect()
}

impl Sample {
    pub(super) fn numbers(&self, weights: &[f32]) -> [f32; KINDS + 3 + PARTS] {
        let mut sums = [0f32; KINDS];
        for (sum, kind) in sums.iter_mut().zip(&self.kinds) {
            *sum = super::solver::dot(kind, weights);
        }
        numbers(sums, self.size.0, self.size.1, &self.parts)
    }
}
