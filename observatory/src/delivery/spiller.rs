//! The thread that writes records to the spill.
//!
//! - *In*: records from the queue.
//! - *Out*: synced entries, for the sender.
//! - *Never*: an end because of the disk. If it fails, the sender takes the records from memory,
//!   and the spill is tried again every [`RETRY`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spill::{MAX_ENTRY, OpenError, Reason, Recovery, Spill};

use crate::record_key::NumberedRecord;
use crate::sink_counts::DropReason;

use super::{Shared, SpillSettings};

/// Minimum time between syncs, unless the queue is half full. A killed process loses the records
/// of this time.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Interval between attempts to use a spill that does not work, and of the check for old records.
const RETRY: Duration = Duration::from_secs(1);
/// Records taken at a time.
const MAX_RECORDS: usize = 1024;
/// Maximum bytes of a sync. A spill is at least eight times larger.
const MAX_SYNC_BYTES: u64 = 1 << 20;

/// Writes records.
pub(super) struct Spiller {
    shared: Arc<Shared>,
    settings: SpillSettings,
}

/// Tells the queue when the thread ends, also by a panic.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.queue.spiller_ended();
    }
}

impl Spiller {
    pub(super) fn new(shared: Arc<Shared>, settings: SpillSettings) -> Self {
        Spiller { shared, settings }
    }

    /// Opens the spill, if it is not open.
    pub(super) fn open(&self) -> Result<(), OpenError> {
        let mut slot = self.shared.lock_spill();
        if slot.is_some() {
            return Ok(());
        }
        let now = self.shared.clock.now();
        let (spill, recovery) = Spill::open(&self.settings.path, self.settings.limits(), now)?;
        self.log(&recovery);
        self.shared.counts.add_dropped(DropReason::Unsynced, recovery.lost);
        self.shared.count_spill(&spill);
        let waiting = spill.unacknowledged();
        self.shared.queue.install(spill.announcer(), waiting.end - waiting.start);
        *slot = Some(spill);
        Ok(())
    }

    pub(super) fn work(self) {
        let _ends = Ends(self.shared.clone());
        loop {
            let started = Instant::now();
            match self.open().map_err(|error| error.to_string()).and_then(|()| self.spill()) {
                Ok(0) if self.shared.queue.ends() => return self.close(),
                Ok(_) => {
                    self.shared.note_spill_works();
                    self.shared.queue.pace(started + SYNC_INTERVAL);
                }
                Err(error) => {
                    self.note_failure(error);
                    if self.shared.queue.ends() {
                        return;
                    }
                    self.shared.queue.back_off(RETRY, true);
                }
            }
        }
    }

    /// Notes that the spill does not work: the first time in the log, each time as a count.
    pub(super) fn note_failure(&self, error: String) {
        self.shared.note_spill_failure(error);
        self.shared.queue.bypass_spill();
    }

    /// Takes records and writes them; returns their number. What could not be written goes back.
    fn spill(&self) -> Result<usize, String> {
        let (records, bypassed) = self.shared.queue.take_for_spill(MAX_RECORDS, RETRY);
        let encoded: Vec<Option<Vec<u8>>> = records.iter().map(encode).collect();
        let result = self.write(&encoded, bypassed);
        let (written, error) = match result {
            Ok(()) => (records.len(), None),
            Err((written, error)) => (written, Some(error)),
        };
        let (all, mut records) = (records.len(), records);
        let rest = records.split_off(written);
        let entries = self.shared.spilled_entries();
        self.shared.queue.spilled(written, rest, entries, &self.shared.counts);
        error.map_or(Ok(all), Err)
    }

