//! Sums the weights of the features of a text.
//!
//! - *In*: features, as the walk reports them.
//! - *Out*: the raw score of each question.
//! - *Never*: a feature counted twice in one window.

use super::features::{KINDS, Kind, MIN_OCCURRENCES, Sink};
use super::seen::Seen;
use super::{Model, TASKS};

/// Characters after which the next end of a sentence closes the window.
const WINDOW: u32 = 3000;

/// Sums over one window at a time.
pub(super) struct Scorer<'a> {
    model: &'a Model,
    seen: Seen,
    sums: [[i32; TASKS]; KINDS],
    counts: [u32; KINDS],
    /// Sums and counts when the sentence began.
    before: ([[i32; TASKS]; KINDS], [u32; KINDS]),
    /// The highest score of a sentence in this window, by question.
    peak: Option<[f32; TASKS]>,
    /// Character features in this window, three for each symbol.
    chars: u32,
    /// Facts about the whole text count in every window.
    facts: Vec<u32>,
    best: Option<[f32; TASKS]>,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(model: &'a Model) -> Self {
        Self {
            model,
            seen: Seen::take(),
            sums: [[0; TASKS]; KINDS],
            counts: [0; KINDS],
            before: Default::default(),
            peak: None,
            chars: 0,
            facts: Vec::new(),
            best: None,
        }
    }

    /// The raw scores of the best window.
    pub(super) fn finish(mut self) -> [f32; TASKS] {
        if self.chars > 0 || self.best.is_none() {
            self.close();
        }
        self.best.unwrap_or_default()
    }

    fn close(&mut self) {
        let mut raw = [0f32; TASKS];
        for (column, (head, raw)) in self.model.heads.iter().zip(&mut raw).enumerate() {
            let mut sums = [0f32; KINDS];
            for ((sum, all), n) in sums.iter_mut().zip(&self.sums).zip(&self.counts) {
                *sum = all.get(column).copied().unwrap_or(0) as f32 / ((*n).max(1) as f32).sqrt();
            }
            sums.iter_mut().zip(&head.kinds).for_each(|(sum, kind)| *sum *= head.scale * kind);
            let peak = self.peak.and_then(|p| p.get(column).copied()).unwrap_or(0.0)
                * head.scale
                * head.peak;
            *raw = sums.iter().sum::<f32>() + peak;
        }
        self.best = Some(self.best.map_or(raw, |best| highest(best, raw)));
        self.seen.clear();
        (self.before, self.peak) = Default::default();
        (self.sums, self.counts, self.chars) = ([[0; TASKS]; KINDS], [0; KINDS], 0);
        for fact in std::mem::take(&mut self.facts) {
            self.fact(fact);
        }
    }

    /// Scores the new features of the sentence that ends.
    fn end_sentence(&mut self) {
        if self.counts == self.before.1 {
            return;
        }
        let mut news = [0f32; TASKS];
        for (column, (head, new)) in self.model.heads.iter().zip(&mut news).enumerate() {
            let kinds = self
                .sums
                .iter()
                .zip(&self.before.0)
                .zip(self.counts.iter().zip(&self.before.1))
                .zip(head.kinds.iter().zip(MIN_OCCURRENCES));
            for (((sum, old), (n, m)), (kind, least)) in kinds {
                let sum = sum.get(column).zip(old.get(column)).map_or(0, |(a, b)| a - b);
                *new += sum as f32 * kind / ((n - m).max(least) as f32).sqrt();
            }
        }
        self.before = (self.sums, self.counts);
        self.peak = Some(self.peak.map_or(news, |peak| highest(peak, news)));
    }

    #[inline]
    fn add(&mut self, kind: Kind, bucket: u32) {
        if !self.seen.first(bucket) {
            return;
        }
        if let (Some(weights), Some(sums), Some(n)) = (
            self.model.weights.get(bucket as usize),
            self.sums.get_mut(kind as usize),
            self.counts.get_mut(kind as usize),
        ) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += i32::from(*weight);
            }
            *n += 1;
        }
    }
}

/// The higher score of each class.
fn highest(mut a: [f32; TASKS], b: [f32; TASKS]) -> [f32; TASKS] {
    for (a, b) in a.iter_mut().zip(b) {
        *a = a.max(b);
    }
    a
}

impl Sink for Scorer<'_> {
    #[inline]
    fn feature(&mut self, kind: Kind, bucket: u32) {
        self.chars += u32::from(kind == Kind::Chars);
        self.add(kind, bucket);
    }

    fn fact(&mut self, bucket: u32) {
        self.facts.push(bucket);
        self.add(Kind::Parts, bucket);
    }

    fn sentence(&mut self) {
        self.end_sentence();
        if self.chars > WINDOW * 3 {
            self.close();
        }
    }
}
