//! The only place where time is read.
//!
//! Ticks count from the first call in this process. Durations come from ticks alone, so a step of
//! the wall clock changes no figure; wall-clock time only dates a record.

use std::sync::LazyLock;
#[cfg(not(debug_assertions))]
use std::time::Instant;
use std::time::{SystemTime, UNIX_EPOCH};

use lens::Tick;
// Tests pause tokio's clock, so builds with debug assertions use it. It is too slow for a release
// build, which reads the clock for each event.
#[cfg(debug_assertions)]
use tokio::time::Instant;

static EPOCH: LazyLock<Instant> = LazyLock::new(|| std::time::Instant::now().into());

/// The current monotonic time.
#[inline]
pub fn now() -> Tick {
    Tick(u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The current wall-clock time in Unix microseconds; zero before 1970.
pub fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
