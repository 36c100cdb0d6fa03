//! The database as a destination of records.
//!
//! - *In*: batches of a [`DeliverySink`], on its thread.
//! - *Out*: stored records; old windows are dropped.
//! - *Never*: a failed start because the database is down: records wait, in the spill if there is
//!   one. A record that is given up because of an error that may pass.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use observatory::{
    DeliveryError, DeliverySettings, DeliverySink, Destination, NumberedRecord, SpillSettings,
};
use store::{ClockReadings, Counters, WallClock};

use crate::error::Error;
use crate::session::Database;
use crate::writer::Writer;

/// Maximum records in a batch, which is a transaction.
const BATCH: usize = 8192;
/// Maximum records in memory. A record takes about 2 KiB.
const QUEUE: usize = 32_768;
/// How long records wait for a full batch. A transaction writes each rollup of its minute, so fewer
/// ones write less.
const LINGER: Duration = Duration::from_millis(500);
/// Wait after the first failure, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Maximum time of a batch. A statement and a wait for a lock have shorter limits.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How a store is kept.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// How long records are kept. A window is dropped when its newest record is older.
    pub keep: Duration,
    /// Where records wait while the database is unavailable; `None`: in memory.
    pub spill: Option<SpillSettings>,
    /// Reads the wall clock.
    pub wall_us: WallClock,
}

/// Stores records.
pub(crate) struct ToPostgres {
    database: Database,
    keep: Duration,
    wall_us: WallClock,
    counters: Arc<Counters>,
    /// `None`: not connected.
    writer: Option<Writer>,
    /// When chores were done; `None`: not yet.
    looked_at: Option<Instant>,
    readings: ClockReadings,
}

/// Starts the sink that writes to a database, which need not be up.
///
/// # Errors
/// The spill cannot be used, or a thread cannot be started.
pub fn sink(
    database: Database,
    options: SinkOptions,
    counters: Arc<Counters>,
) -> io::Result<DeliverySink> {
    let destination = ToPostgres::new(database, &options, counters);
    let settings = DeliverySettings {
        batch: BATCH,
        queue: QUEUE,
        linger: LINGER,
        timeout: TIMEOUT,
        backoff_min: BACKOFF.0,
        backoff_max: BACKOFF.1,
        spill: options.spill,
    };
    DeliverySink::start(destination, settings).map_err(io::Error::other)
}

impl Destination for ToPostgres {
    fn name(&self) -> &'static str {
        "store"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], limit: Duration) -> Result<(), DeliveryError> {
        let result = self.store(batch, limit);
        self.look(limit);
        result
    }

    fn idle(&mut self) {
        self.look(TIMEOUT);
    }
}

impl ToPostgres {
    pub(crate) fn new(database: Database, options: &SinkOptions, counters: Arc<Counters>) -> Self {
        ToPostgres {
            database,
            keep: options.keep,
            wall_us: options.wall_us,
            counters,
            writer: None,
            looked_at: None,
            readings: ClockReadings::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    #[cfg(test)]
    pub(crate) fn set_writer(&mut self, writer: Writer) {
        self.writer = Some(writer);
    }

    fn store(&mut self, batch: &[NumberedRecord], limit: Duration) -> Result<(), DeliveryError> {
        match self.write(batch, limit) {
            Ok(()) => Ok(()),
            // Also if retention has dropped the window, which the next attempt creates again.
            Err(error) if error.is_refused_value() => match self.write(batch, limit) {
                Err(error) if error.is_refused_value() => self.write_parts(batch, limit),
                again => again.map_err(retryable),
            },
            Err(error) => Err(retryable(error)),
        }
    }

    /// Writes a batch, on a connection that exists or a new one.
    fn write(&mut self, batch: &[NumberedRecord], limit: Duration) -> Result<(), Error> {
        let writer = self.writer(limit)?;
        let written = writer.write(batch, limit);
        match &written {
            Ok(new) => self.counters.add_batch(*new, (batch.len() as u64).saturating_sub(*new)),
            Err(error) if error.is_refused_value() => {}
            Err(_) => self.writer = None,
        }
        written.map(drop)
    }

    /// Writes halves of a batch, and halves of these, after the database has refused a value:
    /// only its record is lost.
    fn write_parts(
        &mut self,
        batch: &[NumberedRecord],
        limit: Duration,
    ) -> Result<(), DeliveryError> {
        let (mut lost, mut why, mut parts) = (0, String::new(), vec![batch]);
        while let Some(part) = parts.pop() {
            match self.write(part, limit) {
                Ok(()) => {}
                Err(error) if error.is_refused_value() && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) if error.is_refused_value() => {
                    (lost, why) = (lost + 1, error.to_string());
                }
                // The next attempt finds the others stored.
                Err(error) => return Err(retryable(error)),
            }
        }
        if lost > 0 { Err(DeliveryError::Permanent { lost, why }) } else { Ok(()) }
    }

    fn writer(&mut self, limit: Duration) -> Result<&mut Writer, Error> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::connect(&self.database, self.keep, limit)?,
        };
        Ok(self.writer.insert(writer))
    }

    /// Drops old windows and measures the size, if the time has come.
    fn look(&mut self, limit: Duration) {
        let is_due = |at: Instant| at.elapsed() >= ClockReadings::INTERVAL;
        if !self.looked_at.is_none_or(is_due) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let now_us = self.readings.add((self.wall_us)());
        // A failed batch has no connection: the next one reports why.
        let Some(writer) = &mut self.writer else { return };
        let dropped = now_us.map_or(Ok(0), |now_us| writer.drop_old(now_us, limit));
        let done = dropped.and_then(|dropped| {
            self.counters.add_dropped_partitions(dropped);
            writer.bytes(limit)
        });
        match done {
            Ok(bytes) => self.counters.set_bytes(bytes),
            Err(error) => {
                tracing::warn!(%error, "record store: old records stay for half a minute more");
                self.writer = None;
            }
        }
    }
}

fn retryable(error: Error) -> DeliveryError {
    DeliveryError::Retryable { why: error.to_string(), after: None }
}
