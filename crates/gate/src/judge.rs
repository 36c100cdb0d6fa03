//! Judges a candidate against one or several baselines, or pairs of interleaved blocks.
//!
//! - *In*: runs and [`Options`].
//! - *Out*: a [`Decision`].
//! - *Never*: a regression that either the point estimate or its interval does not show.

mod assess;
mod comparable;

use crate::blocks::{Block, MIN_BLOCKS, cut, whole};
use crate::check::{Bound, Threshold};
use crate::metric::Metric;
use crate::run::Run;
use crate::verdict::{Figures, Outcome, Verdict};
use assess::Assessor;

pub use comparable::FIELDS;

/// Minimum pairs of interleaved blocks.
const MIN_PAIRS: usize = MIN_BLOCKS / 2;
/// Tolerated increase of the share of failures, where no threshold is given for it.
const FAILURES: Threshold = Threshold { metric: Metric::Failures, tolerated: 0.01 };

/// What is checked, and how strictly.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Relative thresholds. Failures are always checked: by default, one point more is tolerated.
    pub thresholds: Vec<Threshold>,
    /// Absolute bounds of the candidate.
    pub bounds: Vec<Bound>,
    /// A change of a time below this is no regression, in microseconds.
    pub and_above_us: f64,
    /// Maximum share of invalid windows of a run. Default 0.1.
    pub max_invalid: f64,
    /// Fields of [`FIELDS`] that may differ.
    pub allow: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            thresholds: Vec::new(),
            bounds: Vec::new(),
            and_above_us: 0.0,
            max_invalid: 0.1,
            allow: Vec::new(),
        }
    }
}

/// The decision about a candidate, with its reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The decision.
    pub verdict: Verdict,
    /// Why, if it is not a pass: a sentence each.
    pub reasons: Vec<String>,
    /// What a reader should know: differences that were allowed, windows that were left out.
    pub notes: Vec<String>,
    /// Names of the baselines.
    pub baselines: Vec<String>,
    /// Name of the candidate.
    pub candidate: String,
    /// The checks; empty if the runs cannot be compared or are invalid.
    pub checks: Vec<Figures>,
}

impl Decision {
    /// A decision without figures.
    pub fn without_figures(verdict: Verdict, reasons: Vec<String>) -> Self {
        Decision {
            verdict,
            reasons,
            notes: Vec::new(),
            baselines: Vec::new(),
            candidate: String::new(),
            checks: Vec::new(),
        }
    }
}

/// One side of a comparison.
pub(crate) struct Side {
    /// The blocks of each run.
    pub(crate) runs: Vec<Vec<Block>>,
    /// The rate of an open loop.
    pub(crate) rate: Option<f64>,
    /// Whether objectives were given.
    pub(crate) has_objectives: bool,
}

