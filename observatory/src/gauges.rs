//! Gauges of the process, and counts that belong to no request.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The gauges of a group.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Requests between their head and their record.
    pub requests: AtomicI64,
    /// Bytes taken from the backend that clients have not taken yet.
    pub ring_bytes: AtomicI64,
}

/// The gauges and counts of the process.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections of clients.
    pub connections: AtomicI64,
    /// Requests that were refused before they had a route, by nothing but their head.
    pub bad_heads: AtomicU64,
    /// Panics that ended a request.
    pub panics: AtomicU64,
    /// Changes of settings that took effect.
    pub reloads: AtomicU64,
    /// Changes of settings that were refused.
    pub reload_failures: AtomicU64,
}

impl Gauges {
    /// Count one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
