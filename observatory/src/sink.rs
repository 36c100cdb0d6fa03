//! Delivery of finished records: a queue for each worker, one pump thread, any number of sinks.
//!
//! - *In*: records from workers; lines of the audit log have a pump of their own.
//! - *Out*: batches for each [`Sink`], roughly in the order in which the requests ended; counts of
//!   delivered and dropped records.
//! - *Never*: a request that waits for a sink; more than [`MAX_QUEUED_RECORDS`] queued records per
//!   worker: the excess is dropped and counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lens::Record;

use crate::record_key::RecordKey;
use crate::sink_counts::SinkCounts;

/// Maximum queued records per worker. At 4,000 requests per second and worker, a sink may stall for
/// a second without loss.
const MAX_QUEUED_RECORDS: usize = 4096;
/// Interval at which the pump drains the queues. A half-full queue wakes it earlier.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Takes finished records, or lines of the audit log, on the pump's thread, where it may block.
pub trait Sink<T = Record>: Send {
    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// Take a batch.
    ///
    /// # Errors
    /// The number of lost records of the batch, and the reason. The pump counts them and continues.
    fn deliver(&mut self, batch: &[Arc<T>]) -> Result<(), SinkError>;

    /// Take a batch whose records have consecutive keys from `first`. A sink that stores keys
    /// implements it instead of [`Sink::deliver`].
    ///
    /// # Errors
    /// As above.
    fn deliver_numbered(&mut self, first: &RecordKey, batch: &[Arc<T>]) -> Result<(), SinkError> {
        let _ = first;
        self.deliver(batch)
    }

    /// Called once at shutdown, for all sinks before the first is flushed: a sink that delivers
    /// later begins to end, so that sinks do not wait one after the other.
    fn stop(&mut self) {}

    /// Called once at shutdown: writes buffered records.
    fn flush(&mut self) {}

    /// The counts of a sink that delivers later and counts by itself. `None`: the pump counts.
    fn own_counts(&self) -> Option<Arc<SinkCounts>> {
        None
    }
}

/// An item of a queue.
pub(crate) trait Queued: Send + Sync + 'static {
    /// Time of the item in Unix microseconds. A batch from several workers is sorted by it.
    fn at(&self) -> u64;
}

impl Queued for Record {
    fn at(&self) -> u64 {
        self.started_at.saturating_add(self.total_us)
    }
}

/// Records that a sink has lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{lost} records lost: {why}")]
pub struct SinkError {
    /// Number of lost records.
    pub lost: u64,
    /// The reason.
    pub why: String,
}

