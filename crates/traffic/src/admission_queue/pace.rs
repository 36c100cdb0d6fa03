//! The pace at which a queue moves.
//!
//! - *In*: requests that wait, and departures.
//! - *Out*: the expected wait behind a number of requests.
//! - *Never*: a pace from a time long past: it is unknown again once no request has waited for some
//!   seconds.

use std::time::Duration;

use lens::Tick;

/// Weight of a new departure gap in the mean.
const NEW: f64 = 0.1;
/// Nanoseconds without waiting requests after which the pace is unknown.
const FORGET: u64 = 2_000_000_000;

#[derive(Debug)]
pub(super) struct Pace {
    /// Mean nanoseconds between two departures while requests wait; 0: unknown.
    gap: f64,
    last_departure: Tick,
    /// When the queue last became non-empty.
    busy_since: Tick,
    /// When a request last waited.
    waited_at: Tick,
}

impl Pace {
    pub(super) fn new() -> Self {
        Pace { gap: 0.0, last_departure: Tick(0), busy_since: Tick(0), waited_at: Tick(0) }
    }

    /// A request arrives that cannot be admitted at once. `is_first`: no other request waits.
    pub(super) fn arrived(&mut self, now: Tick, is_first: bool) {
        if is_first {
            if now.nanos_since(self.waited_at) >= FORGET {
                self.gap = 0.0;
            }
            self.busy_since = now;
        }
        self.waited_at = self.waited_at.max(now);
    }

    /// An admitted request has left. Departures measure the pace only while requests wait.
    pub(super) fn departed(&mut self, now: Tick, is_waiting: bool) {
        if is_waiting {
            let gap = now.nanos_since(self.last_departure.max(self.busy_since)) as f64;
            self.gap = if self.gap == 0.0 { gap } else { self.gap + NEW * (gap - self.gap) };
            self.waited_at = self.waited_at.max(now);
        }
        self.last_departure = now;
    }

    /// Expected wait of a request with `ahead` requests before it.
    pub(super) fn wait(&self, ahead: u64, now: Tick) -> Duration {
        // The pace is unknown, or the request is next: accept it, so that it measures the pace.
        if self.gap == 0.0 || ahead == 0 {
            return Duration::ZERO;
        }
        // Without departures, the gap is at least the time since the last one.
        let silent = now.nanos_since(self.last_departure.max(self.busy_since)) as f64;
        let wait = (ahead as f64 * self.gap.max(silent)) + (self.gap - silent).max(0.0);
        Duration::from_nanos(wait as u64)
    }
}
