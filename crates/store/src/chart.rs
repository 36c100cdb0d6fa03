//! Charts: which rollups answer a query, and how they are merged to the steps of the chart.
//!
//! - *In*: a range, a step, fields to filter and group by; rollups of minutes or hours.
//! - *Out*: series of rollups.
//! - *Never*: a read of records. What rollups do not have is refused, with what they have.

use std::collections::BTreeMap;

use crate::field::Field;
use crate::query::{
    ChartQuery, ChartSeries, FacetQuery, Filter, MAX_POINTS, MAX_SERIES, StoreError,
};
use crate::rollup::Rollup;

/// Maximum values of a field with rollups, in one partition.
pub const MAX_ROLLED_UP: usize = 1000;
/// Fields with rollups of their own.
pub const ROLLED_UP: [Field; 5] =
    [Field::Route, Field::Backend, Field::Model, Field::Owner, Field::Outcome];
/// Fields whose combinations have rollups.
pub const COMBINED: [Field; 3] = [Field::Route, Field::Backend, Field::Model];
/// Seconds of the two kinds of rollups.
pub const STEPS: [u64; 2] = [60, 3600];

/// Which rollups answer a query.
#[derive(Debug, PartialEq)]
pub enum ChartKind {
    /// Those of all requests.
    All,
    /// Those of a value.
    Value(Field, String),
    /// Those of the values with the most requests, a series each.
    Groups(Field),
    /// Those of combinations of [`COMBINED`] fields.
    Combinations {
        /// Fields with these values.
        equals: Vec<(Field, String)>,
        /// One series for each value of this field.
        group_by: Option<Field>,
    },
}

/// A checked query.
#[derive(Debug)]
pub struct ChartPlan {
    /// The range of time, in whole steps.
    pub range: Filter,
    /// Its start, Unix seconds.
    pub from_s: u64,
    /// Its end, Unix seconds.
    pub to_s: u64,
    /// Seconds per point.
    pub step_s: u64,
    /// Seconds of the rollups to read, one of [`STEPS`].
    pub read_s: u64,
    /// Which rollups.
    pub kind: ChartKind,
    series: usize,
}

/// Rollups by label and start of the step.
#[derive(Debug, Default)]
pub struct ChartSums {
    all: BTreeMap<Option<String>, BTreeMap<u64, Rollup>>,
}

impl ChartPlan {
    /// Checks a query.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub fn new(query: &ChartQuery) -> Result<Self, StoreError> {
        let wrong = |text: String| Err(StoreError::Query(text));
        let step_s = query.step_s;
        if step_s == 0 || !step_s.is_multiple_of(60) {
            return wrong(format!("step must be a multiple of 1m, not {step_s}s"));
        }
        let from_s = query.from_s / step_s * step_s;
        let to_s = query.to_s.div_ceil(step_s).saturating_mul(step_s);
        if to_s <= from_s {
            return wrong("from must be before to".into());
        }
        if (to_s - from_s) / step_s > MAX_POINTS {
            return wrong(format!("a chart has at most {MAX_POINTS} points; use a longer step"));
        }
        if !(1..=MAX_SERIES).contains(&query.series) {
            return wrong(format!("series must be from 1 to {MAX_SERIES}"));
        }
        let micros = |seconds: u64| Some(seconds.saturating_mul(1_000_000));
        let [minute, hour] = STEPS;
        Ok(ChartPlan {
            range: Filter { from_us: micros(from_s), to_us: micros(to_s), ..Filter::default() },
            from_s,
            to_s,
            step_s,
            read_s: if step_s.is_multiple_of(hour) { hour } else { minute },
            kind: kind(query)?,
            series: query.series,
        })
    }

    /// The field whose values with the most requests are the series.
    pub fn grouped_field(&self) -> Option<Field> {
        match self.kind {
            ChartKind::Groups(field) => Some(field),
            _ => None,
        }
    }

    /// The query for these values.
    pub fn top_values(&self, field: Field) -> FacetQuery {
        let Filter { from_us, to_us, .. } = self.range;
        FacetQuery { fields: vec![field], from_us, to_us, limit: self.series }
    }
}

/// The rollups that have what a query filters and groups by.
fn kind(query: &ChartQuery) -> Result<ChartKind, StoreError> {
    let is_combined = |field: &Field| COMBINED.contains(field);
    let fields = || query.equals.iter().map(|(field, _)| field).chain(&query.group_by);
    match (query.equals.as_slice(), query.group_by) {
        ([], None) => Ok(ChartKind::All),
        ([], Some(field)) if ROLLED_UP.contains(&field) => Ok(ChartKind::Groups(field)),
        ([(field, text)], None) if ROLLED_UP.contains(field) => {
            Ok(ChartKind::Value(*field, text.clone()))
        }
        (equals, group_by) if fields().all(is_combined) => {
            Ok(ChartKind::Combinations { equals: equals.to_vec(), group_by })
        }
        _ => {
            let one = ROLLED_UP.map(Field::name).join(", ");
            Err(StoreError::Query(format!(
                "charts can be filtered or grouped by one of {one}, or by several of route, backend and model"
            )))
        }
    }
}

impl ChartSums {
    /// Add the rollup that begins at a time in Unix seconds to a series.
    pub fn add(&mut self, plan: &ChartPlan, label: Option<String>, at_s: u64, rollup: &Rollup) {
        let points = self.all.entry(label).or_default();
        points.entry(at_s / plan.step_s * plan.step_s).or_default().merge(rollup);
    }

    /// The series with the most requests.
    pub fn into_series(self, max: usize) -> Vec<ChartSeries> {
        let requests = |series: &ChartSeries| -> u64 {
            series.points.iter().map(|(_, rollup)| rollup.requests()).sum()
        };
        let mut all: Vec<(u64, ChartSeries)> = self
            .all
            .into_iter()
            .map(|(label, points)| ChartSeries { label, points: points.into_iter().collect() })
            .map(|series| (requests(&series), series))
            .collect();
        all.sort_by_key(|(requests, _)| std::cmp::Reverse(*requests));
        all.into_iter()
            .map(|(_, series)| series)
            .filter(|s| !s.points.is_empty())
            .take(max)
            .collect()
    }
}
