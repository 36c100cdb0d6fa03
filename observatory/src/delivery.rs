//! A sink for a destination that may be unavailable: a queue of its own, retries, a circuit, and a
//! spill on the disk.
//!
//! - *In*: numbered records from the pump, which never waits for the destination.
//! - *Out*: batches for a [`Destination`], from a thread of their own, in order; a batch that
//!   failed for a time is sent again, with its keys.
//! - *Never*: more than [`DeliverySettings::queue`] records in memory: with a full queue, the
//!   newest are dropped and counted. A second batch while the first one is being retried.
//!
//! With a spill, records are written ahead: a second thread takes them from the queue and syncs
//! them, and only then are they sent; they are removed when the destination has accepted them. If
//! the disk fails, records go from the queue to the destination until it works again.

mod backoff;
mod queue;
mod sender;
mod spiller;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lens::Record;
use spill::{Limits, OpenError, Spill, WhenFull};

use crate::record_key::{NumberedRecord, RecordKey};
use crate::sink::{Sink, SinkError};
use crate::sink_counts::SinkCounts;
use queue::Queue;
use sender::Sender;
use spiller::Spiller;

/// How long the end of the process waits for the destination.
#[cfg(not(test))]
const LAST_ATTEMPTS: Duration = Duration::from_secs(3);
#[cfg(test)]
const LAST_ATTEMPTS: Duration = Duration::from_millis(300);

/// Accepts batches of records. It is called on a thread of its own, where it may block.
pub trait Destination: Send + 'static {
    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// Sends a batch and waits for the answer, for `timeout` at the most. A batch can come again
    /// after an answer was lost or the process was killed, so a store must ignore keys it has.
    ///
    /// # Errors
    /// [`DeliveryError`].
    fn deliver(&mut self, batch: &[NumberedRecord], timeout: Duration)
    -> Result<(), DeliveryError>;

    /// Called when there has been nothing to send for half a minute: time for chores.
    fn idle(&mut self) {}
}

/// Why a batch was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The destination may accept it later: it is sent again.
    #[error("{why}")]
    Retryable {
        /// The reason.
        why: String,
        /// Minimum wait, from `Retry-After`.
        after: Option<Duration>,
    },
    /// It will not accept these records: they are dropped and counted.
    #[error("{lost} records refused: {why}")]
    Permanent {
        /// Number of refused records. The rest of the batch was accepted.
        lost: u64,
        /// The reason.
        why: String,
    },
}

/// Queue and retries of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Maximum records in a batch, at least 1.
    pub batch: usize,
    /// Maximum records in memory, at least one batch.
    pub queue: usize,
    /// How long records in memory wait for a full batch. Zero: they are sent at once.
    pub linger: Duration,
    /// Timeout of an attempt.
    pub timeout: Duration,
    /// Wait after the first failed attempt. It doubles with each further one, and is shortened at
    /// random by up to a half.
    pub backoff_min: Duration,
    /// Maximum wait. `Retry-After` may exceed it.
    pub backoff_max: Duration,
    /// Where records wait that a crash must not lose; `None`: in memory only.
    pub spill: Option<SpillSettings>,
}

/// The spill of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillSettings {
    /// Its folder, which no other destination and no other gateway uses.
    pub path: PathBuf,
    /// Maximum size in bytes.
    pub max_size: u64,
    /// Maximum age of a record; `None`: no limit.
    pub max_age: Option<Duration>,
    /// Which records are dropped when it is full.
    pub when_full: WhenFull,
}

