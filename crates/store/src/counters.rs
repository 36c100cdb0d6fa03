//! Counts of what the writer did and of what went wrong, and the size of the folder.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of a store since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) stored: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) dropped_partitions: AtomicU64,
    pub(crate) damaged_partitions: AtomicU64,
    pub(crate) newer_partitions: AtomicU64,
    bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    /// Counts records of a batch: those that were new, and those that the store had.
    pub fn add_batch(&self, stored: u64, repeated: u64) {
        add(&self.stored, stored);
        add(&self.repeated, repeated);
    }

    /// Counts partitions dropped by retention.
    pub fn add_dropped_partitions(&self, dropped: u64) {
        add(&self.dropped_partitions, dropped);
    }

    /// Records stored.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Records that the store had already, and that were skipped.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Partitions dropped by retention.
    pub fn dropped_partitions(&self) -> u64 {
        self.dropped_partitions.load(Ordering::Relaxed)
    }

    /// Damaged partitions that were set aside.
    pub fn damaged_partitions(&self) -> u64 {
        self.damaged_partitions.load(Ordering::Relaxed)
    }

    /// Bytes of the files, as last measured: at most 30 seconds ago.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sets the bytes of the store.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Partitions of a newer version, which are neither read nor written.
    pub fn newer_partitions(&self) -> u64 {
        self.newer_partitions.load(Ordering::Relaxed)
    }
}
