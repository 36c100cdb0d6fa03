//! An instant, as a number.

/// Nanoseconds since an epoch that the caller chooses (process start). The caller guarantees that
/// it is monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// The instant `us` microseconds after the epoch.
    pub fn from_micros(us: u64) -> Self {
        Tick(us.saturating_mul(1000))
    }

    /// Nanoseconds since `earlier`; zero if `earlier` is later.
    pub fn nanos_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole microseconds since `earlier`; zero if `earlier` is later.
    pub fn micros_since(self, earlier: Tick) -> u64 {
        self.nanos_since(earlier) / 1000
    }
}
