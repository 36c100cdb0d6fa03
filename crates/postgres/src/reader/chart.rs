//! The rollups that a chart needs, of all slots, merged.
//!
//! - *In*: a plan.
//! - *Out*: series of rollups.
//! - *Never*: a read of records; more than [`MAX_ROWS`] rollups.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use store::{Chart, ChartKind, ChartPlan, ChartSums, Field, MAX_ROLLED_UP, Rollup};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::facets;
use crate::error::Error;
use crate::value::{clean, micros, time};
use crate::writer::totals::{ALL_REQUESTS, COMBINATION};

/// Maximum rollups of a chart, which are decoded one by one: a second of work.
const MAX_ROWS: usize = 200_000;
/// Rollups of a kind; `$5`, `$6`, `$7`: values of the columns, or NULL for any.
const ROLLUPS: &str = "SELECT at, rollup, a, b, c FROM llm_lens.rollups
    WHERE step = $1 AND kind = $2 AND at >= $3 AND at < $4
    AND ($5::text[] IS NULL OR a = ANY ($5)) AND ($6::text IS NULL OR b = $6)
    AND ($7::text IS NULL OR c = $7)";
const FOLDED: &str = "SELECT EXISTS (SELECT 1 FROM llm_lens.rollups
    WHERE step = 3600 AND kind = $1 AND at >= $2 AND at < $3)";

/// Which rows of `rollups`, and the column that names the series.
#[derive(Debug, PartialEq)]
struct Rows {
    kind: i16,
    /// Values of the first column; `None`: any.
    a: Option<Vec<String>>,
    b: Option<String>,
    c: Option<String>,
    label: Option<usize>,
}

impl Rows {
    /// The rows of a plan. `top` are the values of a grouped field.
    fn new(kind: &ChartKind, top: Vec<String>) -> Self {
        let text = |field: Field, text: &str| {
            clean(&field.parse_text(text).unwrap_or_default()).into_owned()
        };
        let none = Rows { kind: ALL_REQUESTS, a: None, b: None, c: None, label: None };
        match kind {
            ChartKind::All => none,
            ChartKind::Value(field, value) => {
                Rows { kind: field.code().into(), a: Some(vec![text(*field, value)]), ..none }
            }
            ChartKind::Groups(field) => {
                Rows { kind: field.code().into(), a: Some(top), label: Some(2), ..none }
            }
            ChartKind::Combinations { equals, group_by } => {
                let value = |field| {
                    let found = equals.iter().find(|(other, _)| *other == field);
                    found.map(|(field, value)| text(*field, value))
                };
                Rows {
                    kind: COMBINATION,
                    a: value(Field::Route).map(|route| vec![route]),
                    b: value(Field::Backend),
                    c: value(Field::Model),
                    // Route, backend and model have the numbers 1, 2 and 3.
                    label: group_by.map(|field| 1 + usize::from(field.code())),
                }
            }
        }
    }
}

/// Reads and merges rollups.
pub(super) async fn read(client: &Client, plan: &ChartPlan, series: usize) -> Result<Chart, Error> {
    let top = match plan.grouped_field() {
        Some(field) => facets::top(client, &plan.top_values(field), field).await?,
        None => Vec::new(),
    };
    let rows = Rows::new(&plan.kind, top);
    let seconds = |seconds: u64| time(seconds.saturating_mul(1_000_000));
    let (from, to) = (seconds(plan.from_s), seconds(plan.to_s));
    let step = i32::try_from(plan.read_s).unwrap_or(i32::MAX);
    let params: [&(dyn ToSql + Sync); 7] =
        [&step, &rows.kind, &from, &to, &rows.a, &rows.b, &rows.c];
    let mut found = pin!(client.query_raw(ROLLUPS, params).await?);
    let (mut sums, mut read) = (ChartSums::default(), 0);
    while let Some(row) = found.try_next().await? {
        read += 1;
        if read > MAX_ROWS {
            return Err(Error::TooMany(MAX_ROWS));
        }
        let label = rows.label.map(|at| row.try_get(at)).transpose()?;
        let rollup = Rollup::decode(row.try_get(1)?).map_err(|_| Error::Damaged("rollup"))?;
        sums.add(plan, label, micros(row.try_get(0)?) / 1_000_000, &rollup);
    }
    let mut problems = Vec::new();
    let folded = client.query_one(FOLDED, &[&-rows.kind, &from, &to]).await?;
    if rows.kind != ALL_REQUESTS && folded.try_get(0)? {
        problems.push(format!("values beyond the first {MAX_ROLLED_UP} are missing"));
    }
    Ok(Chart { series: sums.into_series(series), problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_kind_of_chart() {
        let equals = |field, text: &str| (field, text.to_owned());
        let combined = ChartKind::Combinations {
            equals: vec![equals(Field::Model, "m"), equals(Field::Route, "r")],
            group_by: Some(Field::Backend),
        };
        let none = || Rows { kind: 0, a: None, b: None, c: None, label: None };
        let text = |text: &str| Some(text.to_owned());
        for (kind, expected) in [
            (ChartKind::All, none()),
            (
                ChartKind::Value(Field::Owner, "o\0".into()),
                Rows { kind: 5, a: Some(vec!["o\u{fffd}".into()]), ..none() },
            ),
            (
                ChartKind::Groups(Field::Model),
                Rows { kind: 3, a: Some(vec!["top".into()]), label: Some(2), ..none() },
            ),
            (
                combined,
                Rows { kind: 10, a: Some(vec!["r".into()]), b: None, c: text("m"), label: Some(3) },
            ),
        ] {
            assert_eq!(Rows::new(&kind, vec!["top".into()]), expected, "{kind:?}");
        }
    }
}
