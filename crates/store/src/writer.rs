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
mod sources;
pub(crate) mod tail;
pub(crate) mod totals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lens::Record;

use crate::counters::{Counters, add};
use crate::key::RecordKey;
use crate::partition::{self, Partition};
use crate::schema::{self, OpenError};
use open::OpenPartition;

/// Maximum partitions open for writing. Requests take at most hours, so late ones need one more.
const MAX_OPEN: usize = 4;
/// Maximum records of a transaction.
const MAX_TRANSACTION: usize = 8192;

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
    /// Maximum records of a partition.
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

/// Records that could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{lost} records not stored: {why}")]
pub struct WriteError {
    /// Number of records. The others of the batch are stored.
    pub lost: u64,
    /// The reason.
    pub why: String,
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

/// A record with its key.
type Keyed = (RecordKey, Arc<Record>);

impl Writer {
    /// Opens or creates the folder, migrates partitions of earlier versions, and sets damaged ones
    /// aside. `now_us` is the wall-clock time in Unix microseconds.
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
        let folder = folder.to_owned();
        let mut writer = Writer { folder, options, open: Vec::new(), counters, max_pages: None };
        for found in partition::list(&writer.folder)? {
            writer.check(found, now_us);
        }
        writer.retain(now_us);
        Ok(writer)
    }

    /// Migrate a partition, or report why it cannot be read.
    fn check(&mut self, found: Partition, now_us: u64) {
        let path = found.path(&self.folder);
        let Err(error) = schema::open_reader(&path).and_then(|connection| {
            if schema::is_current(&connection)? {
                return Ok(());
            }
            drop(connection);
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

    /// Store the records of a batch that are not stored yet; returns how many those are.
    ///
    /// # Errors
    /// Records that could not be written; the others are stored.
    pub fn write(&mut self, batch: &[Keyed], now_us: u64) -> Result<u64, WriteError> {
        let hours = self.options.window_hours();
        let mut windows: BTreeMap<Partition, Vec<&Keyed>> = BTreeMap::new();
        for keyed in batch {
            let window = Partition::containing(keyed.1.started_at, hours);
            windows.entry(window).or_default().push(keyed);
        }
        let (mut stored, mut failed) = (0, None::<WriteError>);
        for (window, records) in windows {
            for piece in records.chunks(MAX_TRANSACTION) {
                match self.write_piece(window, piece, now_us) {
                    Ok(new) => {
                        stored += new;
                        add(&self.counters.stored, new);
                        add(&self.counters.repeated, piece.len() as u64 - new);
                    }
                    Err(error) => {
                        let failed =
                            failed.get_or_insert(WriteError { lost: 0, why: String::new() });
                        failed.lost += piece.len() as u64;
                        failed.why = error.to_string();
                    }
                }
            }
        }
        failed.map_or(Ok(stored), Err)
    }

    /// Write records of one window. If the partition is damaged, it is set aside, and the records
    /// begin a new one.
    fn write_piece(
        &mut self,
        window: Partition,
        piece: &[&Keyed],
        now_us: u64,
    ) -> Result<u64, OpenError> {
        match self.try_write(window, piece) {
            Err((Some(partition), error)) if error.is_damage() => {
                self.set_aside(partition, &error, now_us);
                self.try_write(window, piece).map_err(|(_, error)| error)
            }
            result => result.map_err(|(_, error)| error),
        }
    }

    /// Write records; on failure, the partition that failed.
    fn try_write(
        &mut self,
        window: Partition,
        piece: &[&Keyed],
    ) -> Result<u64, (Option<Partition>, OpenError)> {
        let mut open = self.take_open(window)?;
        let partition = open.partition;
        // What failed is closed: its memory may be ahead of the file.
        let new = open.write(piece).map_err(|error| (Some(partition), error))?;
        if self.open.len() >= MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(open);
        Ok(new)
    }

    /// The partition of a window that is not full, taken from the list or opened.
    fn take_open(
        &mut self,
        window: Partition,
    ) -> Result<OpenPartition, (Option<Partition>, OpenError)> {
        let at = self.open.iter().position(|open| open.partition.is_same_window(window));
        if let Some(open) = at.map(|at| self.open.remove(at))
            && open.rows() < self.options.max_rows
        {
            return Ok(open);
        }
        let listed = partition::list(&self.folder).map_err(|error| (None, error.into()))?;
        let parts: Vec<Partition> =
            listed.into_iter().filter(|other| other.is_same_window(window)).collect();
        let mut next = parts.last().copied().unwrap_or(window);
        loop {
            match self.open_part(next, &parts) {
                Ok(Some(open)) if open.rows() < self.options.max_rows => return Ok(open),
                // Full, or another process writes it.
                Ok(_) => {}
                // Left alone, and reported at the start.
                Err(OpenError::Newer(_)) => {}
                Err(error) => return Err((Some(next), error)),
            }
            next = next.next_part();
        }
    }

    fn open_part(
        &self,
        partition: Partition,
        parts: &[Partition],
    ) -> Result<Option<OpenPartition>, OpenError> {
        let Some(lock) = partition.lock(&self.folder)? else { return Ok(None) };
        let open = OpenPartition::open(&self.folder, partition, parts, lock)?;
        if let Some(pages) = self.max_pages {
            open.limit_pages(pages)?;
        }
        Ok(Some(open))
    }

    fn set_aside(&mut self, partition: Partition, error: &OpenError, now_us: u64) {
        self.open.retain(|open| open.partition != partition);
        add(&self.counters.damaged_partitions, 1);
        match partition.set_aside(&self.folder, now_us) {
            Ok(aside) => tracing::error!(
                file = %aside.display(),
                %error,
                "a damaged file of records was renamed; `sqlite3 FILE .recover` reads what is left"
            ),
            Err(renaming) => tracing::error!(
                file = %partition.path(&self.folder).display(),
                %error,
                %renaming,
                "a file of records is damaged and cannot be renamed"
            ),
        }
    }

    /// Drop partitions that are too old, and the oldest while the folder is too large. Returns
    /// their number.
    pub fn retain(&mut self, now_us: u64) -> usize {
        let Ok(all) = partition::list(&self.folder) else { return 0 };
        let keep_us = u64::try_from(self.options.keep.as_micros()).unwrap_or(u64::MAX);
        let sizes: Vec<u64> = all.iter().map(|found| found.bytes(&self.folder)).collect();
        let mut bytes: u64 = sizes.iter().sum();
        let mut dropped = 0;
        for (at, (found, size)) in all.iter().zip(sizes).enumerate() {
            let is_old = found.end_us().saturating_add(keep_us) <= now_us;
            // The newest partition stays, however small the limit is.
            let is_excess =
                bytes > self.options.max_bytes && self.options.max_bytes > 0 && at + 1 < all.len();
            if (is_old || is_excess) && self.drop_partition(*found) {
                bytes -= size;
                dropped += 1;
            }
        }
        add(&self.counters.dropped_partitions, dropped as u64);
        dropped
    }

    /// Remove a partition, unless another process writes it.
    fn drop_partition(&mut self, partition: Partition) -> bool {
        self.open.retain(|open| open.partition != partition);
        let removed = match partition.lock(&self.folder) {
            Ok(Some(_lock)) => partition.remove(&self.folder),
            Ok(None) => return false,
            Err(error) => Err(error),
        };
        if let Err(error) = &removed {
            let file = partition.path(&self.folder);
            tracing::error!(file = %file.display(), %error, "cannot remove a file of old records");
        }
        removed.is_ok()
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

#[cfg(test)]
mod tests;
