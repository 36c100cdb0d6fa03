//! The thread that calls the destination.
//!
//! - *In*: records from the spill or from the queue.
//! - *Out*: batches; acknowledgements for the spill.
//! - *Never*: an acknowledgement before the destination has accepted or refused the batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use spill::{Gap, Item, Reason};

use crate::record_key::NumberedRecord;
use crate::sink_counts::{Circuit, DropReason};

use super::backoff::Backoff;
use super::queue::Work;
use super::{DeliveryError, Destination, Shared};

/// Maximum bytes of a batch from the spill.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Wait after the spill could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// Calls the destination.
pub(super) struct Sender<D> {
    shared: Arc<Shared>,
    destination: D,
    backoff: Backoff,
    /// Whether it refused a part of the last batch.
    refuses: bool,
}

/// A batch from the spill.
struct Spilled {
    records: Vec<NumberedRecord>,
    gaps: Vec<Gap>,
    /// Entries that are no records.
    invalid: u64,
    /// Sequence number to acknowledge.
    end: u64,
}

/// Tells the queue when the thread ends, also by a panic.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.queue.sender_ended();
    }
}

impl<D: Destination> Sender<D> {
    pub(super) fn new(shared: Arc<Shared>, destination: D) -> Self {
        let settings = &shared.settings;
        let backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
        Sender { shared, destination, backoff, refuses: false }
    }

    pub(super) fn work(mut self) {
        let _ends = Ends(self.shared.clone());
        loop {
            let settings = &self.shared.settings;
            match self.shared.queue.next_work(settings.batch, settings.linger) {
                Work::End => return,
                Work::Idle => self.idle(),
                Work::Queued(records) => self.send_queued(records),
                Work::Spilled if self.send_spilled() => {}
                // The process ends, and the records are safe.
                Work::Spilled => return,
            }
        }
    }

    /// Lets the destination do its chores. A panic there must not end the thread.
    fn idle(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.destination.idle())).is_err() {
            tracing::error!(sink = self.shared.counts.name, "the sink panicked while it was idle");
        }
    }

    /// Sends records from memory. They go back to the queue if they must be sent again.
    fn send_queued(&mut self, records: Vec<NumberedRecord>) {
        let counts = &self.shared.counts.clone();
        match self.send(&records) {
            Ok(()) => self.shared.queue.sent(records.len(), Vec::new(), counts),
            Err(wait) => {
                self.shared.queue.sent(0, records, counts);
                self.shared.queue.back_off(wait, false);
            }
        }
    }

    /// Sends a batch from the spill. False if the process ends and it must wait for the next one.
    fn send_spilled(&mut self) -> bool {
        let batch = match self.read() {
            Ok(batch) => batch,
            Err(error) => {
                self.shared.note_spill_failure(error);
                return self.shared.queue.back_off(READ_RETRY, true);
            }
        };
        if !batch.records.is_empty()
            && let Err(wait) = self.send(&batch.records)
        {
            return self.shared.queue.back_off(wait, true);
        }
        self.acknowledge(&batch);
        true
    }

    /// Sends a batch once. The error is the wait before it is sent again.
    fn send(&mut self, records: &[NumberedRecord]) -> Result<(), Duration> {
        let counts = self.shared.counts.clone();
        let delivery = counts.delivery();
        delivery.into_iter().for_each(|counts| counts.set_circuit(self.backoff.trying()));
        let (all, timeout) = (records.len() as u64, self.shared.settings.timeout);
        let result = catch_unwind(AssertUnwindSafe(|| self.destination.deliver(records, timeout)));
        let panicked = || DeliveryError::Permanent { lost: all, why: "the sink panicked".into() };
        match result.unwrap_or_else(|_| Err(panicked())) {
            Ok(()) => {
                counts.add_delivered(all);
                self.note_success(String::new());
            }
            Err(DeliveryError::Permanent { lost, why }) => {
                let lost = lost.min(all);
                counts.add_delivered(all - lost);
                counts.add_dropped(DropReason::Rejected, lost);
                self.note_success(why);
            }
            Err(DeliveryError::Retryable { why, after }) => {
                return Err(self.note_failure(why, after));
            }
        }
        Ok(())
    }

    /// The destination answers. `why` names refused records.
    fn note_success(&mut self, why: String) {
        let (sink, counts) = (self.shared.counts.name, &self.shared.counts);
        if self.backoff.trying() != Circuit::Closed {
            tracing::info!(sink, "sink is available again");
        }
        self.backoff.succeeded();
        counts.delivery().into_iter().for_each(|counts| counts.set_circuit(Circuit::Closed));
        counts.set_last_error(why.clone());
        let refuses = !why.is_empty();
        if refuses && !self.refuses {
            tracing::error!(sink, error = why, "sink refused records; further ones are counted");
        }
        self.refuses = refuses;
    }

    fn note_failure(&mut self, why: String, after: Option<Duration>) -> Duration {
        let (sink, counts) = (self.shared.counts.name, &self.shared.counts);
        let before = self.backoff.waiting();
        let wait = self.backoff.failed(after, rand::random());
        if let Some(delivery) = counts.delivery() {
            delivery.set_circuit(self.backoff.waiting());
            delivery.retries.fetch_add(1, Ordering::Release);
        }
        if before == Circuit::Closed && self.backoff.waiting() == Circuit::Open {
            tracing::warn!(sink, error = why, "sink is unavailable, retrying");
        }
        counts.set_last_error(why);
        wait
    }

    /// Reads the oldest batch of the spill.
    fn read(&self) -> Result<Spilled, String> {
        let mut slot = self.shared.lock_spill();
        let Some(spill) = slot.as_mut() else { return Err("the spill is not open".into()) };
        let batch = spill.read(self.shared.settings.batch, MAX_BATCH_BYTES);
        drop(slot);
        let batch = batch.map_err(|error| error.to_string())?;
        let (mut records, mut gaps, mut invalid) = (Vec::new(), Vec::new(), 0);
        for item in batch.items {
            match item {
                Item::Gap(gap) => gaps.push(gap),
                Item::Entry { bytes, .. } => match NumberedRecord::decode(&bytes) {
                    Ok(record) => records.push(record),
                    Err(_) => invalid += 1,
                },
            }
        }
        Ok(Spilled { records, gaps, invalid, end: batch.end })
    }

    fn acknowledge(&self, batch: &Spilled) {
        let mut slot = self.shared.lock_spill();
        let Some(spill) = slot.as_mut() else { return };
        let acknowledged = spill.acknowledge(batch.end, self.shared.clock.now());
        self.shared.count_spill(spill);
        let waiting = spill.unacknowledged();
        self.shared.queue.acknowledged(waiting.end - waiting.start);
        drop(slot);
        self.shared.counts.add_dropped(DropReason::Invalid, batch.invalid);
        let sink = self.shared.counts.name;
        for Gap { first, last, reason } in batch.gaps.iter().copied() {
            if reason != Reason::Bypassed {
                tracing::warn!(sink, first, last, reason = reason.name(), "spill has a gap");
            }
        }
        // The records come again after a restart, with the same keys.
        acknowledged.unwrap_or_else(|error| self.shared.note_spill_failure(error.to_string()));
    }
}
