//! The only writer of a store: partitions, batches, retention.
//!
//! - *In*: batches of records with their keys.
//! - *Out*: rows, sketches and counts in the partitions of their windows, one transaction for each
//!   batch and partition.
//! - *Never*: a record twice, in rows or in sums; a half-written batch in a partition; a write to a
//!   partition that another process writes.
//!
//! A record belongs to the window of its start, so a late record, or one from a clock that jumped,
//! lands in a partition of its own time, and the same record always in the same window.

mod labels;
mod open;
mod retention;
mod sources;
pub(crate) mod tail;
pub(crate) mod totals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use observatory::{DeliveryError, NumberedRecord};

use crate::counters::{Counters, add};
use crate::partition::{self, Partition};
use crate::schema::{self, OpenError};
use open::OpenPartition;

/// Maximum partitions open for writing. Requests take at most hours, so late ones need one more.
const MAX_OPEN: usize = 4;
/// Maximum records of a partition. Removing one is a matter of milliseconds.
const MAX_ROWS: u64 = 1_000_000;
/// Usual bytes of a record on the disk.
const ROW_BYTES: u64 = 400;

/// How a store is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long records are kept. A partition is dropped when its newest record is older.
    pub keep: Duration,
    /// Maximum bytes of the folder; 0: no limit. The oldest partitions are dropped beyond it.
    pub max_bytes: u64,
    /// Maximum records of a partition, at least 1.
    pub max_rows: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions::new(Duration::from_secs(7 * 86_400), 0)
    }
}

impl StoreOptions {
    /// Options with partitions small enough for a limit of `max_bytes`.
    pub fn new(keep: Duration, max_bytes: u64) -> Self {
        let max_rows = match max_bytes {
            0 => MAX_ROWS,
            bytes => (bytes / 8 / ROW_BYTES).clamp(10_000, MAX_ROWS),
        };
        StoreOptions { keep, max_bytes, max_rows }
    }

    /// Hours of a window: short in relation to `keep`, and not too many files.
    fn window_hours(&self) -> u64 {
        match self.keep.as_secs() / 3600 {
            0..24 => 1,
            24..96 => 6,
            _ => 24,
        }
    }
}

/// Writes records into the folder of a store.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    options: StoreOptions,
    /// Partitions open for writing, the last used last.
    open: Vec<OpenPartition>,
    counters: Arc<Counters>,
    /// Maximum pages of a database, to simulate a full disk.
    max_pages: Option<u32>,
}

/// What became of a batch.
#[derive(Debug, Default)]
struct Written {
    stored: u64,
    lost: u64,
    /// Whether the batch must be written again.
    is_pending: bool,
    why: String,
}

/// A write that failed, and the partition that failed.
type Failed = (Option<Partition>, OpenError);

