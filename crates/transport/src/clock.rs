//! The only place where time is read.
//!
//! Ticks count from the first call in this process. Durations come from ticks alone, so a step of
//! the wall clock changes no figure; wall-clock time only dates a record.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use lens::Tick;

static EPOCH: LazyLock<u64> = LazyLock::new(monotonic_ns);

/// The current monotonic time.
#[inline]
pub fn now() -> Tick {
    let epoch = *EPOCH;
    Tick(monotonic_ns().saturating_sub(epoch))
}

/// Nanoseconds of the monotonic clock. Each event reads it: `Instant` takes twice as many
/// instructions.
#[cfg(not(debug_assertions))]
#[inline]
fn monotonic_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // It does not fail for this clock.
    let Ok(time) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
}

/// Nanoseconds since the first call. Tests pause tokio's clock, so builds with debug assertions use
/// it. It is too slow for a release build.
#[cfg(debug_assertions)]
fn monotonic_ns() -> u64 {
    use tokio::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(|| std::time::Instant::now().into());
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The current wall-clock time in Unix microseconds; zero before 1970.
pub fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
