//! An instant, as a number.

/// Nanoseconds since an epoch that the caller chose (the start of its process). Monotonic by
/// contract of the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// An instant that many microseconds after the epoch.
    pub fn from_micros(us: u64) -> Self {
        Tick(us.saturating_mul(1000))
    }

    /// Nanoseconds from `earlier` to here; zero if it is later.
    pub fn nanos_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole microseconds from `earlier` to here; zero if it is later.
    pub fn micros_since(self, earlier: Tick) -> u64 {
        self.nanos_since(earlier) / 1000
    }
}
