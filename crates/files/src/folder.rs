//! The sink of files: records in a folder, rotated by size and time.
//!
//! - *In*: batches of a [`DeliverySink`], on its thread.
//! - *Out*: complete files `records-TIME-PROCESS-NUMBER.FORMAT`; files older than `keep` are
//!   removed.
//! - *Never*: a queue or retries of its own, which the sink has; a record twice, unless a write
//!   failed halfway: then it comes again with its key.

mod finisher;
mod object;
pub(crate) use object::object_name;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use lens::RecordFormat;
use observatory::{DeliveryError, DeliverySettings, DeliverySink, Destination, NumberedRecord};

use crate::Row;
use crate::part::Part;
use crate::writer;
use finisher::Finisher;

/// Maximum records in a batch. Each batch is synced.
const BATCH: usize = 4096;
/// Maximum records in memory: hours of a small gateway while its disk is full. A record takes about
/// 2 KiB.
const QUEUE: usize = 32_768;
/// How long records wait for a full batch. A killed process loses the records of this time.
const LINGER: Duration = Duration::from_millis(250);
/// Wait after the first failure, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A batch is only tried.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Numbers that are tried for the name of a file.
const MAX_NAMES: u64 = 1000;

/// What is written to a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// Format of the files.
    pub format: RecordFormat,
    /// Bytes after which a file is complete. A file of columns is smaller: its rows are counted.
    pub max_size: u64,
    /// A file is complete at the end of each such interval of Unix time.
    pub interval: Duration,
    /// Age at which files are removed; `None`: they stay.
    pub keep: Option<Duration>,
}

/// Counts of the sink.
#[derive(Debug, Default)]
pub struct Counters {
    completed: AtomicU64,
    removed: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    /// Complete files.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Files removed because of their age.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Failed attempts to complete or to remove a file.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads the wall clock, in Unix microseconds.
type WallClock = fn() -> u64;

/// Starts the sink that writes to `folder`, which is created.
///
/// # Errors
/// This build does not have the format, the folder cannot be used, or a thread cannot be started.
pub fn sink(
    folder: &Path,
    options: FolderOptions,
    counters: Arc<Counters>,
    wall_us: WallClock,
) -> io::Result<DeliverySink> {
    let settings = DeliverySettings {
        batch: BATCH,
        queue: QUEUE,
        linger: LINGER,
        timeout: TIMEOUT,
        backoff_min: BACKOFF.0,
        backoff_max: BACKOFF.1,
        // The files are as durable as a spill on the same disk.
        spill: None,
    };
    let destination = ToFolder::new(folder, options, counters, wall_us)?;
    DeliverySink::start(destination, settings).map_err(io::Error::other)
}

/// Writes records to a folder.
struct ToFolder {
    folder: PathBuf,
    options: FolderOptions,
    counters: Arc<Counters>,
    wall_us: WallClock,
    finisher: Finisher,
    open: Option<Open>,
    /// Distinguishes the files of processes.
    process: String,
    number: u64,
}

/// The file that is being written.
struct Open {
    part: Part,
    since_us: u64,
}

impl ToFolder {
    fn new(
        folder: &Path,
        options: FolderOptions,
        counters: Arc<Counters>,
        wall_us: WallClock,
    ) -> io::Result<Self> {
        writer::is_supported(options.format)
            .map_err(|missing| io::Error::new(io::ErrorKind::Unsupported, missing))?;
        create_private(folder)?;
        let finisher = Finisher::start(folder, options.keep, counters.clone(), wall_us())?;
        let process = format!("{:x}{:x}", wall_us() / 1000, std::process::id());
        let folder = folder.to_owned();
        let (open, number) = (None, 0);
        Ok(ToFolder { folder, options, counters, wall_us, finisher, open, process, number })
    }

    /// Completes the open file if its interval is over.
    fn rotate_if_due(&mut self, now_us: u64) {
        let interval_us = u64::try_from(self.options.interval.as_micros()).unwrap_or(u64::MAX);
        let window = |us: u64| us / interval_us.max(1);
        // A clock that jumps back begins a new file, too.
        if self.open.as_ref().is_some_and(|open| window(open.since_us) != window(now_us)) {
            self.rotate();
        }
    }

    /// Completes the open file. If that fails, the finisher tries again.
    fn rotate(&mut self) {
        let Some(Open { part, .. }) = self.open.take() else { return };
        if self.options.format.is_columnar() || part.is_broken() {
            // Without its lock, it belongs to the finisher.
            drop(part);
            return self.finisher.wake();
        }
        match part.rename() {
            Ok(()) => Counters::add(&self.counters.completed),
            Err(error) => {
                Counters::add(&self.counters.failures);
                tracing::warn!(%error, "file of records cannot be completed, retrying");
            }
        }
    }

    fn append(&mut self, rows: &[u8], now_us: u64) -> io::Result<()> {
        if self.open.is_none() {
            let part = self.create(now_us)?;
            self.open = Some(Open { part, since_us: now_us });
        }
        let Some(Open { part, .. }) = &mut self.open else { return Ok(()) };
        let result = part.append(rows).and_then(|()| part.sync());
        if part.is_broken() {
            self.rotate();
        }
        result
    }

    fn create(&mut self, now_us: u64) -> io::Result<Part> {
        let at = i64::try_from(now_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
        let at = at.unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
        for _ in 0..MAX_NAMES {
            let (process, number) = (&self.process, self.number);
            let end = self.options.format.extension();
            let name = format!("{}{at}-{process}-{number}.{end}", finisher::PREFIX);
            self.number += 1;
            match Part::create(&self.folder.join(name), self.options.format) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created,
            }
        }
        Err(io::Error::other("no name of a file is free"))
    }
}

impl Destination for ToFolder {
    fn name(&self) -> &'static str {
        "files"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let now_us = (self.wall_us)();
        self.rotate_if_due(now_us);
        let (mut rows, mut lost, mut why) = (Vec::new(), 0, String::new());
        for numbered in batch {
            if let Err(error) = writer::encode(self.options.format, &Row::from(numbered), &mut rows)
            {
                lost += 1;
                why.clear();
                let _ = write!(why, "{error}");
            }
        }
        if !rows.is_empty() {
            self.append(&rows, now_us).map_err(|error| {
                let why = format!("{}: {error}", self.folder.display());
                DeliveryError::Retryable { why, after: None }
            })?;
        }
        if self.open.as_ref().is_some_and(|open| open.part.size() >= self.options.max_size) {
            self.rotate();
        }
        if lost > 0 { Err(DeliveryError::Permanent { lost, why }) } else { Ok(()) }
    }

    fn idle(&mut self) {
        self.rotate_if_due((self.wall_us)());
    }
}

impl Drop for ToFolder {
    fn drop(&mut self) {
        self.rotate();
        self.finisher.end();
    }
}

/// Creates a folder that only the user of the process can read.
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
