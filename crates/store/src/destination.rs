//! The store as a destination of records.
//!
//! - *In*: batches of a [`DeliverySink`], on its thread.
//! - *Out*: stored records; old partitions are dropped.
//! - *Never*: a queue or retries of its own, which the sink has: it keeps a batch until it is
//!   stored, and the newest records are dropped and counted while the disk does not accept any.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use observatory::{DeliveryError, DeliverySettings, DeliverySink, Destination, NumberedRecord};

use crate::clock::{ClockReadings, WallClock};
use crate::counters::Counters;
use crate::writer::{StoreOptions, Writer};

/// Maximum records in a batch, which is a transaction of each window.
const BATCH: usize = 8192;
/// Maximum records in memory: a third of a second at 100,000 records per second, or hours of a
/// small gateway while its disk is full. A record takes about 2 KiB.
const QUEUE: usize = 32_768;
/// How long records wait for a full batch. A transaction writes each rollup of its minute, so fewer
/// ones write less. A killed process loses the records of this time.
const LINGER: Duration = Duration::from_millis(250);
/// Wait after the first failure, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A batch is only tried; SQLite itself waits for a lock for two seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of [`ClockReadings`], and at which old partitions are dropped.
const LOOK: Duration = ClockReadings::INTERVAL;

/// Stores records.
struct ToSqlite {
    writer: Writer,
    wall_us: WallClock,
    looked_at: Instant,
    readings: ClockReadings,
}

/// Opens the store in `folder` and starts the sink that writes it.
///
/// # Errors
/// The folder cannot be used, or a thread cannot be started.
pub fn sink(
    folder: &Path,
    options: StoreOptions,
    counters: Arc<Counters>,
    wall_us: WallClock,
) -> io::Result<DeliverySink> {
    let writer = Writer::open(folder, options, counters, wall_us())?;
    let destination =
        ToSqlite { writer, wall_us, looked_at: Instant::now(), readings: ClockReadings::default() };
    let settings = DeliverySettings {
        batch: BATCH,
        queue: QUEUE,
        linger: LINGER,
        timeout: TIMEOUT,
        backoff_min: BACKOFF.0,
        backoff_max: BACKOFF.1,
        // The store is as durable as a spill on the same disk.
        spill: None,
    };
    DeliverySink::start(destination, settings).map_err(io::Error::other)
}

impl Destination for ToSqlite {
    fn name(&self) -> &'static str {
        "store"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let stored = self.writer.write(batch, (self.wall_us)());
        self.look();
        stored.map(drop)
    }

    fn idle(&mut self) {
        self.look();
    }
}

impl ToSqlite {
    /// Drops old and excess partitions, if the time has come.
    fn look(&mut self) {
        if self.looked_at.elapsed() < LOOK {
            return;
        }
        self.looked_at = Instant::now();
        if let Some(now_us) = self.readings.add((self.wall_us)()) {
            self.writer.drop_old(now_us);
        }
        self.writer.drop_excess();
    }
}

#[cfg(test)]
mod tests {
    use lens::Record;
    use observatory::{RecordKey, Sink as _};

    use super::*;
    use crate::{PageQuery, SqliteStore, Store as _};

    const NOW: WallClock = || 1_767_312_000_000_000;

    fn record(id: &str) -> Arc<Record> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "schema": 1, "id": id, "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/", "stream": false,
                "outcome": "ok", "bytes_from_client": 0, "bytes_to_client": 0, "ledger_us": {}, "total_us": 0
            }))
            .unwrap(),
        )
    }

    fn first() -> RecordKey {
        RecordKey { instance: "gw".into(), epoch: 1, sequence: 0 }
    }

    fn ids(folder: &Path) -> Vec<String> {
        let query = PageQuery { limit: 10, ..PageQuery::default() };
        let page = SqliteStore::new(folder, Duration::from_secs(10)).page(&query).unwrap();
        page.rows.into_iter().map(|row| row.id).collect()
    }

    #[test]
    fn end_stores_what_is_queued_and_a_batch_that_comes_again_is_stored_once() {
        let folder = tempfile::tempdir().unwrap();
        let counters = Arc::<Counters>::default();
        for _ in 0..2 {
            let options = StoreOptions::default();
            let mut sink = sink(folder.path(), options, counters.clone(), NOW).unwrap();
            sink.deliver_numbered(&first(), &[record("a"), record("b")]).unwrap();
            sink.deliver_numbered(&first().plus(2), &[record("c")]).unwrap();
        }
        assert_eq!(ids(folder.path()), ["c", "b", "a"]);
        assert_eq!((counters.stored(), counters.repeated()), (3, 3));
    }

    #[test]
    fn records_wait_while_the_folder_cannot_be_written() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, away) = (parent.path().join("records"), parent.path().join("away"));
        let mut sink = sink(&folder, StoreOptions::default(), Arc::default(), NOW).unwrap();
        let counts = sink.own_counts().unwrap();
        std::fs::rename(&folder, &away).unwrap();
        sink.deliver_numbered(&first(), &[record("a"), record("b")]).unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while counts.last_error().is_none() && Instant::now() < limit {
            std::thread::yield_now();
        }
        let error = counts.last_error().unwrap_or_default();
        assert!(error.contains("No such file"), "{error}");
        assert_eq!((counts.delivered(), counts.dropped()), (0, 0));
        std::fs::rename(&away, &folder).unwrap();
        while counts.delivered() < 2 && Instant::now() < limit {
            std::thread::yield_now();
        }
        assert_eq!((ids(&folder), counts.dropped()), (vec!["b".into(), "a".into()], 0));
    }
}
