//! Queries of the partitions of a folder.
//!
//! - *In*: queries.
//! - *Out*: answers from read-only connections, opened for each query: writers and retention never
//!   wait for a query, and a query sees each partition at one moment.
//! - *Never*: more time than the limit, but for one chunk of a page.

mod chart;
mod facets;
mod labels;
mod page;
mod records;
mod scan;

pub(crate) use page::cursor;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lens::{Record, RecordFilter};
use rusqlite::{Connection, ErrorCode};

use crate::chart::{ChartPlan, ChartSums};
use crate::partition::{self, Partition};
use crate::query::{
    Chart, ChartQuery, Cursor, FacetQuery, Facets, Page, PageQuery, PartitionSummary, Scan, Store,
    StoreError, Summary,
};
use crate::schema::{self, OpenError};

/// Instructions of SQLite between two looks at the time: some microseconds.
const PROGRESS: i32 = 1000;

/// The records of a folder.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    folder: PathBuf,
    time_limit: Duration,
}

impl SqliteStore {
    /// The store in `folder`; a query may take `time_limit`.
    pub fn new(folder: &Path, time_limit: Duration) -> Self {
        SqliteStore { folder: folder.to_owned(), time_limit }
    }

    /// What is stored.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn summary(&self) -> Result<Summary, StoreError> {
        let deadline = self.deadline();
        let mut summary = Summary::default();
        for partition in self.partitions()? {
            let records = self.query(partition, Some(deadline), &mut summary.problems, |db| {
                let last = db.query_row("SELECT max(row) FROM records", [], |row| row.get(0))?;
                Ok(crate::field::unsigned(Option::<i64>::unwrap_or(last, 0)))
            })?;
            let (name, bytes) = (partition.name(), partition.bytes(&self.folder));
            let records = records.unwrap_or(0);
            summary.records += records;
            summary.bytes += bytes;
            summary.partitions.push(PartitionSummary { name, records, bytes });
        }
        Ok(summary)
    }

    /// Whole records that match, in the order in which they were stored: those of at most one
    /// chunk, from a place on. It has no time limit.
    ///
    /// # Errors
    /// [`StoreError`]. What cannot be read is an error, not a problem.
    pub fn scan(&self, from: Option<Cursor>, filter: &RecordFilter) -> Result<Scan, StoreError> {
        let mut scan = Scan::default();
        let from = from.map(|from| page::position(&from)).transpose()?;
        for partition in self.partitions()? {
            let row = match from {
                Some((first, _)) if partition < first => continue,
                Some((first, row)) if partition == first => row,
                _ => 0,
            };
            if !filter.overlaps(partition.start_us(), partition.end_us()) {
                continue;
            }
            let mut problems = Vec::new();
            let read = self.query(partition, None, &mut problems, |db| {
                scan::read(db, row, &mut scan.records)
            })?;
            if let Some(problem) = problems.pop() {
                return Err(StoreError::Read(format!("{}/{problem}", self.folder.display())));
            }
            let rows = std::mem::take(&mut scan.records).into_iter();
            scan.records = rows.filter(|scanned| filter.matches(&scanned.record)).collect();
            scan.partition = Some(partition);
            if let Some(row) = read.flatten() {
                scan.next = Some(cursor(partition, row));
                return Ok(scan);
            }
            // The records of one partition at a time, so that each has its place.
            if !scan.records.is_empty() {
                scan.next = Some(cursor(partition, i64::MAX));
                return Ok(scan);
            }
        }
        Ok(scan)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.time_limit
    }

    fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        partition::list(&self.folder)
            .map_err(|error| StoreError::Read(format!("{}: {error}", self.folder.display())))
    }

    /// Query a partition in one read transaction. `Ok(None)`: it is new or gone, or unreadable,
    /// which is added to `problems`.
    fn query<T>(
        &self,
        partition: Partition,
        deadline: Option<Instant>,
        problems: &mut Vec<String>,
        query: impl FnOnce(&Connection) -> Result<T, OpenError>,
    ) -> Result<Option<T>, StoreError> {
        let path = partition.path(&self.folder);
        let result = schema::open_reader(&path).and_then(|connection| {
            let Some(mut connection) = connection else { return Ok(None) };
            if let Some(deadline) = deadline {
                let is_late = move || Instant::now() >= deadline;
                connection.progress_handler(PROGRESS, Some(is_late))?;
            }
            let snapshot = connection.transaction()?;
            query(&snapshot).map(Some)
        });
        match result {
            Ok(answer) => Ok(answer),
            Err(OpenError::Sqlite(error))
                if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                Err(StoreError::Timeout)
            }
            // Retention has removed it.
            Err(_) if !path.exists() => Ok(None),
            Err(error) => {
                problems.push(format!("{}: {error}", partition.name()));
                Ok(None)
            }
        }
    }
}

