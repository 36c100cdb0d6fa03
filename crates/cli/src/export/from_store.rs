//! A record store as the source of an export.
//!
//! - *In*: the folder of the store, a filter.
//! - *Out*: records in the order in which they were stored.
//! - *Never*: a wait of the gateway that writes the store: connections are read-only.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use files::{Progress, Row, Source, SourceError};
use lens::RecordFilter;
use store::{Cursor, SqliteStore};

/// Time limit of the summary, for the progress. The export itself has none.
const SUMMARY: Duration = Duration::from_secs(10);

struct StoreSource {
    store: SqliteStore,
    filter: RecordFilter,
    /// Records that were read, with their places.
    rows: VecDeque<(Option<Cursor>, Row)>,
    next: Option<Cursor>,
    is_at_end: bool,
    done: u64,
    all: Option<u64>,
}

/// Opens the store at a place.
pub(super) fn open(
    folder: &Path,
    filter: &RecordFilter,
    place: Option<&str>,
) -> Result<Box<dyn Source>, SourceError> {
    let store = SqliteStore::new(folder, SUMMARY);
    let next = place.map(str::parse).transpose().map_err(failed)?;
    let all = store.summary().ok().map(|summary| summary.records);
    Ok(Box::new(StoreSource {
        store,
        filter: filter.clone(),
        rows: VecDeque::new(),
        next,
        is_at_end: false,
        done: 0,
        all: all.filter(|_| *filter == RecordFilter::default() && place.is_none()),
    }))
}

fn failed(error: store::StoreError) -> SourceError {
    SourceError(error.to_string())
}

impl Source for StoreSource {
    fn next_row(&mut self) -> Result<Option<Row>, SourceError> {
        while self.rows.is_empty() && !self.is_at_end {
            let mut scan = self.store.scan(self.next.clone(), &self.filter).map_err(failed)?;
            self.is_at_end = scan.next.is_none();
            let records = std::mem::take(&mut scan.records);
            for scanned in records {
                let place = scan.place(&scanned);
                let row = Row { key: Some(scanned.key), record: Arc::new(scanned.record) };
                self.rows.push_back((place, row));
            }
            self.next = scan.next.or(self.next.take());
        }
        self.done += u64::from(!self.rows.is_empty());
        Ok(self.rows.pop_front().map(|(_, row)| row))
    }

    fn place(&self) -> Option<String> {
        let place = self.rows.front().map_or(self.next.as_ref(), |(place, _)| place.as_ref());
        place.map(ToString::to_string)
    }

    fn progress(&self) -> Progress {
        Progress { done: self.done, all: self.all, unit: "records", written: 0 }
    }
}
