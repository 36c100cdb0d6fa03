//! Counts of uploads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts of an uploader.
#[derive(Debug, Default)]
pub struct UploadCounters {
    pub(super) stored: AtomicU64,
    pub(super) stored_before: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) removed: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) waiting_bytes: AtomicU64,
    /// Why uploads fail; empty if they do not.
    problem: Mutex<String>,
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl UploadCounters {
    /// Objects that were created.
    pub fn stored(&self) -> u64 {
        read(&self.stored)
    }

    /// Files whose object an earlier attempt had created.
    pub fn stored_before(&self) -> u64 {
        read(&self.stored_before)
    }

    /// Bytes of created objects.
    pub fn bytes(&self) -> u64 {
        read(&self.bytes)
    }

    /// Failed attempts.
    pub fn failures(&self) -> u64 {
        read(&self.failures)
    }

    /// Files that were removed before they were uploaded, because too many waited.
    pub fn dropped(&self) -> u64 {
        read(&self.dropped)
    }

    /// Uploaded files that were removed because of their age.
    pub fn removed(&self) -> u64 {
        read(&self.removed)
    }

    /// Files that wait.
    pub fn waiting(&self) -> u64 {
        read(&self.waiting)
    }

    /// Their bytes.
    pub fn waiting_bytes(&self) -> u64 {
        read(&self.waiting_bytes)
    }

    /// Why uploads fail; `None` if they do not.
    pub fn problem(&self) -> Option<String> {
        Some(self.lock().clone()).filter(|why| !why.is_empty())
    }

    /// Sets the problem; returns the one before.
    pub(super) fn set_problem(&self, why: String) -> String {
        std::mem::replace(&mut *self.lock(), why)
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub(super) fn set(counter: &AtomicU64, count: u64) {
    counter.store(count, Ordering::Relaxed);
}
