//! Reports as JSON and as metrics.
//!
//! - *In*: cells of a window, budgets.
//! - *Out*: rows, grouped by labels. Times are in microseconds, as in records.
//! - *Never*: an average of percentiles or rates: rows are merged, then evaluated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lens::observe::Samples;
use lens::record::Outcome;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::budget::Misses;
use crate::cell::{Cell, Distribution};
use crate::labels::{Dimension, Filter};
use crate::objectives::Slo;
use crate::windows::WindowCells;

/// Requests of one group in a window. Rates are sums of rates of gateways, which may cover
/// different times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Counts and distributions.
    pub cell: Cell,
    /// Finished requests per second.
    pub requests_per_s: f64,
    /// Generated tokens per second, reported by engines.
    pub output_tokens_per_s: f64,
    /// Good requests per second.
    pub good_per_s: f64,
}

/// Rows by the values of the labels that they are grouped by.
pub type Rows = BTreeMap<Vec<String>, Row>;

/// Group the selected series of a window, and add them to `rows`.
pub fn group(rows: &mut Rows, window: &WindowCells, by: &[Dimension], filter: &Filter) {
    // A shorter time has no meaningful rate.
    let seconds = window.seconds.max(1.0);
    for (labels, cell) in window.series.iter().filter(|(labels, _)| filter.selects(labels)) {
        let key = by.iter().map(|dimension| labels.get(*dimension).to_owned()).collect();
        let row = rows.entry(key).or_default();
        row.cell.merge(cell);
        row.requests_per_s += cell.requests() as f64 / seconds;
        row.output_tokens_per_s += cell.output_tokens as f64 / seconds;
        row.good_per_s += cell.good as f64 / seconds;
    }
}

/// The JSON of rows.
pub fn rows_json(rows: &Rows, by: &[Dimension]) -> Vec<Value> {
    rows.iter()
        .map(|(labels, row)| {
            let labels = by.iter().zip(labels);
            let mut object: Map<String, Value> = labels
                .map(|(dimension, value)| (dimension.name().to_owned(), value.clone().into()))
                .collect();
            object.extend(row.json());
            Value::Object(object)
        })
        .collect()
}

impl Row {
    fn json(&self) -> Map<String, Value> {
        let cell = &self.cell;
        let mut object = cell_json(cell);
        object.insert("requests_per_s".into(), self.requests_per_s.into());
        object.insert("output_tokens_per_s".into(), self.output_tokens_per_s.into());
        // Without objectives there is no goodput.
        if cell.judged > 0 {
            let share = cell.good as f64 / cell.judged as f64;
            object.insert(
                "goodput".into(),
                json!({"judged": cell.judged, "good": cell.good, "share": share, "good_per_s": self.good_per_s}),
            );
        }
        object
    }
}

/// The counts and timings of a cell.
pub fn cell_json(cell: &Cell) -> Map<String, Value> {
    let outcomes: BTreeMap<&str, u64> = Outcome::ALL
        .into_iter()
        .map(|outcome| (outcome.name(), cell.outcomes[outcome as usize]))
        .filter(|(_, count)| *count > 0)
        .collect();
    let timings: BTreeMap<&str, Option<TimingReport>> = cell
        .timings()
        .map(|(timing, distribution)| (timing.name(), TimingReport::new(distribution)))
        .collect();
    let value = json!({
        "requests": cell.requests(),
        "outcomes": outcomes,
        "errors": cell.errors,
        "service_failures": cell.service_failures,
        "input_tokens": cell.input_tokens,
        "output_tokens": cell.output_tokens,
        "estimated_tokens": cell.estimated_tokens,
        "timings": timings,
    });
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Figures of one timing, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimingReport {
    /// Number of values.
    pub count: u64,
    /// Arithmetic mean, exact.
    pub mean_us: f64,
    /// Standard deviation of the values, exact.
    pub deviation_us: f64,
    /// Smallest value.
    pub min_us: u64,
    /// Largest value.
    pub max_us: u64,
    /// 50th percentile. Percentiles are exact to 1.1 %.
    pub p50_us: u64,
    /// 90th.
    pub p90_us: u64,
    /// 95th.
    pub p95_us: u64,
    /// 99th.
    pub p99_us: u64,
}

impl TimingReport {
    /// The figures of a distribution; `None` without values.
    pub fn new(distribution: &Distribution) -> Option<Self> {
        let histogram = &distribution.histogram;
        let (mean_us, deviation_us) = distribution.mean_and_deviation()?;
        let (min_us, max_us) = histogram.range()?;
        Some(TimingReport {
            count: histogram.count(),
            mean_us,
            deviation_us,
            min_us,
            max_us,
            p50_us: histogram.percentile(50.0)?,
            p90_us: histogram.percentile(90.0)?,
            p95_us: histogram.percentile(95.0)?,
            p99_us: histogram.percentile(99.0)?,
        })
    }
}

/// A burn rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BurnReport {
    /// The window.
    pub window: &'static str,
    /// The share of misses divided by the allowed share; `None` without events.
    pub burn_rate: Option<f64>,
    /// Events and misses in the window.
    #[serde(flatten)]
    pub counts: Misses,
    /// Seconds of the window for which there is history.
    pub covered_s: f64,
}

/// An objective and its error budget.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetReport {
    /// The route.
    pub route: Arc<str>,
    /// The kind of objective.
    pub slo: Slo,
    /// The share of good events that it requires.
    pub target: f64,
    /// Its maximum time, in seconds.
    pub max_s: Option<f64>,
    /// The window of the budget, in seconds.
    pub window_s: f64,
    /// Seconds of the window for which there is history.
    pub covered_s: f64,
    /// Events and misses in the window.
    pub counts: Misses,
    /// The burn rate of the whole window.
    pub burn_rate: Option<f64>,
    /// Burn rates of shorter windows.
    pub burn_rates: [BurnReport; 5],
    /// Events and misses since the history began.
    pub total: Misses,
}

impl BudgetReport {
    /// Share of the error budget that is left: 1 without misses, 0 when as many requests missed as
    /// allowed, below 0 after that.
    pub fn remaining(&self) -> f64 {
        1.0 - self.burn_rate.unwrap_or(0.0)
    }

    /// The JSON form.
    pub fn json(&self) -> Value {
        let allowed = self.counts.events as f64 * (1.0 - self.target);
        json!({
            "route": self.route,
            "slo": self.slo.name(),
            "target": self.target,
            "max_s": self.max_s,
            "window_s": self.window_s,
            "covered_s": self.covered_s,
            "events": self.counts.events,
            "misses": self.counts.misses,
            "allowed_misses": allowed,
            "budget_remaining": self.remaining(),
            "burn_rate": self.burn_rate,
            "burn_rates": self.burn_rates,
        })
    }

    pub(crate) fn observe(&self, samples: &mut Samples) {
        samples.push("llm_lens_slo_objective_ratio", self.target);
        samples.push("llm_lens_slo_budget_remaining_ratio", self.remaining());
        samples.counts(&[
            ("llm_lens_slo_events_total", self.total.events),
            ("llm_lens_slo_misses_total", self.total.misses),
        ]);
        for rate in &self.burn_rates {
            if let Some(burn_rate) = rate.burn_rate {
                samples.push_with("llm_lens_slo_burn_ratio", ("window", rate.window), burn_rate);
            }
        }
    }
}

/// The labels of a table: those that it is grouped by, without repetition.
pub fn distinct(by: Vec<Dimension>) -> Vec<Dimension> {
    let mut seen = BTreeSet::new();
    by.into_iter().filter(|dimension| seen.insert(*dimension)).collect()
}