impl Writer {
    /// Opens or creates the folder, migrates partitions of earlier versions, sets damaged ones
    /// aside, and drops what exceeds the maximum size. `now_us` is the wall-clock time in Unix
    /// microseconds.
    ///
    /// # Errors
    /// The folder cannot be created, read or written.
    pub fn open(
        folder: &Path,
        options: StoreOptions,
        counters: Arc<Counters>,
        now_us: u64,
    ) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        partition::remove_orphans(folder)?;
        // Found here, not by the first record.
        tempfile::tempfile_in(folder)?;
        let folder = folder.to_owned();
        let mut writer = Writer { folder, options, open: Vec::new(), counters, max_pages: None };
        for found in partition::list(&writer.folder)? {
            writer.check(found, now_us);
        }
        writer.drop_excess();
        Ok(writer)
    }

    /// Migrate a partition, or report why it cannot be read.
    fn check(&mut self, found: Partition, now_us: u64) {
        let path = found.path(&self.folder);
        let Err(error) = schema::open_reader(&path).and_then(|connection| {
            if let Some(connection) = connection
                && schema::is_current(&connection)?
            {
                return Ok(());
            }
            match found.lock(&self.folder)? {
                Some(_lock) => schema::open_writer(&path).map(drop),
                None => Ok(()),
            }
        }) else {
            return;
        };
        match error {
            OpenError::Newer(_) => {
                add(&self.counters.newer_partitions, 1);
                tracing::error!(file = %path.display(), %error, "records of a file are unreadable");
            }
            error if error.is_damage() => self.set_aside(found, &error, now_us),
            error => tracing::error!(file = %path.display(), %error, "cannot read records"),
        }
    }

    /// Store the records of a batch that are not stored yet; returns how many those are. `now_us`
    /// is the wall-clock time in Unix microseconds.
    ///
    /// # Errors
    /// Records that could not be written. A batch that is to be written again may be stored in
    /// part.
    pub fn write(&mut self, batch: &[NumberedRecord], now_us: u64) -> Result<u64, DeliveryError> {
        let hours = self.options.window_hours();
        let mut windows: BTreeMap<Partition, Vec<&NumberedRecord>> = BTreeMap::new();
        for numbered in batch {
            let window = Partition::containing(numbered.record.started_at, hours);
            windows.entry(window).or_default().push(numbered);
        }
        let mut written = Written::default();
        for (window, records) in windows {
            self.write_window(window, &records, now_us, &mut written);
        }
        written.into_result()
    }

    fn write_window(
        &mut self,
        window: Partition,
        mut records: &[&NumberedRecord],
        now_us: u64,
        written: &mut Written,
    ) {
        while !records.is_empty() {
            match self.write_piece(window, records, now_us) {
                Ok((taken, new)) => {
                    written.stored += new;
                    self.counters.add_batch(new, taken as u64 - new);
                    records = records.get(taken..).unwrap_or_default();
                }
                Err(error) => return written.note(records.len(), &error),
            }
        }
    }

    /// Write the first records of a window, as many as its partition has room for; returns their
    /// number, and how many were new. If the partition is damaged, it is set aside, and the records
    /// begin a new one.
    fn write_piece(
        &mut self,
        window: Partition,
        records: &[&NumberedRecord],
        now_us: u64,
    ) -> Result<(usize, u64), OpenError> {
        match self.try_write(window, records) {
            Err((Some(partition), error)) if error.is_damage() => {
                self.set_aside(partition, &error, now_us);
                self.try_write(window, records).map_err(|(_, error)| error)
            }
            result => result.map_err(|(_, error)| error),
        }
    }

    fn try_write(
        &mut self,
        window: Partition,
        records: &[&NumberedRecord],
    ) -> Result<(usize, u64), Failed> {
        let mut open = self.take_open(window)?;
        let partition = open.partition;
        let room = usize::try_from(self.options.max_rows - open.rows()).unwrap_or(usize::MAX);
        let piece = records.get(..room).unwrap_or(records);
        // What failed is closed: its memory may be ahead of the file.
        let new = open.write(piece).map_err(|error| (Some(partition), error))?;
        if self.open.len() >= MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(open);
        Ok((piece.len(), new))
    }

    /// The partition of a window that is not full, taken from the list or opened.
    fn take_open(&mut self, window: Partition) -> Result<OpenPartition, Failed> {
        let mut full = None;
        let at = self.open.iter().position(|open| open.partition.is_same_window(window));
        if let Some(open) = at.map(|at| self.open.remove(at)) {
            if open.rows() >= self.options.max_rows {
                full = Some((open.partition, open.into_sources()));
            } else if open.exists() {
                return Ok(open);
            }
        }
        let mut next = match &full {
            Some((full, _)) => full.next_part(),
            None => self.last_part(window).map_err(|error| (None, error.into()))?,
        };
        loop {
            let sources = full.take().map(|(_, sources)| sources);
            match self.open_part(next, sources) {
                Ok(Some(open)) if open.rows() < self.options.max_rows => return Ok(open),
                // Full, or another process writes it.
                Ok(_) => {}
                // Not touched, and reported at the start.
                Err(OpenError::Newer(_)) => {}
                Err(error) => return Err((Some(next), error)),
            }
            next = next.next_part();
        }
    }

    /// The last part of a window, or the first one of a new window.
    fn last_part(&self, window: Partition) -> std::io::Result<Partition> {
        let parts = partition::list(&self.folder)?;
        Ok(parts.into_iter().rfind(|part| part.is_same_window(window)).unwrap_or(window))
    }

    /// Open or create a part; `None` if another process writes it.
    fn open_part(
        &mut self,
        partition: Partition,
        full: Option<open::Sources>,
    ) -> Result<Option<OpenPartition>, OpenError> {
        let is_new = !partition.path(&self.folder).exists();
        let Some(lock) = partition.lock(&self.folder)? else { return Ok(None) };
        let open = OpenPartition::open(&self.folder, partition, full, lock)?;
        if let Some(pages) = self.max_pages {
            open.limit_pages(pages)?;
        }
        if is_new {
            self.drop_excess();
        }
        Ok(Some(open))
    }

    /// Close all partitions: their write-ahead logs are merged into their databases.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Let each database have at most `pages` pages, as on a full disk.
    #[cfg(test)]
    fn limit_pages(&mut self, pages: Option<u32>) {
        self.max_pages = pages;
        self.open.clear();
    }
}

impl Written {
    fn note(&mut self, records: usize, error: &OpenError) {
        match error.is_temporary() {
            true => self.is_pending = true,
            false => self.lost += records as u64,
        }
        self.why = error.to_string();
    }

    fn into_result(self) -> Result<u64, DeliveryError> {
        let Written { stored, lost, is_pending, why } = self;
        match lost {
            // What was lost is counted when the batch is written for the last time.
            _ if is_pending => Err(DeliveryError::Retryable { why, after: None }),
            0 => Ok(stored),
            lost => Err(DeliveryError::Permanent { lost, why }),
        }
    }
}

#[cfg(test)]
mod tests;
