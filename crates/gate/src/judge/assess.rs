//! One check: estimate, interval, outcome.
//!
//! - *In*: the blocks of both sides, and a threshold or a bound.
//! - *Out*: the [`Figures`].
//! - *Never*: a pass of a check that could not have failed.

use super::Side;
use crate::blocks::Block;
use crate::bootstrap::{Estimator, Scale, deviation, standard_error};
use crate::check::{Bound, Threshold};
use crate::metric::{Metric, Statistic};
use crate::samples::min_samples;
use crate::student::upper_quantile;
use crate::verdict::{Figures, Outcome};

/// Share of comparisons of equal sides in which some check may fail.
const FALSE_ALARMS: f64 = 0.01;
/// Share of changes of the size of the resolution that may be missed.
const MISSES: f64 = 0.05;
/// A check must be able to see a change of this many times what is tolerated.
const RESOLUTION: f64 = 2.0;
/// Baselines from which the difference of runs is known.
const MIN_RUNS: usize = 3;

/// Compares two sides.
pub(super) struct Assessor {
    pub(super) base: Side,
    pub(super) new: Side,
    /// Whether blocks of the same number belong together.
    pub(super) is_paired: bool,
    pub(super) and_above_us: f64,
    /// Number of thresholds, which share the false alarms.
    pub(super) checks: usize,
}

/// The spread of a change on its scale.
struct Spread {
    error: f64,
    degrees: u32,
}

impl Assessor {
    /// Checks a threshold.
    pub(super) fn threshold(&self, threshold: &Threshold) -> Figures {
        let metric = threshold.metric;
        let mut figures = empty(metric);
        figures.tolerated = Some(threshold.tolerated);
        let sides = [("baseline", &self.base), ("candidate", &self.new)];
        let mut both = Vec::new();
        for (name, side) in sides {
            match self.estimator(metric, name, side) {
                Ok(estimator) => both.push(estimator),
                Err((outcome, reason)) => return Figures { outcome, reason, ..figures },
            }
        }
        let (Some(new), Some(base)) = (both.pop(), both.pop()) else { return figures };
        (figures.baseline, figures.candidate) = (base.point(), new.point());
        let scale = Scale::for_metric(metric);
        let points = figures.baseline.zip(figures.candidate);
        let Some((points, change)) = points.and_then(|(a, b)| Some(((a, b), scale.change(a, b)?)))
        else {
            let reason = "the baseline is 0: there is no relative change".to_owned();
            return Figures { outcome: Outcome::Missing, reason, ..figures };
        };
        let Some(spread) = self.spread(metric, &base, &new) else {
            let reason = "too few requests have a value for an interval".to_owned();
            return Figures { outcome: Outcome::TooFewSamples, reason, ..figures };
        };
        let wide = self.width(&spread);
        let found = wide + spread.error * upper_quantile(MISSES, spread.degrees);
        let (low, high) = (scale.shown(change - wide), scale.shown(change + wide));
        figures.change = Some(scale.shown(change));
        figures.interval = Some((low, high));
        figures.resolution = Some(scale.shown(found));
        self.decide(threshold, figures, points)
    }

    fn decide(&self, threshold: &Threshold, figures: Figures, (base, new): (f64, f64)) -> Figures {
        let metric = threshold.metric;
        let sign = if metric.larger_is_worse() { 1.0 } else { -1.0 };
        let (change, (low, high)) =
            (figures.change.unwrap_or(0.0), figures.interval.unwrap_or_default());
        let show = |change: f64| metric.show_change(change);
        let found = format!("{} ({} to {})", show(change), show(low), show(high));
        let tolerated = show(sign * threshold.tolerated);
        let least_us = if matches!(metric, Metric::Time(..)) { self.and_above_us } else { 0.0 };
        let near = if sign > 0.0 { low } else { -high };
        let is_over = sign * change > threshold.tolerated && sign * (new - base) >= least_us;
        // An absolute bound tolerates more than the relative one where it is the larger.
        let needed = RESOLUTION * threshold.tolerated.max(least_us / base.max(f64::MIN_POSITIVE));
        let resolution = figures.resolution.unwrap_or(f64::INFINITY);
        let is_fine = resolution <= needed;
        // The interval of few samples is itself uncertain: all of it must be over the threshold.
        let is_supported = near > if is_fine { 0.0 } else { threshold.tolerated };
        let (outcome, reason) = if is_over && is_supported {
            (Outcome::Regression, format!("{found} is worse than the tolerated {tolerated}"))
        } else if !is_fine {
            let longer = (resolution / needed).powi(2);
            let reason = format!(
                "{found}: only a change of {} would be found with a probability of 95 %, and {} is \
                 needed; measure about {longer:.1} times as long, or tolerate more",
                show(sign * resolution),
                show(sign * needed)
            );
            (Outcome::TooFewSamples, reason)
        } else if is_over {
            (Outcome::Pass, format!("{found} is within what equal runs differ"))
        } else {
            (Outcome::Pass, format!("{found}, tolerated {tolerated}"))
        };
        Figures { outcome, reason, ..figures }
    }

