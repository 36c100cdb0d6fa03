//! The sink that counts records in the statistics of `/api/stats`.
//!
//! - *In*: batches of records.
//! - *Out*: counts in [`Statistics`], at the monotonic time at which the batch arrives.
//! - *Never*: a failure.

use std::sync::Arc;

use lens::{Record, Tick};
use stats::Statistics;

use crate::sink::{Sink, SinkError};

/// Counts delivered records.
pub struct StatisticsSink {
    statistics: Arc<Statistics>,
    now: fn() -> Tick,
}

impl StatisticsSink {
    /// A sink that counts in `statistics`, with the clock `now`.
    pub fn new(statistics: Arc<Statistics>, now: fn() -> Tick) -> Self {
        StatisticsSink { statistics, now }
    }
}

impl Sink for StatisticsSink {
    fn name(&self) -> &'static str {
        "statistics"
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        self.statistics.add((self.now)(), batch);
        Ok(())
    }
}
