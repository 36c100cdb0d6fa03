//! The sink of the store: a bounded queue and the thread of the writer.
//!
//! - *In*: batches of the pump.
//! - *Out*: records with their keys, written by one thread, which also drops old partitions.
//! - *Never*: a pump that waits for a disk; more than [`MAX_QUEUED`] records in the queue. A batch
//!   that does not fit is lost, and counted by the pump.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lens::Record;
use observatory::{Sink, SinkError};
use parking_lot::{Condvar, Mutex};

use crate::counters::Counters;
use crate::key::RecordKey;
use crate::writer::{StoreOptions, Writer};

/// Maximum queued records: a third of a second at the highest rate.
const MAX_QUEUED: usize = 32_768;
/// Interval at which old partitions are dropped, and at which the queue is read after a failure.
const RETENTION_INTERVAL: Duration = Duration::from_secs(30);

/// Reads the wall clock, in Unix microseconds.
type WallClock = fn() -> u64;

/// Stores records on a thread of its own.
#[derive(Debug)]
pub struct StoreSink {
    instance: Arc<str>,
    epoch: u64,
    sequence: u64,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<(RecordKey, Arc<Record>)>,
    ends: bool,
    /// Records that the thread could not write since the last batch, and why.
    lost: u64,
    why: String,
}

impl StoreSink {
    /// Opens the store in `folder` and starts its thread. `instance` is the gateway's name in keys;
    /// the time of the start is the epoch.
    ///
    /// # Errors
    /// The folder or the thread cannot be created.
    pub fn start(
        folder: &Path,
        options: StoreOptions,
        instance: &str,
        counters: Arc<Counters>,
        now_us: WallClock,
    ) -> std::io::Result<Self> {
        let writer = Writer::open(folder, options, counters, now_us())?;
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        // Joined by `flush`.
        let thread = std::thread::Builder::new()
            .name("llm-lens-store".into())
            .spawn(move || shared.write(writer, now_us))?;
        Ok(StoreSink {
            instance: instance.into(),
            epoch: now_us() / 1000,
            sequence: 0,
            queue,
            thread: Some(thread),
        })
    }
}

impl Sink for StoreSink {
    fn name(&self) -> &'static str {
        "store"
    }

    /// Queues a batch. Records of earlier batches that could not be written are reported here.
    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        let mut state = self.queue.state.lock();
        // The pump subtracts losses from this batch, so larger ones are reported in parts.
        let earlier = state.lost.min(batch.len() as u64);
        state.lost -= earlier;
        let (mut lost, mut why) = (earlier, state.why.clone());
        // A batch larger than the queue is taken if the queue is empty.
        let is_full = state.records.len() + batch.len() > MAX_QUEUED && !state.records.is_empty();
        if is_full {
            state.lost += earlier;
            lost = batch.len() as u64;
            why = format!("{MAX_QUEUED} records wait for the disk");
        }
        for record in batch {
            let key = RecordKey {
                instance: self.instance.clone(),
                epoch: self.epoch,
                sequence: self.sequence,
            };
            self.sequence += 1;
            if !is_full {
                state.records.push((key, record.clone()));
            }
        }
        drop(state);
        self.queue.changed.notify_one();
        if lost == 0 { Ok(()) } else { Err(SinkError { lost, why }) }
    }

    /// Writes what is queued and ends the thread.
    fn flush(&mut self) {
        self.queue.state.lock().ends = true;
        self.queue.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let state = self.queue.state.lock();
        if state.lost > 0 {
            tracing::error!(lost = state.lost, error = state.why, "records lost at the end");
        }
    }
}

impl Drop for StoreSink {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.flush();
        }
    }
}

impl Queue {
    fn write(&self, mut writer: Writer, now_us: WallClock) {
        let mut retained_at = now_us();
        loop {
            let mut state = self.state.lock();
            if state.records.is_empty() && !state.ends {
                self.changed.wait_for(&mut state, RETENTION_INTERVAL);
            }
            let records = std::mem::take(&mut state.records);
            let ends = state.ends;
            drop(state);
            let now = now_us();
            if !records.is_empty()
                && let Err(error) = writer.write(&records, now)
            {
                let mut state = self.state.lock();
                // Logged once per failure: log lines must not make a full disk worse.
                if state.lost == 0 {
                    tracing::error!(lost = error.lost, error = error.why, "records not stored");
                }
                state.lost += error.lost;
                state.why = error.why;
            }
            // A clock that was set back does not stop retention.
            if now.abs_diff(retained_at) >= RETENTION_INTERVAL.as_micros() as u64 {
                retained_at = now;
                writer.retain(now);
            }
            if ends && records.is_empty() {
                return writer.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PageQuery, SqliteStore, Store as _};

    fn record(id: &str) -> Arc<Record> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "schema": 1, "id": id, "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/", "stream": false,
                "outcome": "ok", "bytes_from_client": 0, "bytes_to_client": 0, "ledger_us": {}, "total_us": 0
            }))
            .unwrap(),
        )
    }

    fn start(folder: &Path) -> StoreSink {
        let now = || 1_767_312_000_000_000;
        StoreSink::start(folder, StoreOptions::default(), "gw", Arc::default(), now).unwrap()
    }

    #[test]
    fn queued_records_are_stored_at_the_end_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = start(folder.path());
        for batch in [vec![record("a"), record("b")], vec![record("c")]] {
            assert_eq!(sink.deliver(&batch), Ok(()));
        }
        drop(sink);
        let query = PageQuery { limit: 10, ..PageQuery::default() };
        let page = SqliteStore::new(folder.path(), Duration::from_secs(10)).page(&query).unwrap();
        let ids: Vec<String> = page.rows.into_iter().map(|row| row.id).collect();
        assert_eq!(ids, ["c", "b", "a"]);
    }

    #[test]
    fn records_that_cannot_be_written_are_reported_with_the_next_batch() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("records");
        let mut sink = start(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(sink.deliver(&[record("a"), record("b")]), Ok(()));
        while sink.queue.state.lock().lost == 0 {
            std::thread::yield_now();
        }
        assert!(matches!(sink.deliver(&[record("c")]), Err(SinkError { lost: 1, .. })));
        sink.flush();
        let state = sink.queue.state.lock();
        assert_eq!(state.lost, 2, "one of the first batch, and the second batch");
        assert!(state.why.contains("No such file"), "{}", state.why);
    }

    #[test]
    fn batch_that_does_not_fit_the_queue_is_lost() {
        let queue = Arc::new(Queue::default());
        let mut sink = StoreSink {
            instance: "gw".into(),
            epoch: 1,
            sequence: 0,
            queue: queue.clone(),
            thread: None,
        };
        let batch = vec![record("a"); MAX_QUEUED];
        assert_eq!(sink.deliver(&batch), Ok(()));
        let lost = sink.deliver(&batch[..3]).unwrap_err();
        assert!(lost.lost == 3 && lost.why.contains("wait for the disk"), "{lost}");
        assert_eq!(
            (queue.state.lock().records.len(), sink.sequence),
            (MAX_QUEUED, MAX_QUEUED as u64 + 3)
        );
    }
}
