//! Queries and their answers: the interface that every database of records implements.
//!
//! - *In*: filters, a cursor, a range of time, a step.
//! - *Out*: rows, counts, sketches; and the problems that make an answer incomplete.
//! - *Never*: an answer that is incomplete without saying so.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use lens::Record;
use observatory::RecordKey;
use serde::Serialize;

use crate::field::{Field, HOUR_US};
use crate::partition::Partition;
use crate::rollup::Rollup;

/// Maximum records of a page.
pub const MAX_PAGE: usize = 1_000;
/// Maximum labels of a facet.
pub const MAX_LABELS: usize = 1_000;
/// Maximum points of a series in a chart.
pub const MAX_POINTS: u64 = 1_500;
/// Maximum series of a chart.
pub const MAX_SERIES: usize = 50;

/// Queries about stored records. Each blocks: call it on a thread that may.
pub trait Store: Send + Sync {
    /// Records that match, newest first: SQLite in the order of storing, PostgreSQL in that of
    /// starting, because several gateways store at once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn page(&self, query: &PageQuery) -> Result<Page, StoreError>;

    /// The records with this id, unique id or trace id, in the same order, at most [`MAX_PAGE`];
    /// and problems.
    ///
    /// # Errors
    /// [`StoreError`].
    fn records(&self, id: &str) -> Result<(Vec<Record>, Vec<String>), StoreError>;

    /// The values of fields and how many records have each.
    ///
    /// # Errors
    /// [`StoreError`].
    fn facets(&self, query: &FacetQuery) -> Result<Facets, StoreError>;

    /// Rollups over time.
    ///
    /// # Errors
    /// [`StoreError`].
    fn chart(&self, query: &ChartQuery) -> Result<Chart, StoreError>;
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The query is wrong: what is, and what to do.
    #[error("{0}")]
    Query(String),
    /// The time limit is over. Pages have no such error: they end early.
    #[error("the query exceeds its time limit; use a shorter range of time or fewer filters")]
    Timeout,
    /// The database does not answer, or not yet.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The database cannot be read.
    #[error("cannot read the store: {0}")]
    Read(String),
}

/// Which records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Started at or after, Unix microseconds.
    pub from_us: Option<u64>,
    /// Started before, Unix microseconds.
    pub to_us: Option<u64>,
    /// Fields with these values. All must match.
    pub equals: Vec<(Field, String)>,
    /// Total time above, in microseconds.
    pub slower_than_us: Option<u64>,
    /// Client TTFT above, in microseconds.
    pub ttft_over_us: Option<u64>,
}

impl Filter {
    /// Whether a window from `from_us` to `to_us` may have a match.
    pub(crate) fn overlaps(&self, from_us: u64, to_us: u64) -> bool {
        self.from_us.is_none_or(|from| from < to_us) && self.to_us.is_none_or(|to| from_us < to)
    }
}

/// A page of records.
#[derive(Clone, Debug, Default)]
pub struct PageQuery {
    /// Which records.
    pub filter: Filter,
    /// Where the last page ended; `None`: the first page.
    pub after: Option<Cursor>,
    /// Maximum records, at most [`MAX_PAGE`].
    pub limit: usize,
}

/// A place in the order of records: the next page begins after it, whatever was stored meanwhile.
/// Its text belongs to the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

/// Maximum bytes of a cursor.
const MAX_CURSOR: usize = 128;

