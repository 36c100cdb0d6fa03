//! The last records, for `/api/requests` and `/api/live`.
//!
//! - *In*: records from the pump, with their numbers.
//! - *Out*: the newest ones; those after a number, for watchers that each keep their own place.
//! - *Never*: more than the given number. A record that drops out of the list is counted as
//!   dropped, but it is not lost: the series have counted it. A watcher never delays the pump: what
//!   it has not read in time is missing for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lens::Record;

use crate::record_key::RecordKey;
use crate::sink::{Sink, SinkError};

/// A record with its number.
#[derive(Debug)]
pub struct RecentRecord {
    /// The number of the record in this process: the sequence of its [`RecordKey`].
    pub sequence: u64,
    /// The record.
    pub record: Arc<Record>,
    json: OnceLock<Box<str>>,
}

impl RecentRecord {
    /// The record as JSON. It is written at the first call only.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let text = serde_json::to_string(&self.record);
            text.expect("invariant: the fields of a record can be JSON").into_boxed_str()
        })
    }
}

/// Records after a place in the list.
#[derive(Debug)]
pub struct Since {
    /// Records that dropped out of the list before they were read.
    pub lost: u64,
    /// The records, oldest first.
    pub records: Vec<Arc<RecentRecord>>,
    /// The place after them.
    pub next: u64,
}

/// The last records.
#[derive(Debug)]
pub struct Recent {
    list: Mutex<List>,
    keep: usize,
    dropped: AtomicU64,
    epoch: u64,
}

#[derive(Debug, Default)]
struct List {
    records: VecDeque<Arc<RecentRecord>>,
    /// The number of the next record.
    next: u64,
}

impl Recent {
    /// A list of at most `keep` records.
    pub fn new(keep: usize) -> Self {
        let epoch = RecordKey::first().epoch;
        Recent { list: Mutex::default(), keep, dropped: AtomicU64::new(0), epoch }
    }

    /// Add a batch; `first` is the number of its first record.
    pub fn push(&self, first: u64, batch: &[Arc<Record>]) {
        let mut dropped = 0;
        let mut list = self.list();
        for (sequence, record) in (first..).zip(batch) {
            list.next = sequence + 1;
            let record = record.clone();
            list.records.push_back(Arc::new(RecentRecord {
                sequence,
                record,
                json: OnceLock::new(),
            }));
            if list.records.len() > self.keep {
                list.records.pop_front();
                dropped += 1;
            }
        }
        drop(list);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    pub(crate) fn newest(&self, limit: usize) -> Vec<Arc<Record>> {
        let list = self.list();
        list.records.iter().rev().take(limit).map(|recent| recent.record.clone()).collect()
    }

    /// The start of the process, as in the keys of its records. Numbers of another start are not
    /// numbers of this list.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the next record.
    pub fn next(&self) -> u64 {
        self.list().next
    }

    /// The records from the number `next` on.
    pub fn since(&self, next: u64) -> Since {
        let list = self.list();
        let first = list.records.front().map_or(list.next, |oldest| oldest.sequence);
        // Numbers have no gaps: the list gets every record of the pump.
        let at = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
        let records = list.records.range(at.min(list.records.len())..).cloned().collect();
        let lost = first.saturating_sub(next);
        Since { lost, records, next: list.next.max(next) }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maximum number of records.
    pub(crate) fn keep(&self) -> usize {
        self.keep
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Appends delivered records to the list.
pub(crate) struct RecentSink(pub(crate) Arc<Recent>);

impl Sink for RecentSink {
    fn name(&self) -> &'static str {
        "recent"
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        self.0.push(self.0.next(), batch);
        Ok(())
    }

    fn deliver_numbered(
        &mut self,
        first: &RecordKey,
        batch: &[Arc<Record>],
    ) -> Result<(), SinkError> {
        self.0.push(first.sequence, batch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    fn batch(count: usize) -> Vec<Arc<Record>> {
        (0..count).map(|_| Arc::new(record("m", "ok"))).collect()
    }

    #[test]
    fn a_reader_continues_at_its_place_and_learns_what_it_missed() {
        let recent = Recent::new(3);
        let read = |next| {
            let since = recent.since(next);
            let sequences: Vec<u64> = since.records.iter().map(|one| one.sequence).collect();
            (since.lost, sequences, since.next)
        };
        assert_eq!(read(0), (0, vec![], 0));
        recent.push(0, &batch(2));
        assert_eq!(read(0), (0, vec![0, 1], 2));
        assert_eq!(read(2), (0, vec![], 2));
        recent.push(2, &batch(4));
        assert_eq!(read(2), (1, vec![3, 4, 5], 6));
        assert_eq!(read(4), (0, vec![4, 5], 6));
        assert_eq!((recent.next(), recent.dropped()), (6, 3));
    }

    #[test]
    fn without_a_list_every_record_is_missing() {
        let recent = Recent::new(0);
        recent.push(0, &batch(5));
        let since = recent.since(0);
        assert_eq!((since.lost, since.records.len(), since.next), (5, 0, 5));
        assert_eq!(recent.dropped(), 5);
    }

    #[test]
    fn the_json_is_that_of_the_record() {
        let recent = Recent::new(1);
        recent.push(7, &batch(1));
        let one = &recent.since(7).records[0];
        let read: Record = serde_json::from_str(one.json()).expect("a record");
        assert_eq!(read, *one.record);
        assert!(std::ptr::eq(one.json(), one.json()));
    }
}
