//! Gauges of the process, and counters without a route.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The gauges of a group.
#[derive(Debug, Default)]
pub struct GroupGauges {
    /// Requests in flight: from their head to their record.
    pub requests: AtomicI64,
    /// Bytes read from the backend and not yet written to clients.
    pub ring_bytes: AtomicI64,
}

/// The gauges and counts of the process.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections of clients.
    pub connections: AtomicI64,
    /// Requests refused before routing because their head is invalid.
    pub bad_heads: AtomicU64,
    /// Panics that ended a request.
    pub panics: AtomicU64,
    /// Reloads of the settings that took effect.
    pub reloads: AtomicU64,
    /// Reloads of the settings that were refused.
    pub reload_failures: AtomicU64,
    /// When the settings in force became stale, in Unix microseconds; 0 if they are current.
    settings_stale_since: AtomicU64,
    /// The same for the certificates of listeners.
    certificates_stale_since: AtomicU64,
    /// Lines of the usage file that were skipped because they are damaged.
    pub usage_lines_damaged: AtomicU64,
    /// Attempts to append to the usage file that failed.
    pub usage_write_failures: AtomicU64,
}

/// Log lines that were lost because the log's queue or its output was not available. The log
/// belongs to the process, and not to an observatory.
pub static DROPPED_LOG_LINES: AtomicU64 = AtomicU64::new(0);

impl Gauges {
    /// Increments a counter.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The settings in force are not those of the files: a file is missing or was refused.
    /// `wall_us` is now, in Unix microseconds. Returns whether they were current before.
    pub fn settings_are_stale(&self, wall_us: u64) -> bool {
        let since = &self.settings_stale_since;
        since.compare_exchange(0, wall_us, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The settings in force are those of the files.
    pub fn settings_are_current(&self) {
        self.settings_stale_since.store(0, Ordering::Relaxed);
    }

    /// Whether the certificates in force are those of their files. `wall_us` is now, in Unix
    /// microseconds.
    pub fn set_certificates(&self, are_current: bool, wall_us: u64) {
        let since = &self.certificates_stale_since;
        match are_current {
            true => since.store(0, Ordering::Relaxed),
            false => {
                let _ = since.compare_exchange(0, wall_us, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// When the settings or certificates in force became stale, in Unix microseconds; 0 if all are
    /// current.
    pub fn settings_stale_since(&self) -> u64 {
        let both = [&self.settings_stale_since, &self.certificates_stale_since];
        let since = both.map(|since| since.load(Ordering::Relaxed));
        since.into_iter().filter(|since| *since > 0).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_stale_while_any_file_is() {
        let gauges = Gauges::default();
        gauges.set_certificates(false, 7);
        gauges.set_certificates(false, 8);
        assert_eq!(gauges.settings_stale_since(), 7);
        assert!(gauges.settings_are_stale(9));
        assert_eq!(gauges.settings_stale_since(), 7);
        gauges.set_certificates(true, 10);
        assert_eq!(gauges.settings_stale_since(), 9);
        gauges.settings_are_current();
        assert_eq!(gauges.settings_stale_since(), 0);
    }
}