/// Judges a candidate against baselines. Three or more baselines also show how much runs differ
/// from each other, and widen the interval accordingly.
pub fn judge(baselines: &[Run], candidate: &Run, options: &Options) -> Decision {
    let mut decision = Decision::without_figures(Verdict::Pass, Vec::new());
    decision.baselines = baselines.iter().map(|run| run.name.clone()).collect();
    decision.candidate = candidate.name.clone();
    let Some(first) = baselines.first() else {
        return decision.end(Verdict::NotComparable, vec!["there is no baseline".to_owned()]);
    };
    let mut different = Vec::new();
    for baseline in baselines {
        let (reasons, notes) = comparable::differences(baseline, candidate, &options.allow);
        different.extend(reasons);
        decision.notes.extend(notes);
    }
    if !different.is_empty() {
        return decision.end(Verdict::NotComparable, different);
    }
    let mut problems = Vec::new();
    let mut blocks = Vec::new();
    for run in baselines.iter().chain([candidate]) {
        problems.extend(invalid(run, options.max_invalid));
        decision.notes.extend(left_out(run));
        match cut(run) {
            Ok(cut) => blocks.push(cut),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return decision.end(Verdict::Invalid, problems);
    }
    let new = blocks.pop().into_iter().collect();
    let side = |runs, of: &Run| Side { runs, rate: of.rate, has_objectives: of.has_objectives };
    let assessor = Assessor {
        base: side(blocks, first),
        new: side(new, candidate),
        is_paired: false,
        and_above_us: options.and_above_us,
        checks: thresholds(options).len(),
    };
    decision.conclude(&assessor, options)
}

/// Judges interleaved blocks: each pair has a short run of either side, one right after the other,
/// in random order. What changes slowly on the machine is the same on both sides.
pub fn judge_pairs(pairs: &[(Run, Run)], options: &Options) -> Decision {
    let mut decision = Decision::without_figures(Verdict::Pass, Vec::new());
    let Some((base, new)) = pairs.first() else {
        return decision.end(Verdict::Invalid, vec!["there are no pairs of blocks".to_owned()]);
    };
    decision.baselines = vec![base.name.clone()];
    decision.candidate = new.name.clone();
    let mut problems = Vec::new();
    if pairs.len() < MIN_PAIRS {
        problems.push(format!("{} pairs of blocks; at least {MIN_PAIRS} are needed", pairs.len()));
    }
    let runs = || pairs.iter().flat_map(|(base, new)| [base, new]);
    problems.extend(runs().filter_map(incomplete).take(1));
    let windows: usize = runs().map(|run| run.windows).sum();
    let broken: usize = runs().map(|run| run.invalid.len()).sum();
    problems.extend(too_many_invalid("the blocks", broken, windows, options.max_invalid));
    if !problems.is_empty() {
        return decision.end(Verdict::Invalid, problems);
    }
    let side = |runs: Vec<Block>, of: &Run| Side {
        runs: vec![runs],
        rate: of.rate,
        has_objectives: of.has_objectives,
    };
    let assessor = Assessor {
        base: side(pairs.iter().map(|(base, _)| whole(base)).collect(), base),
        new: side(pairs.iter().map(|(_, new)| whole(new)).collect(), new),
        is_paired: true,
        and_above_us: options.and_above_us,
        checks: thresholds(options).len(),
    };
    decision.notes.push(format!("{} pairs of interleaved blocks", pairs.len()));
    if broken > 0 {
        decision.notes.push(format!(
            "left out the requests that were under way in {broken} invalid windows of {windows}"
        ));
    }
    decision.conclude(&assessor, options)
}

/// The thresholds, with the one of failures.
fn thresholds(options: &Options) -> Vec<Threshold> {
    let mut all = options.thresholds.clone();
    if !all.iter().any(|threshold| threshold.metric == Metric::Failures) {
        all.push(FAILURES);
    }
    all
}

fn incomplete(run: &Run) -> Option<String> {
    (run.ended != "completed").then(|| {
        let how = run.ended.replace('_', " ");
        format!("{} is incomplete ({how}); run it again", run.name)
    })
}

/// Why a run cannot be trusted.
fn invalid(run: &Run, max_invalid: f64) -> Vec<String> {
    let busy = too_many_invalid(&run.name, run.invalid.len(), run.windows, max_invalid);
    incomplete(run).into_iter().chain(busy).collect()
}

fn too_many_invalid(name: &str, broken: usize, windows: usize, max: f64) -> Option<String> {
    let share = if windows == 0 { 1.0 } else { broken as f64 / windows as f64 };
    (share > max).then(|| {
        format!(
            "{name}: the client was too busy in {broken} of {windows} windows, and {:.0} % are \
             permitted; use a machine with nothing else to do, a lower rate, or a larger \
             --max-client-error",
            max * 100.0
        )
    })
}

fn left_out(run: &Run) -> Option<String> {
    let count = run.requests.iter().filter(|request| !run.is_valid(request)).count();
    (count > 0).then(|| {
        format!(
            "{}: left out {count} of {} requests, which were under way in {} invalid windows",
            run.name,
            run.requests.len(),
            run.invalid.len()
        )
    })
}

impl Decision {
    fn end(mut self, verdict: Verdict, reasons: Vec<String>) -> Self {
        self.verdict = verdict;
        self.reasons = reasons;
        self
    }

    /// Makes every check, and decides.
    fn conclude(mut self, assessor: &Assessor, options: &Options) -> Self {
        let thresholds = thresholds(options);
        self.checks = thresholds.iter().map(|threshold| assessor.threshold(threshold)).collect();
        self.checks.extend(options.bounds.iter().map(|bound| assessor.bound(bound)));
        let has = |outcome| self.checks.iter().any(|check| check.outcome == outcome);
        let (verdict, outcome) = if has(Outcome::Missing) {
            (Verdict::NotComparable, Outcome::Missing)
        } else if has(Outcome::Regression) {
            (Verdict::Regression, Outcome::Regression)
        } else if has(Outcome::TooFewSamples) {
            (Verdict::Invalid, Outcome::TooFewSamples)
        } else {
            (Verdict::Pass, Outcome::Pass)
        };
        let failed = self.checks.iter().filter(|check| check.outcome == outcome);
        let reasons = match verdict {
            Verdict::Pass => Vec::new(),
            _ => failed.map(|check| format!("{}: {}", check.metric, check.reason)).collect(),
        };
        self.end(verdict, reasons)
    }
}
