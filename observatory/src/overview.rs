//! The overview of each route and backend, for `/api/routes`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lens::record::Outcome;
use lens::{Series, State, Timing};
use serde::Serialize;

use crate::group::{Group, GroupId, Groups};

/// Percentiles of one timing, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimingOverview {
    /// Number of values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// 50th percentile. Percentiles are exact to 1.1 %.
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

/// Figures of a route with a backend and an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// The route.
    pub route: String,
    /// The backend.
    pub backend: String,
    /// The operation; empty for requests other than inference.
    pub operation: &'static str,
    /// Requests that have not ended.
    pub in_flight: i64,
    /// Requests that ended.
    pub requests: u64,
    /// Finished requests per second over the last minute.
    pub requests_per_s: f64,
    /// Generated tokens reported by engines, per second over the last minute.
    pub output_tokens_per_s: f64,
    /// Requests by outcome; those that did not occur are absent.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Events with generated text.
    pub content_events: u64,
    /// Generated tokens reported by engines.
    pub output_tokens: u64,
    /// Gaps over the stall threshold of the route.
    pub stalls: u64,
    /// Timings that have values.
    pub timings: BTreeMap<&'static str, TimingOverview>,
    /// Share of all request time in each ledger state; they sum to 1.
    pub ledger_share: BTreeMap<&'static str, f64>,
}

/// One overview per route, backend and operation: groups that a reload has split are merged.
pub(crate) fn overviews(
    series: &HashMap<(GroupId, u16, Outcome), Series>,
    groups: &Groups,
    per_second: impl Fn(GroupId) -> (f64, f64),
) -> Vec<Overview> {
    let mut merged: BTreeMap<Key, (Series, (f64, f64))> = BTreeMap::new();
    for ((id, ..), one) in series {
        let Some(group) = groups.group(*id) else { continue };
        let (series, rates) = merged.entry(key(&group)).or_default();
        series.merge(one);
        let (requests, tokens) = per_second(*id);
        *rates = (rates.0 + requests, rates.1 + tokens);
    }
    let now = groups.all();
    let in_flight = |of: &Key| {
        now.iter()
            .filter(|(g, _)| key(g) == *of)
            .map(|(_, now)| now.requests.load(Ordering::Relaxed))
            .sum()
    };
    merged.iter().map(|(key, (series, rates))| one(key, series, in_flight(key), *rates)).collect()
}

pub(crate) type Key = (Arc<str>, Arc<str>, &'static str);

pub(crate) fn key(group: &Group) -> Key {
    (group.route.clone(), group.backend.clone(), group.operation)
}

fn one(
    (route, backend, operation): &Key,
    series: &Series,
    in_flight: i64,
    (requests_per_s, output_tokens_per_s): (f64, f64),
) -> Overview {
    let total: u64 = series.ledger_us.iter().sum();
    let output_tokens = series.output_tokens.as_ref().map_or(0, |h| h.sum());
    Overview {
        route: route.to_string(),
        backend: backend.to_string(),
        operation,
        in_flight,
        requests: series.requests(),
        requests_per_s,
        output_tokens_per_s,
        outcomes: Outcome::ALL
            .into_iter()
            .map(|o| (o.name(), series.outcomes[o as usize]))
            .filter(|(_, n)| *n > 0)
            .collect(),
        content_events: series.content_events,
        output_tokens,
        stalls: series.stalls,
        timings: Timing::ALL
            .into_iter()
            .filter_map(|t| Some((t.name(), timing(series.timing(t)?)?)))
            .collect(),
        ledger_share: State::ALL
            .into_iter()
            .filter(|_| total > 0)
            .map(|s| (s.name(), series.ledger_us[s as usize] as f64 / total as f64))
            .collect(),
    }
}

pub(crate) fn timing(micros: &lens::TimeHistogram) -> Option<TimingOverview> {
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
