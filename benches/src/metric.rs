//! The figures of a run, and how the values of its rounds are combined.
//!
//! In: one value for each round.
//! Out: the median, or for tail latencies the lowest round, since noise on a shared machine can
//! only make a tail longer; and the rows of the report.
//! Never: an average; a round that is dropped silently.

use serde::Serialize;

/// One figure of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// User CPU of a small request, µs.
    SmallUser,
    /// Kernel CPU of a small request, µs.
    SmallKernel,
    /// User CPU of a request with a body of 16 KiB, µs.
    BodyUser,
    /// Kernel CPU of a request with a body of 16 KiB, µs.
    BodyKernel,
    /// User CPU of a paced event, µs.
    PacedUser,
    /// Kernel CPU of a paced event, µs.
    PacedKernel,
    /// Median age of a paced event when read, µs.
    PacedP50,
    /// 99th percentile of that age, µs.
    PacedP99,
    /// User CPU of a flooding event written alone, µs.
    FloodUser,
    /// Kernel CPU of a flooding event written alone, µs.
    FloodKernel,
    /// Flooding events a second, written alone.
    FloodRate,
    /// User CPU of a flooding event written with seven others, µs.
    BatchUser,
    /// Kernel CPU of a flooding event written with seven others, µs.
    BatchKernel,
    /// Flooding events a second, written eight at a time.
    BatchRate,
    /// Median time to the first content event, µs.
    TtftP50,
    /// 99th percentile of that time, µs.
    TtftP99,
    /// Median above that of `Direct`, µs.
    AddedP50,
    /// 99th percentile above that of `Direct`, µs.
    AddedP99,
    /// Resident memory after the start, MiB.
    RssIdle,
    /// Resident memory that one idle stream adds, KiB.
    RssStream,
    /// Resident memory five seconds after the idle streams ended, MiB.
    RssAfter,
}

impl Metric {
    /// Combines the values of the rounds into one figure.
    #[must_use]
    pub fn pick(self, rounds: &[f64]) -> Option<f64> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        match self {
            Self::PacedP99 | Self::TtftP99 => sorted.first().copied(),
            _ => median(&sorted),
        }
    }

    /// For a figure relative to `Direct`: the figure that it is computed from.
    #[must_use]
    pub fn above_direct(self) -> Option<Self> {
        match self {
            Self::AddedP50 => Some(Self::TtftP50),
            Self::AddedP99 => Some(Self::TtftP99),
            _ => None,
        }
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let high = sorted.get(sorted.len() / 2)?;
    let low = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*low, *high))
}

/// One row of the report.
pub struct Row {
    /// Its title.
    pub title: &'static str,
    /// Its figure, or the user part of it.
    pub metric: Metric,
    /// The kernel part, if the figure has two.
    pub kernel: Option<Metric>,
    /// Digits after the point.
    pub digits: usize,
}

const fn cpu(title: &'static str, metric: Metric, kernel: Metric) -> Row {
    Row { title, metric, kernel: Some(kernel), digits: 1 }
}

const fn one(title: &'static str, metric: Metric, digits: usize) -> Row {
    Row { title, metric, kernel: None, digits }
}

/// The rows of the report, in order.
pub const ROWS: [Row; 16] = [
    cpu("small request, CPU µs", Metric::SmallUser, Metric::SmallKernel),
    cpu("16 KiB request, CPU µs", Metric::BodyUser, Metric::BodyKernel),
    cpu("paced event, CPU µs", Metric::PacedUser, Metric::PacedKernel),
    one("paced event, one-way p50 µs", Metric::PacedP50, 0),
    one("paced event, one-way p99 µs", Metric::PacedP99, 0),
    cpu("flooding event, 1 a write, CPU µs", Metric::FloodUser, Metric::FloodKernel),
    one("flooding events a second, 1 a write", Metric::FloodRate, 0),
    cpu("flooding event, 8 a write, CPU µs", Metric::BatchUser, Metric::BatchKernel),
    one("flooding events a second, 8 a write", Metric::BatchRate, 0),
    one("TTFT p50 µs", Metric::TtftP50, 0),
    one("TTFT p99 µs", Metric::TtftP99, 0),
    one("added TTFT p50 µs", Metric::AddedP50, 0),
    one("added TTFT p99 µs", Metric::AddedP99, 0),
    one("RSS after the start, MiB", Metric::RssIdle, 1),
    one("RSS of an idle stream, KiB", Metric::RssStream, 1),
    one("RSS 5 s after the streams, MiB", Metric::RssAfter, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_one_figure() {
        assert_eq!(Metric::SmallUser.pick(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(Metric::SmallUser.pick(&[3.0, 1.0]), Some(2.0));
        assert_eq!(Metric::TtftP99.pick(&[3.0, 1.0, 2.0]), Some(1.0));
        assert_eq!(Metric::SmallUser.pick(&[]), None);
    }
}
