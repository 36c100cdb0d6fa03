//! Charts: rollups of minutes or hours, merged to the steps of the chart.
//!
//! - *In*: a range, a step, fields to filter and group by.
//! - *Out*: series of rollups.
//! - *Never*: a read of records. What rollups do not have is refused, with what they have.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::labels::{self, Texts};
use crate::field::{Field, int};
use crate::query::{
    ChartQuery, ChartSeries, FacetQuery, Filter, MAX_POINTS, MAX_SERIES, StoreError,
};
use crate::rollup::Rollup;
use crate::schema::OpenError;
use crate::writer::totals::{ALL_REQUESTS, COMBINATION, OTHER, ROLLED_UP, STEPS, bucket_start};

const COMBINED: [Field; 3] = [Field::Route, Field::Backend, Field::Model];
const ROLLUPS: &str = "SELECT bucket, rollup FROM rollups \
     WHERE step = ?1 AND field = ?2 AND value = ?3 AND bucket >= ?4 AND bucket < ?5";
const FOLDED: &str =
    "SELECT EXISTS (SELECT 1 FROM rollups WHERE step = 3600 AND field = ?1 AND value = ?2)";

/// Which rollups answer a query.
#[derive(Debug, PartialEq)]
enum Kind {
    All,
    Value(Field, String),
    Groups(Field),
    Combinations { equals: Vec<(Field, String)>, group_by: Option<Field> },
}

/// A checked query.
#[derive(Debug)]
pub(super) struct Plan {
    /// The range of time, in whole steps.
    pub(super) range: Filter,
    from_s: u64,
    to_s: u64,
    step_s: u64,
    /// Seconds of the rollups to read.
    read_s: u64,
    kind: Kind,
    series: usize,
}

/// Rollups by label and start of the step.
#[derive(Debug, Default)]
pub(super) struct Sums {
    all: BTreeMap<Option<String>, BTreeMap<u64, Rollup>>,
}

impl Plan {
    pub(super) fn new(query: &ChartQuery) -> Result<Self, StoreError> {
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
        Ok(Plan {
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
    pub(super) fn grouped_field(&self) -> Option<Field> {
        match self.kind {
            Kind::Groups(field) => Some(field),
            _ => None,
        }
    }

    /// The query for these values.
    pub(super) fn top_values(&self, field: Field) -> FacetQuery {
        let Filter { from_us, to_us, .. } = self.range;
        FacetQuery { fields: vec![field], from_us, to_us, limit: self.series }
    }

    /// Add the rollups of a partition. Returns whether it has values without rollups.
    pub(super) fn add(
        &self,
        db: &Connection,
        labels: &[String],
        sums: &mut Sums,
    ) -> Result<bool, OpenError> {
        let (code, values) = match &self.kind {
            Kind::All => (ALL_REQUESTS, vec![(OTHER, None)]),
            Kind::Value(field, text) => (field.code(), value(db, *field, text, None)?),
            Kind::Groups(field) => {
                let mut values = Vec::new();
                for label in labels {
                    values.extend(value(db, *field, label, Some(label))?);
                }
                (field.code(), values)
            }
            Kind::Combinations { equals, group_by } => {
                (COMBINATION, combinations(db, equals, *group_by)?)
            }
        };
        let mut rollups = db.prepare(ROLLUPS)?;
        let bucket = |seconds: u64| int(seconds / self.read_s);
        let (from, to) = (bucket(self.from_s), bucket(self.to_s));
        for (value, label) in values {
            let series = sums.all.entry(label).or_default();
            let mut rows = rollups.query(params![int(self.read_s), code, value, from, to])?;
            while let Some(row) = rows.next()? {
                let at = bucket_start(self.read_s, row.get(0)?) / self.step_s * self.step_s;
                let rollup = Rollup::decode(row.get_ref(1)?.as_blob()?)?;
                series.entry(at).or_default().merge(&rollup);
            }
        }
        let is_folded = db.query_row(FOLDED, params![code, OTHER], |row| row.get(0))?;
        Ok(is_folded && code != ALL_REQUESTS)
    }
}

/// The rollups that have what a query filters and groups by.
fn kind(query: &ChartQuery) -> Result<Kind, StoreError> {
    let is_combined = |field: &Field| COMBINED.contains(field);
    let fields = || query.equals.iter().map(|(field, _)| field).chain(&query.group_by);
    match (query.equals.as_slice(), query.group_by) {
        ([], None) => Ok(Kind::All),
        ([], Some(field)) if ROLLED_UP.contains(&field) => Ok(Kind::Groups(field)),
        ([(field, text)], None) if ROLLED_UP.contains(field) => {
            Ok(Kind::Value(*field, text.clone()))
        }
        (equals, group_by) if fields().all(is_combined) => {
            Ok(Kind::Combinations { equals: equals.to_vec(), group_by })
        }
        _ => {
            let one = ROLLED_UP.map(Field::name).join(", ");
            Err(StoreError::Query(format!(
                "charts can be filtered or grouped by one of {one}, or by several of route, backend and model"
            )))
        }
    }
}

/// Values with the labels of their series.
type Labelled = Vec<(i64, Option<String>)>;

/// The number of a value in a partition, if a record has it.
fn value(
    db: &Connection,
    field: Field,
    text: &str,
    label: Option<&String>,
) -> rusqlite::Result<Labelled> {
    let Some(value) = field.parse(text) else { return Ok(Vec::new()) };
    Ok(labels::number(db, value)?.map(|value| (value, label.cloned())).into_iter().collect())
}

/// The combinations with these values.
fn combinations(
    db: &Connection,
    equals: &[(Field, String)],
    group_by: Option<Field>,
) -> rusqlite::Result<Labelled> {
    let mut needed = Vec::new();
    for (field, text) in equals {
        let Some((number, _)) = value(db, *field, text, None)?.pop() else { return Ok(Vec::new()) };
        needed.push((*field, number));
    }
    let (mut texts, mut found) = (Texts::default(), Vec::new());
    let mut query = db.prepare("SELECT id, route, backend, model FROM combinations")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        // Route, backend and model have the numbers 1, 2 and 3, as their columns here.
        let number = |field: Field| row.get::<_, i64>(usize::from(field.code()));
        let mut is_match = true;
        for (field, needed) in &needed {
            is_match &= number(*field)? == *needed;
        }
        if is_match {
            let label = match group_by {
                Some(field) => Some(texts.text(db, number(field)?)?),
                None => None,
            };
            found.push((row.get(0)?, label));
        }
    }
    Ok(found)
}

impl Sums {
    /// The series with the most requests.
    pub(super) fn into_series(self, max: usize) -> Vec<ChartSeries> {
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