/// Queues, thread and counts of a set of sinks. [`Pump::close`] or dropping it delivers the queued
/// records and flushes the sinks.
#[derive(Debug)]
pub(crate) struct Pump<T: Queued = Record> {
    queues: Arc<Queues<T>>,
    counts: Vec<Arc<SinkCounts>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Sinks with their counts.
type Sinks<T> = Vec<(Box<dyn Sink<T>>, Arc<SinkCounts>)>;

#[derive(Debug)]
struct Queues<T> {
    workers: Vec<Mutex<Vec<Arc<T>>>>,
    /// Records taken from the queues and not yet delivered to all sinks.
    delivering: Mutex<Vec<Arc<T>>>,
    dropped: AtomicU64,
    ends: Mutex<bool>,
    wakes: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Queued> Pump<T> {
    /// Starts the pump's thread, named `thread`.
    pub(crate) fn start(thread: &str, workers: usize, sinks: Vec<Box<dyn Sink<T>>>) -> Self {
        let queues = Arc::new(Queues {
            workers: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            delivering: Mutex::default(),
            dropped: AtomicU64::new(0),
            ends: Mutex::new(false),
            wakes: Condvar::new(),
        });
        let counts: Vec<_> = sinks.iter().map(|sink| counts(&**sink)).collect();
        let (seen, all) = (queues.clone(), sinks.into_iter().zip(counts.clone()).collect());
        // Joined when the pump is dropped.
        let thread = std::thread::Builder::new().name(thread.into()).spawn(move || seen.pump(all));
        let thread = thread
            .inspect_err(|error| {
                tracing::error!(%error, "cannot start the sink thread, records are dropped")
            })
            .ok();
        Pump { queues, counts, thread: Mutex::new(thread) }
    }

    /// Queue a record of a worker.
    pub(crate) fn push(&self, worker: usize, record: T) {
        let queues = &self.queues;
        let Some(queue) = queues.workers.get(worker % queues.workers.len()) else { return };
        let mut queue = lock(queue);
        if queue.len() >= MAX_QUEUED_RECORDS {
            drop(queue);
            queues.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push(Arc::new(record));
        if queue.len() == MAX_QUEUED_RECORDS / 2 {
            drop(queue);
            queues.wakes.notify_one();
        }
    }

    /// Records that are not in all sinks yet, oldest first.
    pub(crate) fn waiting(&self) -> Vec<Arc<T>> {
        // Holding this lock prevents the pump from taking records in between.
        let delivering = lock(&self.queues.delivering);
        let mut all = delivering.clone();
        self.queues.workers.iter().for_each(|queue| all.extend(lock(queue).iter().cloned()));
        all.sort_by_key(|record| record.at());
        all
    }

    /// Deliver the queued records, flush the sinks, and end the thread. A second call does nothing.
    pub(crate) fn close(&self) {
        *lock(&self.queues.ends) = true;
        self.queues.wakes.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    pub(crate) fn counts(&self) -> &[Arc<SinkCounts>] {
        &self.counts
    }

    /// Records dropped because their queue was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.queues.dropped.load(Ordering::Relaxed)
    }
}

impl<T: Queued> Drop for Pump<T> {
    fn drop(&mut self) {
        self.close();
    }
}

fn counts<T>(sink: &dyn Sink<T>) -> Arc<SinkCounts> {
    sink.own_counts().unwrap_or_else(|| Arc::new(SinkCounts::new(sink.name())))
}

impl<T: Queued> Queues<T> {
    fn pump(&self, mut sinks: Sinks<T>) {
        let mut next = RecordKey::first();
        loop {
            let ends = *self
                .wakes
                .wait_timeout(lock(&self.ends), POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            let delivered = self.deliver(&mut sinks, &next);
            next = next.plus(delivered);
            if ends {
                sinks.iter_mut().for_each(|(sink, _)| sink.stop());
                sinks.iter_mut().for_each(|(sink, _)| sink.flush());
                return;
            }
        }
    }

    /// Delivers what is queued; returns the number of records. `first` is the key of the first one.
    fn deliver(&self, sinks: &mut Sinks<T>, first: &RecordKey) -> u64 {
        let mut delivering = lock(&self.delivering);
        self.workers.iter().for_each(|queue| delivering.append(&mut lock(queue)));
        if delivering.is_empty() {
            return 0;
        }
        delivering.sort_by_key(|record| record.at());
        let batch = delivering.clone();
        drop(delivering);
        let all = batch.len() as u64;
        for (sink, counts) in sinks {
            // A sink that panics loses its batch; the others still get theirs.
            let delivered = catch_unwind(AssertUnwindSafe(|| sink.deliver_numbered(first, &batch)));
            if delivered.is_ok() && counts.delivery().is_some() {
                continue;
            }
            let result = delivered
                .unwrap_or_else(|_| Err(SinkError { lost: all, why: "the sink panicked".into() }));
            counts.note(all, result);
        }
        lock(&self.delivering).clear();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;
    use crate::tests::record;

    /// Reports the size of each batch; blocks until it is released.
    struct Telling {
        name: &'static str,
        batches: SyncSender<usize>,
        go: Receiver<()>,
        result: Result<(), SinkError>,
    }

    impl Sink for Telling {
        fn name(&self) -> &'static str {
            self.name
        }

        fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
            let _ = self.batches.send(batch.len());
            let _ = self.go.recv();
            assert!(self.name != "panicking", "a test asked for a panic");
            self.result.clone()
        }
    }

    fn telling(
        name: &'static str,
        result: Result<(), SinkError>,
    ) -> (Box<dyn Sink>, Receiver<usize>, SyncSender<()>) {
        let ((batches, told), (release, go)) = (sync_channel(1 << 14), sync_channel(1 << 14));
        (Box::new(Telling { name, batches, go, result }), told, release)
    }

    #[test]
    fn records_beyond_the_queue_of_a_stalled_sink_are_dropped() {
        let (sink, told, go) = telling("slow", Ok(()));
        let pump = Pump::start("test", 1, vec![sink]);
        pump.push(0, record("m", "ok"));
        assert_eq!(told.recv(), Ok(1));
        (0..MAX_QUEUED_RECORDS + 10).for_each(|_| pump.push(0, record("m", "ok")));
        assert_eq!(pump.dropped(), 10);
        assert_eq!(
            pump.waiting().len(),
            MAX_QUEUED_RECORDS + 1,
            "what is being delivered is seen, too"
        );
        drop(go);
        let counts = pump.counts()[0].clone();
        drop(pump);
        assert_eq!(
            (counts.delivered(), counts.dropped()),
            (MAX_QUEUED_RECORDS as u64 + 1, 0),
            "the end delivers what waits"
        );
    }

    #[test]
    fn failing_or_panicking_sink_does_not_affect_others() {
        let lost = Err(SinkError { lost: 1, why: "no space".into() });
        let sinks =
            [telling("failing", lost), telling("panicking", Ok(())), telling("good", Ok(()))];
        let mut all: Vec<Box<dyn Sink>> = Vec::new();
        for (sink, _, go) in sinks {
            drop(go);
            all.push(sink);
        }
        let pump = Pump::start("test", 2, all);
        (0..3).for_each(|worker| pump.push(worker, record("m", "ok")));
        let counts = pump.counts().to_vec();
        drop(pump);
        assert_eq!(counts[0].delivered() + counts[0].dropped(), 3);
        assert!(
            counts[0].dropped() > 0
                && counts[0].last_error().is_some_and(|why| why.contains("no space"))
        );
        assert_eq!(
            (counts[1].dropped(), counts[2].delivered(), counts[2].last_error()),
            (3, 3, None)
        );
    }

    #[test]
    fn records_get_consecutive_keys() {
        struct Keys(SyncSender<(RecordKey, u64)>);
        impl Sink for Keys {
            fn name(&self) -> &'static str {
                "keys"
            }
            fn deliver(&mut self, _: &[Arc<Record>]) -> Result<(), SinkError> {
                Ok(())
            }
            fn deliver_numbered(
                &mut self,
                first: &RecordKey,
                batch: &[Arc<Record>],
            ) -> Result<(), SinkError> {
                let _ = self.0.send((first.clone(), batch.len() as u64));
                Ok(())
            }
        }
        let (keys, batches) = sync_channel(100);
        let pump = Pump::start("test", 2, vec![Box::new(Keys(keys))]);
        (0..5).for_each(|worker| pump.push(worker, record("m", "ok")));
        let (first, count) = batches.recv().unwrap();
        (0..3).for_each(|worker| pump.push(worker, record("m", "ok")));
        drop(pump);
        let mut next = first.plus(count);
        assert_eq!((first.sequence, first.epoch > 0), (0, true));
        for (first, count) in batches {
            assert_eq!(first, next);
            next = next.plus(count);
        }
        assert_eq!(next.sequence, 8);
    }
}
