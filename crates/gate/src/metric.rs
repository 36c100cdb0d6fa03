//! The metrics that a gate checks.

use std::fmt;
use std::str::FromStr;

/// A duration of a request, counted from when the request was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first event.
    Tpot,
    /// The whole request.
    Request,
}

/// What is taken of a timing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// The arithmetic mean.
    Mean,
    /// A percentile, above 0 and below 100.
    Percentile(f64),
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A statistic of a timing, in microseconds. Larger is worse.
    Time(Timing, Statistic),
    /// Requests that met the objectives: per second of a closed loop; of an open loop, whose rate
    /// is given, their share times the rate. Smaller is worse.
    Goodput,
    /// Share of requests that failed, 0 to 1. Larger is worse, and changes are differences.
    Failures,
}

impl Timing {
    const WORDS: [(&str, Timing); 3] =
        [("ttft", Timing::Ttft), ("tpot", Timing::Tpot), ("request", Timing::Request)];
}

/// The statistics by name.
const STATISTICS: [(&str, Statistic); 7] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::Percentile(50.0)),
    ("p75", Statistic::Percentile(75.0)),
    ("p90", Statistic::Percentile(90.0)),
    ("p95", Statistic::Percentile(95.0)),
    ("p99", Statistic::Percentile(99.0)),
    ("p99.9", Statistic::Percentile(99.9)),
];

impl Metric {
    /// Whether a larger value is worse.
    pub fn larger_is_worse(self) -> bool {
        !matches!(self, Metric::Goodput)
    }

    /// A value with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Metric::Time(..) => format!("{:.3} ms", value / 1000.0),
            Metric::Goodput => format!("{value:.3}/s"),
            Metric::Failures => format!("{:.2} %", value * 100.0),
        }
    }

    /// A change with its unit: relative, but for failures, whose share changes by points.
    pub(crate) fn show_change(self, change: f64) -> String {
        match self {
            Metric::Failures => format!("{:+.2} points", change * 100.0),
            _ => format!("{:+.2} %", change * 100.0),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Time(timing, statistic) => {
                let timing = Timing::WORDS.iter().find(|(_, known)| known == timing);
                let statistic = STATISTICS.iter().find(|(_, known)| known == statistic);
                let name = |found: Option<&'static str>| found.unwrap_or("unknown");
                let (timing, statistic) = (timing.map(|(n, _)| *n), statistic.map(|(n, _)| *n));
                write!(f, "{}.{}", name(timing), name(statistic))
            }
            Metric::Goodput => f.write_str("goodput"),
            Metric::Failures => f.write_str("failures"),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |name: &str| match name {
            "goodput" => Some(Metric::Goodput),
            "failures" => Some(Metric::Failures),
            _ => {
                let (timing, statistic) = name.split_once('.')?;
                let (_, timing) = Timing::WORDS.iter().find(|(word, _)| *word == timing)?;
                let (_, statistic) = STATISTICS.iter().find(|(word, _)| *word == statistic)?;
                Some(Metric::Time(*timing, *statistic))
            }
        };
        known(text.trim()).ok_or_else(|| {
            let statistics = STATISTICS.map(|(word, _)| word).join(", ");
            format!(
                "{text:?} is not a metric; known: goodput, failures, and ttft, tpot or request with \
                 one of {statistics}, for example ttft.p95"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed_and_others_are_errors() {
        for (timing, _) in Timing::WORDS {
            for (statistic, _) in STATISTICS {
                let name = format!("{timing}.{statistic}");
                assert_eq!(name.parse::<Metric>().unwrap().to_string(), name);
            }
        }
        for name in ["goodput", "failures"] {
            assert_eq!(name.parse::<Metric>().unwrap().to_string(), name);
        }
        for bad in ["", "ttft", "ttft.", "ttft.p42", "TTFT.p95", "itl.p95", "goodput.p50"] {
            let error = bad.parse::<Metric>().unwrap_err();
            assert!(error.contains("is not a metric") && error.contains("ttft.p95"), "{error}");
        }
    }
}
