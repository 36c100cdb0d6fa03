//! Gaps between token events of one stream, batched for the shared histograms.
//!
//! - *In*: one gap at a time, in microseconds.
//! - *Out*: the request's own summary, and batches of exact values for the series of its route.
//! - *Never*: a lock or an allocation per event. A batch is flushed when it is full and at the end.

use std::borrow::Cow;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sketch::Sketch;

/// Gaps per batch. At 64 the lock of a shard costs less than a nanosecond per gap.
const BATCH: usize = 64;

/// The gaps of one stream on one side, arrival or write.
#[derive(Debug, Default)]
pub struct Gaps {
    batch: Vec<u32>,
    sketch: Sketch,
}

impl Gaps {
    /// Record a gap. The batch caps gaps at 71 minutes.
    #[inline]
    pub fn add(&mut self, micros: u64) {
        self.batch.push(u32::try_from(micros).unwrap_or(u32::MAX));
        self.sketch.add(micros);
    }

    /// Whether the batch is full and must be drained.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    /// Take the gaps recorded since the last call.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.batch.drain(..).map(u64::from)
    }

    /// Take the distribution, for the record; `None` when there was no gap.
    pub fn take_sketch(&mut self) -> Option<GapSketch> {
        let sketch = std::mem::take(&mut self.sketch);
        (sketch.count() > 0).then_some(GapSketch(sketch))
    }

    /// The summary for the record; `None` when there was no gap.
    pub fn summary(&self) -> Option<GapSummary> {
        Some(GapSummary {
            count: self.sketch.count(),
            mean: self.sketch.mean()?,
            p50: self.sketch.quantile(0.5)?,
            p90: self.sketch.quantile(0.9)?,
            p99: self.sketch.quantile(0.99)?,
            max: self.sketch.max(),
        })
    }
}

/// The distribution of the gaps of one stream, which percentiles over several streams need. It is
/// text in records: see [`Sketch::to_text`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GapSketch(pub Sketch);

impl Serialize for GapSketch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_text())
    }
}

impl<'de> Deserialize<'de> for GapSketch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Sketch::from_text(&text).map(GapSketch).ok_or_else(|| Error::custom("not a sketch of gaps"))
    }
}

/// Summary of gaps in microseconds. Quantiles are within 1.6 %; count, mean and maximum are exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapSummary {
    /// Number of gaps: one less than the token events.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Longest.
    pub max: u64,
}
