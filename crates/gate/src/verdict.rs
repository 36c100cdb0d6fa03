//! What a gate decided.

use serde::Serialize;

use crate::metric::Metric;

/// The decision about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No check failed, and each one would have seen a change of twice what is tolerated.
    Pass,
    /// A check failed.
    Regression,
    /// The runs cannot be compared: different workloads or machines, a missing metric or baseline.
    NotComparable,
    /// A run cannot be trusted: the client was too busy, it is incomplete, or it has too few
    /// samples.
    Invalid,
}

impl Verdict {
    /// The exit code of `llm-lens gate`.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Regression => 1,
            Verdict::NotComparable => 2,
            Verdict::Invalid => 3,
        }
    }

    /// The words of the text and Markdown output.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Regression => "regression",
            Verdict::NotComparable => "not comparable",
            Verdict::Invalid => "invalid run",
        }
    }
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The change is tolerated, or not supported by the interval.
    Pass,
    /// The change is more than tolerated, and the interval supports it; or the bound is exceeded.
    Regression,
    /// A run does not have the metric.
    Missing,
    /// A change of twice what is tolerated could be missed.
    TooFewSamples,
}

/// The figures of one check. Changes are shares of the baseline, or points of a share for failures;
/// absent means unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The metric.
    pub metric: Metric,
    /// Of the baseline.
    pub baseline: Option<f64>,
    /// Of the candidate.
    pub candidate: Option<f64>,
    /// The change.
    pub change: Option<f64>,
    /// The interval of the change.
    pub interval: Option<(f64, f64)>,
    /// The change for the worse that is found with a probability of 95 %.
    pub resolution: Option<f64>,
    /// The change for the worse that is tolerated; absent for bounds.
    pub tolerated: Option<f64>,
    /// The absolute bound; absent for thresholds.
    pub bound: Option<f64>,
    /// The result.
    pub outcome: Outcome,
    /// Why, as a sentence.
    pub reason: String,
}
