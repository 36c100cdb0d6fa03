//! The last records, for `/api/requests`.
//!
//! - *In*: records from the pump.
//! - *Out*: the newest ones.
//! - *Never*: more than the given number. A record that drops out of the list is counted as
//!   dropped, but it is not lost: the series have counted it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lens::Record;

use crate::sink::{Sink, SinkError};

#[derive(Debug)]
pub(crate) struct Recent {
    records: Mutex<VecDeque<Arc<Record>>>,
    keep: usize,
    dropped: AtomicU64,
}

impl Recent {
    pub(crate) fn new(keep: usize) -> Self {
        Recent { records: Mutex::default(), keep, dropped: AtomicU64::new(0) }
    }

    fn push(&self, record: Arc<Record>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let old = if records.len() >= self.keep { records.pop_front() } else { None };
        if self.keep > 0 {
            records.push_back(record);
        }
        drop(records);
        if old.is_some() || self.keep == 0 {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn newest(&self, limit: usize) -> Vec<Arc<Record>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().rev().take(limit).cloned().collect()
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
        batch.iter().for_each(|record| self.0.push(record.clone()));
        Ok(())
    }
}
