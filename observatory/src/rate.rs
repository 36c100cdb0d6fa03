//! Requests and tokens per second, over the last minute.
//!
//! - *In*: a request that ended, with its tokens.
//! - *Out*: rates over the last minute, or over the time since the start if that is shorter.
//! - *Never*: growing memory: twelve slots of five seconds and the current one.

use std::time::Duration;

use lens::Tick;

/// Length of a slot, nanoseconds.
const SLOT: u64 = 5_000_000_000;
/// Slots of a minute, and the one that is being filled.
const SLOTS: usize = 13;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Number of the slot since the start of the clock.
    number: u64,
    requests: u64,
    tokens: u64,
}

/// Requests and tokens of the last minute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate([Slot; SLOTS]);

impl Rate {
    /// A request ended at `now`.
    pub(crate) fn add(&mut self, now: Tick, tokens: u64) {
        self.count(Slot { number: now.0 / SLOT, requests: 1, tokens });
    }

    /// Adds the counts of another worker.
    pub(crate) fn merge(&mut self, other: &Rate) {
        other.0.iter().filter(|slot| slot.requests > 0).for_each(|slot| self.count(*slot));
    }

    fn count(&mut self, more: Slot) {
        let Some(slot) = self.0.get_mut(more.number as usize % SLOTS) else { return };
        if slot.number < more.number {
            *slot = Slot { number: more.number, ..Slot::default() };
        }
        if slot.number == more.number {
            slot.requests += more.requests;
            slot.tokens += more.tokens;
        }
    }

    /// Requests and tokens per second; `up` is the uptime of the process.
    pub(crate) fn per_second(&self, now: Tick, up: Duration) -> (f64, f64) {
        let current = now.0 / SLOT;
        let first = current.saturating_sub(SLOTS as u64 - 1);
        let (mut requests, mut tokens) = (0, 0);
        for slot in self.0.iter().filter(|slot| (first..=current).contains(&slot.number)) {
            requests += slot.requests;
            tokens += slot.tokens;
        }
        // Twelve whole slots, and as much of the current one as has passed.
        let seconds = Duration::from_nanos((SLOTS as u64 - 1) * SLOT + now.0 % SLOT)
            .min(up)
            .as_secs_f64()
            .max(1.0);
        (requests as f64 / seconds, tokens as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rates_are_of_the_last_minute() {
        let (mut one, mut other) = (Rate::default(), Rate::default());
        let hour = Duration::from_secs(3600);
        for second in 0..600 {
            let worker = if second % 2 == 0 { &mut one } else { &mut other };
            (0..3).for_each(|_| worker.add(Tick(second * SECOND), 10));
        }
        one.merge(&other);
        let (requests, tokens) = one.per_second(Tick(600 * SECOND), hour);
        assert!(
            (requests - 3.0).abs() < 0.01 && (tokens - 30.0).abs() < 0.1,
            "{requests} {tokens}"
        );
        assert_eq!(
            one.per_second(Tick(700 * SECOND), hour),
            (0.0, 0.0),
            "nothing for longer than a minute"
        );
    }

    #[test]
    fn young_process_averages_over_its_uptime() {
        let mut rate = Rate::default();
        (0..20).for_each(|n| rate.add(Tick(n * SECOND / 2), 0));
        let (requests, _) = rate.per_second(Tick(10 * SECOND), Duration::from_secs(10));
        assert!((requests - 2.0).abs() < 0.01, "{requests}");
    }
}
