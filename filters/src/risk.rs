//! Combines the scores of all detectors to a risk.
//!
//! `risk = 1 - product over categories of (1 - weight * score)`, the *noisy or* of Pearl
//! (Probabilistic Reasoning in Intelligent Systems, 1988, chapter 4.3): each category is an
//! independent cause and by itself makes the risk as large as its weighted score. The score of a
//! category is the highest score of its detectors, 0 to 1.

use crate::report::{Category, Report};
use crate::settings;

/// Weight of a category. An attack on the model is a risk by itself; an e-mail address in a prompt
/// is common.
const fn weight(category: Category) -> f32 {
    match category {
        Category::Injection | Category::Leak | Category::Unsafe => 1.0,
        Category::Toxicity => 0.8,
        Category::Policy => 0.7,
        Category::Secret => 0.6,
        Category::Topic => 0.5,
        Category::Pii | Category::Size => 0.3,
    }
}

/// Minimum score that counts: classifiers give every text some score.
const MIN_SCORE: f32 = 0.1;

/// Level of a risk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Below the first threshold.
    #[default]
    Low,
    /// Between the two.
    Medium,
    /// At the second or above.
    High,
}

impl Level {
    /// The word in records.
    pub fn name(self) -> &'static str {
        match self {
            Level::Low => "LOW",
            Level::Medium => "MEDIUM",
            Level::High => "HIGH",
        }
    }
}

/// The highest score of each category.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Risk([f32; Category::ALL.len()]);

impl Risk {
    /// Add the score of a filter.
    pub fn add(&mut self, report: &Report) {
        let found = report.found.iter().map(|found| (found.category, found.score));
        for (category, score) in report.scores.iter().copied().chain(found) {
            if let Some(most) = self.0.get_mut(category as usize) {
                // A score that is not a number is ignored.
                *most = most.max(score.clamp(0.0, 1.0));
            }
        }
    }

    /// The highest score of a category, 0 to 1.
    pub fn score(&self, category: Category) -> f32 {
        self.0.get(category as usize).copied().unwrap_or(0.0)
    }

    /// The risk, 0 to 1.
    pub fn value(&self) -> f32 {
        let counts = Category::ALL
            .into_iter()
            .map(|category| (category, self.score(category)))
            .filter(|(_, score)| *score >= MIN_SCORE);
        1.0 - counts.map(|(category, score)| 1.0 - weight(category) * score).product::<f32>()
    }

    /// The level of the risk.
    pub fn level(&self, settings: &settings::RiskSettings) -> Level {
        match self.value() {
            risk if risk >= settings.high => Level::High,
            risk if risk >= settings.medium => Level::Medium,
            _ => Level::Low,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Action;

    fn of(scores: &[(Category, f32)]) -> f32 {
        let mut risk = Risk::default();
        risk.add(&Report { found: Vec::new(), scores: scores.to_vec() });
        risk.value()
    }

    #[test]
    fn categories_count_by_weight_and_combine() {
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[(Category::Injection, 0.05)]), 0.0, "noise");
        assert!((of(&[(Category::Injection, 0.9)]) - 0.9).abs() < 1e-6);
        assert!((of(&[(Category::Pii, 1.0)]) - 0.3).abs() < 1e-6);
        // 1 - (1 - 0.5)(1 - 0.6 * 0.5)
        assert!((of(&[(Category::Injection, 0.5), (Category::Secret, 0.5)]) - 0.65).abs() < 1e-6);
        assert!(
            (of(&[(Category::Pii, 0.5), (Category::Pii, 0.9)]) - 0.27).abs() < 1e-6,
            "the highest of a category counts"
        );
    }

    #[test]
    fn levels_begin_at_their_thresholds() {
        let settings = settings::RiskSettings {
            medium: 0.4,
            high: 0.8,
            on_medium: Action::Off,
            on_high: Action::Off,
        };
        let level = |score| {
            let mut risk = Risk::default();
            risk.add(&Report { found: Vec::new(), scores: vec![(Category::Injection, score)] });
            risk.level(&settings)
        };
        assert_eq!(
            [0.0, 0.39, 0.41, 0.79, 0.81].map(level),
            [Level::Low, Level::Low, Level::Medium, Level::Medium, Level::High]
        );
    }

    proptest! {
        #[test]
        fn risk_is_between_zero_and_one_and_monotonic(
            scores in proptest::collection::vec((0usize..9, -1.0f32..2.0), 0..20),
            more in 0usize..9,
        ) {
            let scores: Vec<_> =
                scores.into_iter().map(|(at, score)| (Category::ALL[at], score)).collect();
            let before = of(&scores);
            prop_assert!((0.0..=1.0).contains(&before));
            let mut after = scores;
            after.push((Category::ALL[more], 1.0));
            prop_assert!(of(&after) >= before);
            after.push((Category::Pii, f32::NAN));
            prop_assert!((0.0..=1.0).contains(&of(&after)));
        }
    }
}
