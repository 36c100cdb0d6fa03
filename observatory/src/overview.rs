//! What an operator wants to see of each route and backend at one look.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use lens::record::Outcome;
use lens::{Series, State, Timing};
use serde::Serialize;

use crate::group::{GroupId, Groups};

/// Percentiles of one timing, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimingOverview {
    /// Values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Percentiles, exact to three digits.
    pub p50_us: u64,
    /// 90th.
    pub p90_us: u64,
    /// 95th.
    pub p95_us: u64,
    /// 99th.
    pub p99_us: u64,
    /// 99.9th.
    #[serde(rename = "p99.9_us")]
    pub p999_us: u64,
}

/// A route with a backend and an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// The route.
    pub route: String,
    /// The backend.
    pub backend: String,
    /// The operation; empty for requests that are no inference.
    pub operation: &'static str,
    /// Requests that have not ended.
    pub in_flight: i64,
    /// Requests that ended.
    pub requests: u64,
    /// The same by outcome; those that did not occur are absent.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Events with generated text.
    pub content_events: u64,
    /// Generated tokens that engines stated.
    pub output_tokens: u64,
    /// Gaps over the route's threshold.
    pub stalls: u64,
    /// Timings that have values.
    pub timings: BTreeMap<&'static str, TimingOverview>,
    /// Share of all request time in each ledger state; they sum to 1.
    pub ledger_share: BTreeMap<&'static str, f64>,
}

pub(crate) fn of(series: &HashMap<(GroupId, u16, Outcome), Series>, groups: &Groups) -> Vec<Overview> {
    let mut all: Vec<_> = series.iter().collect();
    all.sort_by_key(|(key, _)| key.0);
    all.into_iter().map(|((id, ..), series)| one(*id, series, groups)).collect()
}

fn one(id: GroupId, series: &Series, groups: &Groups) -> Overview {
    let group = groups.group(id);
    let total: u64 = series.ledger_us.iter().sum();
    Overview {
        route: group.route.to_string(),
        backend: group.backend.to_string(),
        operation: group.operation,
        in_flight: groups.in_flight(id).requests.load(Ordering::Relaxed),
        requests: series.requests(),
        outcomes: Outcome::ALL.into_iter().map(|o| (o.name(), series.outcomes[o as usize])).filter(|(_, n)| *n > 0).collect(),
        content_events: series.content_events,
        output_tokens: series.output_tokens.as_ref().map_or(0, |h| h.sum()),
        stalls: series.stalls,
        timings: Timing::ALL.into_iter().filter_map(|t| Some((t.name(), timing(series.timing(t)?)?))).collect(),
        ledger_share: State::ALL
            .into_iter()
            .filter(|_| total > 0)
            .map(|s| (s.name(), series.ledger_us[s as usize] as f64 / total as f64))
            .collect(),
    }
}

fn timing(micros: &lens::series::Micros) -> Option<TimingOverview> {
    Some(TimingOverview {
        count: micros.count(),
        mean_us: micros.sum() as f64 / micros.count().max(1) as f64,
        p50_us: micros.percentile(50.0)?,
        p90_us: micros.percentile(90.0)?,
        p95_us: micros.percentile(95.0)?,
        p99_us: micros.percentile(99.0)?,
        p999_us: micros.percentile(99.9)?,
    })
}
