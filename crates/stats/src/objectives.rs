//! Objectives of routes: which requests count, and which of them miss.
//!
//! - *In*: settings, finished records.
//! - *Out*: a [`Verdict`] for each record, exact to the microsecond.
//! - *Never*: a percentile. A 95th percentile of at most 1 s means that at most 5 % of the requests
//!   take longer than 1 s, which can be counted.
//!
//! Events and misses are those of `deploy/prometheus/rules.yaml`.

use std::sync::Arc;
use std::time::Duration;

use lens::Record;
use lens::record::Outcome;
use serde::{Serialize, Serializer};

/// A kind of objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slo {
    /// Requests that the service does not fail.
    Availability,
    /// Time from the request head to the first token written to the client.
    Ttft,
    /// Time per output token after the first.
    Tpot,
}

impl Slo {
    /// All kinds.
    pub const ALL: [Slo; 3] = [Slo::Availability, Slo::Ttft, Slo::Tpot];

    /// The name in answers and labels.
    pub fn name(self) -> &'static str {
        match self {
            Slo::Availability => "availability",
            Slo::Ttft => "ttft",
            Slo::Tpot => "tpot",
        }
    }
}

/// A share of requests that take at most a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// The percentile: 50, 90, 95 or 99.
    pub percentile: u8,
    /// Its maximum.
    #[serde(serialize_with = "seconds")]
    pub max: Duration,
}

/// The objectives of a route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Objectives {
    /// The route.
    pub route: Arc<str>,
    /// Time to the first token at the client.
    pub ttft: Option<Threshold>,
    /// Time per output token.
    pub tpot: Option<Threshold>,
    /// Percentage of requests that the service must not fail; above 0 and below 100.
    pub availability: Option<f64>,
    /// The time that an error budget is for.
    #[serde(serialize_with = "seconds")]
    pub window: Duration,
}

fn seconds<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(d.as_secs_f64())
}

impl Objectives {
    /// The share of good events that an objective requires, 0 to 1; `None`: the route has none.
    pub fn target(&self, slo: Slo) -> Option<f64> {
        match slo {
            // 99.9 becomes 0.999, and not the double above it.
            Slo::Availability => self.availability.map(|percent| (percent * 1e10).round() / 1e12),
            Slo::Ttft => self.ttft.map(|threshold| f64::from(threshold.percentile) / 100.0),
            Slo::Tpot => self.tpot.map(|threshold| f64::from(threshold.percentile) / 100.0),
        }
    }

    /// The maximum time of an objective; `None` for availability.
    pub fn max(&self, slo: Slo) -> Option<Duration> {
        match slo {
            Slo::Availability => None,
            Slo::Ttft => self.ttft.map(|threshold| threshold.max),
            Slo::Tpot => self.tpot.map(|threshold| threshold.max),
        }
    }

    /// Judge a record of the route.
    pub fn judge(&self, record: &Record) -> Verdict {
        let served = record.outcome == Outcome::Ok;
        let failed = record.is_service_failure();
        let exceeds = |threshold: Option<Threshold>, micros: Option<f64>| {
            Some(micros? > threshold?.max.as_secs_f64() * 1e6)
        };
        Verdict {
            served: (served || failed).then_some(served),
            misses: [
                self.availability.filter(|_| served || failed).map(|_| failed),
                exceeds(self.ttft, record.client_ttft_us.map(|micros| micros as f64)),
                exceeds(self.tpot, record.tpot_us),
            ],
        }
    }
}

/// What a record means for the objectives of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request was served; `None`: it is neither a success nor a failure of the
    /// service, or its route has no objectives.
    served: Option<bool>,
    /// Whether it misses each of [`Slo::ALL`]; `None`: it does not count for it.
    misses: [Option<bool>; Slo::ALL.len()],
}

impl Verdict {
    /// Whether the request counts for goodput.
    pub fn is_judged(&self) -> bool {
        self.served.is_some()
    }

    /// Whether it was served and missed no objective.
    pub fn is_good(&self) -> bool {
        self.served == Some(true) && !self.misses.contains(&Some(true))
    }

    /// Whether it misses an objective; `None`: it does not count for it.
    pub fn misses(&self, slo: Slo) -> Option<bool> {
        self.misses[slo as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    #[test]
    fn verdicts_follow_the_definitions_of_the_alert_rules() {
        let objectives = Objectives {
            route: "r".into(),
            ttft: Some(Threshold { percentile: 95, max: Duration::from_millis(100) }),
            tpot: Some(Threshold { percentile: 99, max: Duration::from_millis(10) }),
            availability: Some(99.9),
            window: Duration::from_secs(3600),
        };
        let judge = |outcome: &str, ttft: Option<u64>, tpot: Option<f64>| {
            let record = Record { client_ttft_us: ttft, tpot_us: tpot, ..record("r", outcome) };
            let verdict = objectives.judge(&record);
            (Slo::ALL.map(|slo| verdict.misses(slo)), verdict.is_judged(), verdict.is_good())
        };
        assert_eq!(objectives.target(Slo::Availability), Some(0.999));
        let all = (Some(100_000), Some(10_000.0));
        assert_eq!(judge("ok", all.0, all.1), ([Some(false); 3], true, true));
        let slow = judge("ok", Some(100_001), Some(10_000.1));
        assert_eq!(slow, ([Some(false), Some(true), Some(true)], true, false));
        assert_eq!(judge("ok", None, None), ([Some(false), None, None], true, true));
        assert_eq!(
            judge("upstream_failed", Some(1), None),
            ([Some(true), Some(false), None], true, false)
        );
        // A client that leaves is no event of availability; its first token counts.
        assert_eq!(
            judge("client_gone", Some(200_000), None),
            ([None, Some(true), None], false, false)
        );
    }
}