impl Cursor {
    /// The cursor with this text.
    pub fn new(text: String) -> Self {
        Cursor(text)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The error of a store that did not make it.
    pub fn invalid(&self) -> StoreError {
        StoreError::Query(format!("{:?} is not a cursor; use `next` of the last page", self.0))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text.len() {
            0..=MAX_CURSOR => Ok(Cursor(text.to_owned())),
            _ => {
                Err(StoreError::Query("after is not a cursor; use `next` of the last page".into()))
            }
        }
    }
}

impl PageQuery {
    /// Refuses a query that is wrong.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub fn check(&self) -> Result<(), StoreError> {
        if !(1..=MAX_PAGE).contains(&self.limit) {
            return Err(StoreError::Query(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        self.filter.equals.iter().try_for_each(|(field, text)| {
            if field.parse(text).is_some() {
                return Ok(());
            }
            let kind =
                if *field == Field::Stream { "true or false" } else { "a status such as 200" };
            Err(StoreError::Query(format!("{} must be {kind}, not {text:?}", field.name())))
        })
    }
}

/// The answer to [`PageQuery`].
#[derive(Debug, Default)]
pub struct Page {
    /// The records.
    pub rows: Vec<Row>,
    /// Where the next page begins; `None`: there are no more records.
    pub next: Option<Cursor>,
    /// Whether the time limit ended the page early. The next page continues the search.
    pub timed_out: bool,
    /// Partitions that could not be read, and why.
    pub problems: Vec<String>,
}

/// Records of a [`SqliteStore::scan`](crate::SqliteStore::scan).
#[derive(Debug, Default)]
pub struct Scan {
    /// The records.
    pub records: Vec<ScannedRecord>,
    /// The partition that they are in.
    pub(crate) partition: Option<Partition>,
    /// Where the next scan begins; `None`: there are no more records.
    pub next: Option<Cursor>,
}

impl Scan {
    /// The place of a record, from which a scan returns it and those after it.
    pub fn place(&self, record: &ScannedRecord) -> Option<Cursor> {
        self.partition.map(|partition| crate::reader::cursor(partition, record.row))
    }
}

/// A whole record and its key.
#[derive(Debug)]
pub struct ScannedRecord {
    pub(crate) row: i64,
    /// The key.
    pub key: RecordKey,
    /// The record.
    pub record: Record,
}

/// The columns of a stored record. [`Store::records`] has the whole record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Wall-clock time of the first byte of the request.
    #[serde(with = "lens::record::rfc3339")]
    pub started_at: u64,
    /// The request id.
    pub id: String,
    /// Unique id, if `id` is the client's.
    pub unique_id: Option<String>,
    /// The trace id.
    pub trace_id: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// The model that the client requested.
    pub model: Option<String>,
    /// The public name of the key.
    pub caller: Option<String>,
    /// The owner of the key.
    pub owner: Option<String>,
    /// How the request ended.
    pub outcome: Option<String>,
    /// Stable error code.
    pub error_code: Option<String>,
    /// HTTP status sent to the client.
    pub status: Option<i64>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// Engine TTFT in microseconds.
    pub engine_ttft_us: Option<i64>,
    /// Client TTFT in microseconds.
    pub client_ttft_us: Option<i64>,
    /// Time per output token in microseconds.
    pub tpot_us: Option<f64>,
    /// Total time in microseconds.
    pub total_us: i64,
    /// Prompt tokens.
    pub input_tokens: Option<i64>,
    /// Generated tokens.
    pub output_tokens: Option<i64>,
    /// Whether `output_tokens` is estimated.
    pub estimated: bool,
    /// Cost in dollars.
    pub cost: Option<f64>,
}

/// Values of fields.
#[derive(Clone, Debug, Default)]
pub struct FacetQuery {
    /// The fields.
    pub fields: Vec<Field>,
    /// Records of hours that contain or follow this time, Unix microseconds.
    pub from_us: Option<u64>,
    /// Records of hours that begin before this time, Unix microseconds.
    pub to_us: Option<u64>,
    /// Maximum values per field, at most [`MAX_LABELS`].
    pub limit: usize,
}

/// Maximum values of a field that are read from one partition.
pub const MAX_READ_LABELS: usize = 10_000;

impl FacetQuery {
    /// Refuses a query that is wrong.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub fn check(&self) -> Result<(), StoreError> {
        match (1..=MAX_LABELS).contains(&self.limit) {
            true => Ok(()),
            false => Err(StoreError::Query(format!("limit must be from 1 to {MAX_LABELS}"))),
        }
    }