    /// Writes entries, in syncs of some size. The error has the number of those that are settled.
    fn write(&self, encoded: &[Option<Vec<u8>>], bypassed: u64) -> Result<(), (usize, String)> {
        let max = MAX_SYNC_BYTES.min(self.settings.max_size / 8) as usize;
        let mut settled = 0;
        let mut bypassed = bypassed;
        while settled < encoded.len() || bypassed > 0 {
            // Locked for one sync, so that the sender does not wait for all of them.
            let mut slot = self.shared.lock_spill();
            let Some(spill) = slot.as_mut() else { return Ok(()) };
            spill.skip(std::mem::take(&mut bypassed), Reason::Bypassed);
            let mut count = 0;
            let mut invalid = 0;
            for entry in encoded.get(settled..).unwrap_or_default() {
                if count > 0 && spill.unsynced_bytes() >= max {
                    break;
                }
                count += 1;
                let appended = entry.as_ref().is_some_and(|entry| spill.append(entry).is_ok());
                if !appended {
                    invalid += 1;
                    spill.skip(1, Reason::Skipped);
                }
            }
            if let Err(error) = spill.sync(self.shared.clock.now()) {
                spill.discard();
                return Err((settled, error.to_string()));
            }
            self.shared.counts.add_dropped(DropReason::Invalid, invalid);
            self.shared.count_spill(spill);
            settled += count;
        }
        if encoded.is_empty() {
            self.expire()?;
        }
        Ok(())
    }

    /// Writes a gap at the end of the spill.
    fn close(&self) {
        let mut slot = self.shared.lock_spill();
        let Some(spill) = slot.as_mut() else { return };
        if let Err(error) = spill.sync_gap(self.shared.clock.now()) {
            self.shared.note_spill_failure(error.to_string());
        }
        self.shared.count_spill(spill);
    }

    /// Removes what is too old, while there is nothing to write.
    fn expire(&self) -> Result<(), (usize, String)> {
        let mut slot = self.shared.lock_spill();
        let Some(spill) = slot.as_mut() else { return Ok(()) };
        spill.sync(self.shared.clock.now()).map_err(|error| (0, error.to_string()))?;
        self.shared.count_spill(spill);
        Ok(())
    }

    fn log(&self, recovery: &Recovery) {
        let Recovery { waiting, lost, torn_bytes, ledger_damaged } = *recovery;
        let (sink, folder) = (self.shared.counts.name, self.settings.path.display());
        if waiting > 0 {
            tracing::info!(sink, %folder, waiting, "spill has records of an earlier process");
        }
        if lost > 0 {
            tracing::warn!(sink, %folder, lost, torn_bytes, "spill: an earlier process ended before these records were on the disk");
        }
        if ledger_damaged {
            tracing::error!(sink, %folder, "spill: the ledger was damaged and is set aside, delivered records are sent again");
        }
    }
}

/// The entry of a record; `None` if it cannot be encoded or is too long.
fn encode(record: &NumberedRecord) -> Option<Vec<u8>> {
    record.encode().ok().filter(|entry| entry.len() <= MAX_ENTRY)
}

impl Shared {
    pub(super) fn lock_spill(&self) -> MutexGuard<'_, Option<Spill>> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spilled_entries(&self) -> u64 {
        self.lock_spill().as_ref().map_or(0, |spill| {
            let waiting = spill.unacknowledged();
            waiting.end - waiting.start
        })
    }

    /// Copies the counts of the spill.
    pub(super) fn count_spill(&self, spill: &Spill) {
        let Some(delivery) = self.counts.delivery() else { return };
        let (counts, waiting) = (spill.counts(), spill.unacknowledged());
        delivery.spilled.store(waiting.end - waiting.start, Ordering::Relaxed);
        delivery.spilled_bytes.store(spill.bytes(), Ordering::Relaxed);
        self.counts.set_dropped(DropReason::SpillFull, counts.full);
        self.counts.set_dropped(DropReason::Expired, counts.expired);
        self.counts.set_dropped(DropReason::Damaged, counts.damaged);
    }

    pub(super) fn note_spill_failure(&self, error: String) {
        let Some(delivery) = self.counts.delivery() else { return };
        delivery.spill_failures.fetch_add(1, Ordering::Relaxed);
        let before = delivery.set_spill_error(error.clone());
        if before.is_empty() {
            let sink = self.counts.name;
            tracing::error!(sink, error, "spill does not work, records wait in memory");
        }
    }

    pub(super) fn note_spill_works(&self) {
        let Some(delivery) = self.counts.delivery() else { return };
        if !delivery.set_spill_error(String::new()).is_empty() {
            tracing::info!(sink = self.counts.name, "spill works again");
        }
    }
}
