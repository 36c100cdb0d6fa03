//! Compares what a load tester reported with the truth of a simulated engine.
//!
//! - *In*: the [`Truth`] of an engine, and the [`Reported`] figures of a tool.
//! - *Out*: a [`Verdict`]: the error of each figure by the tool's own definition, and of counts.
//! - *Never*: a percentile of too few samples; a figure without a counterpart.

mod formats;

pub use formats::{Count, Format, Kind, Read, Reported, Stat, read};

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use testbench::definitions::{Tool, figures};
use testbench::report::{mean, ms, percentile};
use testbench::{Outcome, Sample};

use crate::Truth;

/// Permitted differences.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Of the truth, in percent.
    pub percent: f64,
    /// At least so much, in milliseconds; a tenth of it for times per token.
    pub ms: f64,
}

/// What is compared, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The tool whose definitions apply.
    pub tool: Tool,
    /// Permitted differences.
    pub tolerance: Tolerance,
    /// Requests at the beginning that the tool does not count.
    pub warm_up: u64,
    /// Rate that the tool was to offer, in requests per second.
    pub rate: Option<f64>,
}

/// A figure of the tool beside the truth.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The tool's name of the figure.
    pub figure: &'static str,
    /// `mean`, `p50` and so on.
    pub statistic: String,
    /// The truth, in microseconds. Absent: too few samples.
    pub truth_us: Option<f64>,
    /// What the tool reported, in microseconds.
    pub reported_us: Option<f64>,
    /// Whether the difference is permitted. Absent: there is nothing to compare.
    pub within: Option<bool>,
}

impl Row {
    /// Reported minus true, in microseconds and in percent.
    fn error(&self) -> Option<(f64, Option<f64>)> {
        let (truth, reported) = (self.truth_us?, self.reported_us?);
        let error = reported - truth;
        Some((error, (truth > 0.0).then(|| 100.0 * error / truth)))
    }
}

/// A number beside the truth.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// What is counted.
    pub name: &'static str,
    /// The least true value.
    pub min: f64,
    /// The greatest true value: requests whose client disconnected may count as failed.
    pub max: f64,
    /// What was reported.
    pub reported: Option<f64>,
    /// Whether the number is in that range.
    pub within: Option<bool>,
}

/// The comparison.
#[derive(Debug)]
pub struct Verdict {
    /// The tool whose definitions apply.
    pub tool: Tool,
    /// Times.
    pub rows: Vec<Row>,
    /// Counts, and the rate.
    pub counts: Vec<Counted>,
    /// The own error of the truth, in microseconds. It is permitted as well.
    pub truth_error_us: u64,
}

/// Permitted difference of the rate, beside what chance explains.
const RATE_TOLERANCE: f64 = 0.05;

const STATS: [Stat; 5] = [
    Stat::Mean,
    Stat::Percentile(50),
    Stat::Percentile(90),
    Stat::Percentile(95),
    Stat::Percentile(99),
];

/// Compares. Without `reported`, the verdict has the truth alone.
pub fn compare(truth: &Truth, reported: Option<&Reported>, plan: &Plan) -> Verdict {
    let outcome = truth.outcome(plan.warm_up);
    let figures = figures(&outcome, &[plan.tool]);
    let truth_error_us = truth.error_us();
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let Some(name) = formats::figure(plan.tool, kind) else { continue };
        let Some(figure) = figures.iter().find(|figure| figure.name == name) else { continue };
        for stat in STATS {
            let truth_us = match stat {
                Stat::Mean => mean(&figure.values),
                Stat::Percentile(p) => percentile(&figure.values, f64::from(p)).map(|us| us as f64),
            };
            let reported_us = reported.and_then(|reported| reported.time(kind, stat));
            let mut row = Row {
                figure: name,
                statistic: stat.to_string(),
                truth_us,
                reported_us,
                within: None,
            };
            let floor = if kind.is_per_token() { 100.0 } else { 1_000.0 } * plan.tolerance.ms;
            row.within = row.error().map(|(error, _)| {
                let share = truth_us.unwrap_or_default() * plan.tolerance.percent / 100.0;
                error.abs() <= share.max(floor) + truth_error_us as f64
            });
            rows.push(row);
        }
    }
    let counts = counts(&outcome, reported, plan);
    Verdict { tool: plan.tool, rows, counts, truth_error_us }
}

