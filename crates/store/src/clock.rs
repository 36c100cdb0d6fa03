//! The age of records: readings of the wall clock over some minutes.
//!
//! - *In*: readings.
//! - *Out*: the least of them, against which records are old.
//! - *Never*: an age by one reading only.

use std::collections::VecDeque;
use std::time::Duration;

/// Reads the wall clock, in Unix microseconds.
pub type WallClock = fn() -> u64;

/// Readings that must agree that a partition is too old: those of ten minutes.
const READINGS: usize = 20;

/// The last readings of the wall clock. A clock that jumps into the future for some minutes must
/// not drop all records.
#[derive(Debug, Default)]
pub struct ClockReadings(VecDeque<u64>);

impl ClockReadings {
    /// Time between two readings.
    pub const INTERVAL: Duration = Duration::from_secs(30);

    /// Adds a reading. Returns the least one, once there are those of ten minutes.
    pub fn add(&mut self, now_us: u64) -> Option<u64> {
        self.0.push_back(now_us);
        if self.0.len() < READINGS {
            return None;
        }
        let least = self.0.iter().min().copied();
        self.0.pop_front();
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_that_jumps_for_some_minutes_makes_nothing_old() {
        let mut readings = ClockReadings::default();
        let first: Vec<Option<u64>> = (0..READINGS as u64).map(|at| readings.add(at)).collect();
        assert_eq!((first[READINGS - 2], first[READINGS - 1]), (None, Some(0)));
        assert_eq!(readings.add(1_000_000), Some(1));
        let after: Vec<Option<u64>> = (0..READINGS).map(|_| readings.add(1_000_001)).collect();
        assert_eq!((after[0], after[READINGS - 1]), (Some(2), Some(1_000_001)));
    }
}