    /// First hour since 1970, and the one after the last.
    pub fn hours(&self) -> (u64, Option<u64>) {
        let from = self.from_us.map_or(0, |us| us / HOUR_US);
        (from, self.to_us.map(|us| us.div_ceil(HOUR_US)))
    }
}

/// The answer to [`FacetQuery`].
#[derive(Debug, Default)]
pub struct Facets {
    /// One per field of the query.
    pub fields: Vec<FacetCounts>,
    /// Partitions that could not be read, and why.
    pub problems: Vec<String>,
}

/// The values of one field.
#[derive(Debug, PartialEq)]
pub struct FacetCounts {
    /// The field.
    pub field: Field,
    /// Values and the number of records, most records first.
    pub values: Vec<(String, u64)>,
    /// Number of different values; `values` has those with the most records.
    pub distinct: u64,
    /// Records with a value that `values` does not have.
    pub others: u64,
}

impl FacetCounts {
    /// Those with the most records of all values.
    pub fn new(field: Field, counts: HashMap<String, u64>, limit: usize) -> Self {
        let mut values: Vec<(String, u64)> = counts.into_iter().collect();
        values.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        let distinct = values.len() as u64;
        let others = values.iter().skip(limit).map(|(_, rows)| rows).sum();
        values.truncate(limit);
        FacetCounts { field, values, distinct, others }
    }
}

/// Rollups over time.
#[derive(Clone, Debug)]
pub struct ChartQuery {
    /// Start, Unix seconds; rounded down to a step.
    pub from_s: u64,
    /// End, Unix seconds; rounded up to a step.
    pub to_s: u64,
    /// Seconds per point, a multiple of 60.
    pub step_s: u64,
    /// Fields with these values: one of any rolled-up field, or any of route, backend and model.
    pub equals: Vec<(Field, String)>,
    /// One series for each value of this field.
    pub group_by: Option<Field>,
    /// Maximum series, at most [`MAX_SERIES`]; those with the most requests.
    pub series: usize,
}

/// The answer to [`ChartQuery`].
#[derive(Debug, Default)]
pub struct Chart {
    /// The series, most requests first.
    pub series: Vec<ChartSeries>,
    /// Partitions that could not be read or have folded values, and why.
    pub problems: Vec<String>,
}

/// A series of a chart.
#[derive(Debug, PartialEq)]
pub struct ChartSeries {
    /// Value of the field that the chart is grouped by.
    pub label: Option<String>,
    /// Start of each step with requests, Unix seconds, ascending, and its rollup.
    pub points: Vec<(u64, Rollup)>,
}

/// The smallest usual step with which a range has at most 120 points.
pub fn automatic_step(from_s: u64, to_s: u64) -> u64 {
    const STEPS: [u64; 7] = [60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600];
    let range = to_s.saturating_sub(from_s);
    STEPS.into_iter().find(|step| range.div_ceil(*step) <= 120).unwrap_or(30 * 24 * 3600)
}

/// What is stored.
#[derive(Debug, Default)]
pub struct Summary {
    /// Records.
    pub records: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The partitions, oldest first.
    pub partitions: Vec<PartitionSummary>,
    /// Partitions that could not be read, and why.
    pub problems: Vec<String>,
}

/// One partition.
#[derive(Debug)]
pub struct PartitionSummary {
    /// Its file.
    pub name: String,
    /// Records.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_text_of_bounded_length() {
        let cursor: Cursor = "498888.24.3.7".parse().unwrap();
        assert_eq!(
            (cursor.as_str(), cursor.to_string().as_str()),
            ("498888.24.3.7", "498888.24.3.7")
        );
        assert!(cursor.invalid().to_string().contains("use `next` of the last page"));
        assert!("7".repeat(MAX_CURSOR + 1).parse::<Cursor>().is_err());
    }

    #[test]
    fn automatic_steps_give_at_most_120_points() {
        for (hours, step) in [(1, 60), (2, 60), (3, 300), (24, 900), (24 * 7, 6 * 3600)] {
            assert_eq!(automatic_step(1000, 1000 + hours * 3600), step, "{hours} h");
        }
    }
}