impl Store for SqliteStore {
    fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        query.check()?;
        let after = query.after.as_ref().map(page::position).transpose()?;
        let deadline = self.deadline();
        let (mut page, mut has_read) = (Page::default(), false);
        for partition in self.partitions()?.into_iter().rev() {
            let below = match after {
                Some((last, _)) if partition > last => continue,
                Some((last, row)) if partition == last => row,
                _ => i64::MAX,
            };
            if !query.filter.overlaps(partition.start_us(), partition.end_us()) {
                continue;
            }
            // Each page reads a partition at least, so that a search makes progress.
            if has_read && Instant::now() >= deadline {
                page.timed_out = true;
                page.next = Some(page::cursor(partition, below));
                break;
            }
            has_read = true;
            let mut problems = std::mem::take(&mut page.problems);
            let scanned = self.query(partition, None, &mut problems, |db| {
                page::scan(db, (partition, below), query, deadline, &mut page)
            });
            page.problems = problems;
            if let Some(ControlFlow::Break(next)) = scanned? {
                page.next = Some(next);
                break;
            }
        }
        Ok(page)
    }

    fn records(&self, id: &str) -> Result<(Vec<Record>, Vec<String>), StoreError> {
        let deadline = self.deadline();
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        for partition in self.partitions()?.into_iter().rev() {
            self.query(partition, Some(deadline), &mut problems, |db| {
                records::find(db, id, &mut found)
            })?;
        }
        Ok((found, problems))
    }

    fn facets(&self, query: &FacetQuery) -> Result<Facets, StoreError> {
        let deadline = self.deadline();
        let mut counts = facets::Counts::new(query)?;
        let mut problems = Vec::new();
        for partition in self.partitions()? {
            if counts.range.overlaps(partition.start_us(), partition.end_us()) {
                let folded =
                    self.query(partition, Some(deadline), &mut problems, |db| counts.add(db))?;
                problems.extend(folded.unwrap_or_default().into_iter().map(|field| {
                    let name = partition.name();
                    format!("{name}: the rarest values of {field} are missing, there are too many")
                }));
            }
        }
        Ok(Facets { fields: counts.into_fields(query), problems })
    }

    fn chart(&self, query: &ChartQuery) -> Result<Chart, StoreError> {
        let plan = ChartPlan::new(query)?;
        let deadline = self.deadline();
        let labels = match plan.grouped_field() {
            Some(field) => {
                let top = self.facets(&plan.top_values(field))?;
                top.fields
                    .into_iter()
                    .flat_map(|counts| counts.values)
                    .map(|(text, _)| text)
                    .collect()
            }
            None => Vec::new(),
        };
        let (mut sums, mut problems) = (ChartSums::default(), Vec::new());
        for partition in self.partitions()? {
            if plan.range.overlaps(partition.start_us(), partition.end_us()) {
                let is_folded = self.query(partition, Some(deadline), &mut problems, |db| {
                    chart::add(&plan, db, &labels, &mut sums)
                })?;
                if is_folded == Some(true) {
                    let name = partition.name();
                    problems.push(format!("{name}: values beyond the first 1000 are missing"));
                }
            }
        }
        Ok(Chart { series: sums.into_series(query.series), problems })
    }
}