fn counts(outcome: &Outcome, reported: Option<&Reported>, plan: &Plan) -> Vec<Counted> {
    let count =
        |is: fn(&Sample) -> bool| outcome.samples.iter().filter(|sample| is(sample)).count() as f64;
    let (ok, failed) = (count(Sample::is_ok), count(Sample::is_failed));
    let gone = count(|sample| sample.cancelled);
    let ok_samples = outcome.samples.iter().filter(|sample| sample.is_ok());
    let tokens: u64 = ok_samples.filter_map(|sample| sample.tokens).sum();
    let of = |name, min: f64, max: f64, reported: Option<f64>| {
        let within = reported.map(|reported| (min..=max).contains(&reported));
        Counted { name, min, max, reported, within }
    };
    let told = |count| reported.and_then(|reported| reported.count(count));
    let mut counts = vec![
        of("succeeded", ok, ok, told(Count::Succeeded)),
        of("failed", failed, failed + gone, told(Count::Failed)),
        of("output tokens", tokens as f64, tokens as f64, told(Count::Tokens)),
    ];
    if let Some(rate) = plan.rate {
        let arrivals = rate_of(outcome);
        // Of a Poisson process, the rate of n arrivals varies by one part in the root of n.
        let share = RATE_TOLERANCE + 3.0 / (outcome.samples.len().max(1) as f64).sqrt();
        let (min, max) = (rate * (1.0 - share), rate * (1.0 + share));
        counts.push(of("requests/s that arrived", min, max, Some(arrivals.unwrap_or(0.0))));
    }
    counts
}

/// Requests per second that arrived.
fn rate_of(outcome: &Outcome) -> Option<f64> {
    let first = outcome.samples.iter().map(|sample| sample.due_us).min()?;
    let last = outcome.samples.iter().map(|sample| sample.due_us).max()?;
    let took = (last - first) as f64 / 1e6;
    (took > 0.0).then(|| (outcome.samples.len() - 1) as f64 / took)
}

impl Verdict {
    /// Whether all that was compared is within the tolerance; `None` if nothing was compared.
    pub fn is_within(&self) -> Option<bool> {
        let compared = self.rows.iter().filter_map(|row| row.within);
        let mut all =
            compared.chain(self.counts.iter().filter_map(|count| count.within)).peekable();
        all.peek()?;
        Some(all.all(|within| within))
    }

    /// The verdict as a table, in milliseconds.
    pub fn table(&self) -> String {
        let mark = |within: Option<bool>| match within {
            Some(true) => "ok",
            Some(false) => "OUTSIDE",
            None => "",
        };
        let mut out = format!(
            "{:32} {:>5} {:>11} {:>11} {:>11} {:>9}\n",
            format!("ms, as {} defines them", self.tool.name()),
            "",
            "truth",
            "reported",
            "error",
            "percent"
        );
        for row in &self.rows {
            let error = row.error();
            let percent = error.and_then(|(_, percent)| percent);
            let _ = writeln!(
                out,
                "{:32} {:>5} {:>11} {:>11} {:>11} {:>9} {}",
                row.figure,
                row.statistic,
                ms(row.truth_us),
                ms(row.reported_us),
                ms(error.map(|(error, _)| error)),
                percent.map_or_else(|| "-".into(), |percent| format!("{percent:+.1}")),
                mark(row.within)
            );
        }
        for count in &self.counts {
            let range = match count.min < count.max {
                true => format!("{:.2} to {:.2}", count.min, count.max),
                false => count.min.to_string(),
            };
            let reported = count.reported.map_or_else(|| "-".into(), |n| format!("{n:.2}"));
            let _ = writeln!(
                out,
                "{:32} true {range}, reported {reported} {}",
                count.name,
                mark(count.within)
            );
        }
        let error = ms(Some(self.truth_error_us as f64));
        let _ = writeln!(out, "error of the truth itself: {error} ms (p99 of a write)");
        out
    }

    /// The verdict as JSON.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let mut value = json!(row);
                value["error_us"] = json!(row.error().map(|(error, _)| error));
                value["error_percent"] = json!(row.error().and_then(|(_, percent)| percent));
                value
            })
            .collect();
        json!({
            "definitions": self.tool.name(), "within": self.is_within(), "times": rows,
            "counts": self.counts, "truth_error_us": self.truth_error_us,
        })
    }
}

#[cfg(test)]
mod tests;
