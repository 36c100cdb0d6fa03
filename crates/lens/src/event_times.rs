//! When the token events of one stream arrived and were written, for a time line.
//!
//! - *In*: one event at a time.
//! - *Out*: microseconds since a tick, of at most [`MAX_TIMES`] events on each side.
//! - *Never*: more memory for a longer stream. When a list is full, every other time is dropped,
//!   and later every other event is left out.

use serde::Serialize;

use crate::Tick;

/// Maximum times on each side.
pub const MAX_TIMES: usize = 256;

/// Times of events on one side, arrival or write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// The first one.
    base: Tick,
    /// Microseconds since `base`, of every `1 << halved`th event.
    micros: Vec<u32>,
    halved: u32,
    events: u64,
}

impl Times {
    /// An event at `now`.
    #[inline]
    pub fn add(&mut self, now: Tick) {
        if self.events & ((1 << self.halved) - 1) == 0 {
            self.keep(now);
        }
        self.events += 1;
    }

    fn keep(&mut self, now: Tick) {
        if self.micros.is_empty() {
            self.base = now;
        }
        if self.micros.len() == MAX_TIMES {
            let mut at = 0;
            self.micros.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.halved += 1;
        }
        self.micros.push(u32::try_from(now.micros_since(self.base)).unwrap_or(u32::MAX));
    }

    fn since(&self, start: Tick) -> EventTimes {
        let base = self.base.micros_since(start);
        EventTimes {
            events: self.events,
            every: 1 << self.halved,
            at_us: self.micros.iter().map(|us| base + u64::from(*us)).collect(),
        }
    }
}

/// Times of the token events of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventTimes {
    /// Number of events.
    pub events: u64,
    /// Which events have a time: each one at 1, every other one at 2.
    pub every: u64,
    /// The times, in microseconds since the head of the request.
    pub at_us: Vec<u64>,
}

/// Times of the token events of a stream on both sides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamTimes {
    /// When they were read from upstream.
    pub arrival: Times,
    /// When the client's socket accepted the last of their bytes.
    pub written: Times,
    /// The head of the request.
    pub start: Tick,
}

impl StreamTimes {
    /// Arrival and write.
    pub fn both(&self) -> [EventTimes; 2] {
        [&self.arrival, &self.written].map(|side| side.since(self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_streams_keep_every_second_or_fourth_event() {
        for (events, every, kept) in
            [(0, 1, 0), (1, 1, 1), (256, 1, 256), (257, 2, 129), (2000, 8, 250)]
        {
            let mut times = Times::default();
            for event in 0..events {
                times.add(Tick(1_000_000 + event * 10_000));
            }
            let shown = times.since(Tick(0));
            assert_eq!((shown.events, shown.every, shown.at_us.len()), (events, every, kept));
            let expected: Vec<u64> =
                (0..events).step_by(every as usize).map(|event| 1000 + event * 10).collect();
            assert_eq!(shown.at_us, expected);
        }
    }
}