    /// Checks an absolute bound. The point estimate decides: the bound holds whatever the baseline
    /// has become.
    pub(super) fn bound(&self, bound: &Bound) -> Figures {
        let metric = bound.metric;
        let mut figures = empty(metric);
        figures.bound = Some(bound.value);
        let estimator = match self.estimator(metric, "candidate", &self.new) {
            Ok(estimator) => estimator,
            Err((outcome, reason)) => return Figures { outcome, reason, ..figures },
        };
        figures.candidate = estimator.point();
        let Some(value) = figures.candidate else { return figures };
        let is_over =
            if metric.larger_is_worse() { value > bound.value } else { value < bound.value };
        let (shown, limit) = (metric.show(value), metric.show(bound.value));
        let (outcome, reason) = match is_over {
            true => (Outcome::Regression, format!("{shown} is worse than the bound {limit}")),
            false => (Outcome::Pass, format!("{shown}, bound {limit}")),
        };
        Figures { outcome, reason, ..figures }
    }

    /// The estimator of a side, or why the side has no figure.
    fn estimator(
        &self,
        metric: Metric,
        name: &str,
        side: &Side,
    ) -> Result<Estimator, (Outcome, String)> {
        if metric == Metric::Goodput && !side.has_objectives {
            let reason = format!("the {name} has no objectives; run it with --slo");
            return Err((Outcome::Missing, reason));
        }
        let blocks: Vec<Block> = side.runs.iter().flatten().cloned().collect();
        let Some(estimator) = Estimator::new(metric, &blocks, side.rate) else {
            let reason = format!("missing in the {name}: no valid request has it");
            return Err((Outcome::Missing, reason));
        };
        if let Metric::Time(_, Statistic::Percentile(percent)) = metric {
            let (count, needed) = (estimator.count(), min_samples(percent));
            if count < needed {
                let reason =
                    format!("the {name} has {count} samples; at least {needed} are needed");
                return Err((Outcome::TooFewSamples, reason));
            }
        }
        Ok(estimator)
    }

    /// Half of the width of the interval.
    fn width(&self, spread: &Spread) -> f64 {
        let tail = FALSE_ALARMS / self.checks.max(1) as f64;
        spread.error * upper_quantile(tail, spread.degrees)
    }

    /// The standard error of the change: of blocks, or of whole runs if they differ more.
    fn spread(&self, metric: Metric, base: &Estimator, new: &Estimator) -> Option<Spread> {
        let scale = Scale::for_metric(metric);
        let error = standard_error(base, new, scale, self.is_paired)?;
        let count = |side: &Side| side.runs.iter().map(Vec::len).sum::<usize>();
        let degrees = count(&self.base).min(count(&self.new)).saturating_sub(1);
        let of_blocks = Spread { error, degrees: degrees as u32 };
        let of_runs = self.difference_of_runs(metric, scale);
        Some(of_runs.filter(|runs| runs.error > error).unwrap_or(of_blocks))
    }

    /// The error of one more run, from how much the baselines differ.
    fn difference_of_runs(&self, metric: Metric, scale: Scale) -> Option<Spread> {
        let runs = &self.base.runs;
        if runs.len() < MIN_RUNS {
            return None;
        }
        let point = |blocks: &Vec<Block>| Estimator::new(metric, blocks, self.base.rate)?.point();
        let points: Vec<f64> = runs.iter().map(point).collect::<Option<_>>()?;
        let mean = points.iter().sum::<f64>() / points.len() as f64;
        let changes: Vec<f64> =
            points.iter().map(|value| scale.change(mean, *value)).collect::<Option<_>>()?;
        let n = changes.len() as f64;
        Some(Spread {
            error: deviation(&changes) * (1.0 + 1.0 / n).sqrt(),
            degrees: changes.len() as u32 - 1,
        })
    }
}

fn empty(metric: Metric) -> Figures {
    Figures {
        metric,
        baseline: None,
        candidate: None,
        change: None,
        interval: None,
        resolution: None,
        tolerated: None,
        bound: None,
        outcome: Outcome::Missing,
        reason: String::new(),
    }
}
