//! The rollups of a partition that a chart needs.
//!
//! - *In*: a plan.
//! - *Out*: rollups, added to the chart's.
//! - *Never*: a read of records.

use rusqlite::{Connection, params};

use super::labels::{self, Texts};
use crate::chart::{ChartKind, ChartPlan, ChartSums};
use crate::field::{Field, int};
use crate::rollup::Rollup;
use crate::schema::OpenError;
use crate::writer::totals::{ALL_REQUESTS, COMBINATION, OTHER, bucket_start};

const ROLLUPS: &str = "SELECT bucket, rollup FROM rollups \
     WHERE step = ?1 AND field = ?2 AND value = ?3 AND bucket >= ?4 AND bucket < ?5";
const FOLDED: &str =
    "SELECT EXISTS (SELECT 1 FROM rollups WHERE step = 3600 AND field = ?1 AND value = ?2)";

/// Add the rollups of a partition. Returns whether it has values without rollups.
pub(super) fn add(
    plan: &ChartPlan,
    db: &Connection,
    labels: &[String],
    sums: &mut ChartSums,
) -> Result<bool, OpenError> {
    let (code, values) = match &plan.kind {
        ChartKind::All => (ALL_REQUESTS, vec![(OTHER, None)]),
        ChartKind::Value(field, text) => (field.code(), value(db, *field, text, None)?),
        ChartKind::Groups(field) => {
            let mut values = Vec::new();
            for label in labels {
                values.extend(value(db, *field, label, Some(label))?);
            }
            (field.code(), values)
        }
        ChartKind::Combinations { equals, group_by } => {
            (COMBINATION, combinations(db, equals, *group_by)?)
        }
    };
    let mut rollups = db.prepare(ROLLUPS)?;
    let bucket = |seconds: u64| int(seconds / plan.read_s);
    let (from, to) = (bucket(plan.from_s), bucket(plan.to_s));
    for (value, label) in values {
        let mut rows = rollups.query(params![int(plan.read_s), code, value, from, to])?;
        while let Some(row) = rows.next()? {
            let at_s = bucket_start(plan.read_s, row.get(0)?);
            let rollup = Rollup::decode(row.get_ref(1)?.as_blob()?)?;
            sums.add(plan, label.clone(), at_s, &rollup);
        }
    }
    let is_folded = db.query_row(FOLDED, params![code, OTHER], |row| row.get(0))?;
    Ok(is_folded && code != ALL_REQUESTS)
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