/// Delivers records to a [`Destination`].
pub struct DeliverySink {
    shared: Arc<Shared>,
    /// The sender, and the spiller if there is a spill. Joined by `end`.
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of a destination share.
struct Shared {
    settings: DeliverySettings,
    counts: Arc<SinkCounts>,
    queue: Queue,
    /// `None` until it is open, and without one.
    spill: Mutex<Option<Spill>>,
    clock: SpillClock,
}

impl DeliverySink {
    /// Opens the spill and starts the threads. If another process uses the spill, as during an
    /// upgrade, records wait in memory until it is free.
    ///
    /// # Errors
    /// The spill cannot be used, or a thread cannot be started.
    pub fn start(
        destination: impl Destination,
        settings: DeliverySettings,
    ) -> Result<Self, OpenError> {
        let name = destination.name();
        let shared = Arc::new(Shared {
            queue: Queue::new(settings.queue.max(settings.batch), settings.spill.is_some()),
            counts: Arc::new(SinkCounts::with_delivery(name)),
            spill: Mutex::default(),
            clock: SpillClock::start(),
            settings,
        });
        let mut threads = Vec::new();
        if let Some(settings) = &shared.settings.spill {
            let worker = Spiller::new(shared.clone(), settings.clone());
            match worker.open() {
                Ok(()) => {}
                Err(error @ OpenError::InUse(_)) => {
                    tracing::warn!(sink = name, %error, "records wait in memory");
                    worker.note_failure(error.to_string());
                }
                Err(error) => return Err(error),
            }
            threads.push(spawn(format!("llm-lens-{name}-spill"), move || worker.work())?);
        }
        let worker = Sender::new(shared.clone(), destination);
        threads.push(spawn(format!("llm-lens-{name}"), move || worker.work())?);
        Ok(DeliverySink { shared, threads })
    }

    /// Queues records whose keys need not be consecutive, for a sink in front that selects some.
    pub fn push(&self, records: impl ExactSizeIterator<Item = NumberedRecord>) {
        self.shared.queue.push(records, &self.shared.counts);
    }

    fn end(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.shared.queue.end(LAST_ATTEMPTS);
        // A disk or a destination that hangs must not delay the end of the process. Its thread ends
        // with the process.
        let have_ended = self.shared.queue.wait_for_threads();
        self.threads.drain(..).filter(|_| have_ended).for_each(|thread| drop(thread.join()));
        self.shared.count_rest();
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let wrong = |source| OpenError::Io { folder: PathBuf::from(&name), source };
    std::thread::Builder::new().name(name.clone()).spawn(work).map_err(wrong)
}

impl Shared {
    /// Counts the records that the end of the process leaves in memory.
    fn count_rest(&self) {
        let lost = self.queue.close();
        if lost > 0 {
            tracing::error!(sink = self.counts.name, lost, "records lost at shutdown");
            self.counts.add_dropped(crate::sink_counts::DropReason::Shutdown, lost);
        }
    }
}

impl Sink for DeliverySink {
    fn name(&self) -> &'static str {
        self.shared.counts.name
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        self.deliver_numbered(&RecordKey::first(), batch)
    }

    fn deliver_numbered(
        &mut self,
        first: &RecordKey,
        batch: &[Arc<Record>],
    ) -> Result<(), SinkError> {
        self.push(batch.iter().enumerate().map(|(index, record)| NumberedRecord {
            key: first.plus(index as u64),
            record: record.clone(),
        }));
        Ok(())
    }

    fn stop(&mut self) {
        self.shared.queue.end(LAST_ATTEMPTS);
    }

    fn flush(&mut self) {
        self.end();
    }

    fn own_counts(&self) -> Option<Arc<SinkCounts>> {
        Some(self.shared.counts.clone())
    }
}

impl Drop for DeliverySink {
    fn drop(&mut self) {
        self.end();
    }
}

impl SpillSettings {
    fn limits(&self) -> Limits {
        let SpillSettings { max_size, max_age, when_full, .. } = *self;
        Limits { max_bytes: max_size, max_age, when_full }
    }
}

/// The time of a spill: the wall clock at the start and a monotonic clock from then on, so that a
/// step of the wall clock expires no record of a running gateway. It dates files only.
struct SpillClock {
    wall: Duration,
    start: std::time::Instant,
}

impl SpillClock {
    fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        SpillClock { wall: wall.unwrap_or_default(), start: std::time::Instant::now() }
    }

    /// Unix time in seconds.
    fn now(&self) -> u64 {
        (self.wall + self.start.elapsed()).as_secs()
    }
}

#[cfg(test)]
mod tests;
