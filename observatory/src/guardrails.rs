//! Cost of guardrails for each route: by filter and percentile.

use std::collections::{BTreeMap, HashMap};

use lens::record::Outcome;
use lens::{FilterSeries, Series, Timing};
use serde::Serialize;

use crate::group::{GroupId, Groups};
use crate::overview::{Key, TimingOverview, key, timing};

/// Guardrail cost of a route with a backend and an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardrailOverview {
    /// The route.
    pub route: String,
    /// The backend.
    pub backend: String,
    /// The operation.
    pub operation: &'static str,
    /// Requests checked by the guardrail.
    pub requests: u64,
    /// Requests blocked by the guardrail.
    pub blocked: u64,
    /// Guardrail time of a request, by phase; `guardrail` is the total. `first_event_delay`,
    /// `added_ttft` and `last_event_delay` are how much later an event was sent.
    pub overhead: BTreeMap<&'static str, TimingOverview>,
    /// The client's TTFT, for comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ttft: Option<TimingOverview>,
    /// How much later answers ended because of the guardrail, as a share of the time of all
    /// requests, 0 to 100.
    pub security_impact_percent: f64,
    /// Filters, by total time, longest first.
    pub filters: Vec<FilterOverview>,
    /// Findings in prompts, by rule.
    pub found_in: BTreeMap<String, u64>,
    /// Findings in answers, by rule.
    pub found_out: BTreeMap<String, u64>,
}

/// One filter on one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterOverview {
    /// Its name.
    pub filter: String,
    /// `input` or `output`.
    pub side: String,
    /// Requests in which it ran.
    pub requests: u64,
    /// Calls.
    pub calls: u64,
    /// Share of its requests in which it finished last in its stage, 0 to 1.
    pub critical_share: f64,
    /// Requests by verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Requests by failure.
    pub failures: BTreeMap<String, u64>,
    /// Time by part: `cpu`, `queue`, `remote`, and `wall`, which includes the others.
    pub parts: BTreeMap<&'static str, TimingOverview>,
}

/// Routes with a guardrail; only `route`, if given.
pub(crate) fn overviews(
    series: &HashMap<(GroupId, u16, Outcome), Series>,
    groups: &Groups,
    route: Option<&str>,
) -> Vec<GuardrailOverview> {
    let mut merged: BTreeMap<Key, Series> = BTreeMap::new();
    for ((id, ..), one) in series {
        let Some(group) = groups.group(*id) else { continue };
        if route.is_none_or(|route| *group.route == *route) {
            merged.entry(key(&group)).or_default().merge(one);
        }
    }
    merged
        .iter()
        .filter(|(_, series)| series.timing(Timing::Guardrail).is_some())
        .map(one)
        .collect()
}

fn one(((route, backend, operation), series): (&Key, &Series)) -> GuardrailOverview {
    let timing = |which: Timing| series.timing(which).and_then(timing);
    let phases = [
        Timing::Validation,
        Timing::ThreatDetection,
        Timing::OutputFiltering,
        Timing::Hold,
        Timing::Guardrail,
        Timing::FirstEventDelay,
        Timing::AddedTtft,
        Timing::LastEventDelay,
    ];
    let sum = |which: Timing| series.timing(which).map_or(0, |micros| micros.sum());
    let mut filters: Vec<_> = series.filters.iter().collect();
    filters.sort_by_key(|(_, filter)| std::cmp::Reverse(wall(filter)));
    let names = |found: &lens::guardrail::Findings| {
        found.iter().map(|(rule, count)| (rule.to_string(), *count)).collect()
    };
    GuardrailOverview {
        route: route.to_string(),
        backend: backend.to_string(),
        operation,
        requests: series.timing(Timing::Guardrail).map_or(0, |micros| micros.count()),
        blocked: series.outcomes.get(Outcome::Blocked as usize).copied().unwrap_or(0),
        overhead: phases
            .into_iter()
            .filter_map(|phase| Some((phase.name(), timing(phase)?)))
            .collect(),
        client_ttft: timing(Timing::ClientTtft),
        security_impact_percent: sum(Timing::LastEventDelay) as f64 * 100.0
            / sum(Timing::Total).max(1) as f64,
        filters: filters
            .into_iter()
            .map(|((filter, side), series)| one_filter((filter, side), series))
            .collect(),
        found_in: names(&series.found_in),
        found_out: names(&series.found_out),
    }
}

fn wall(filter: &FilterSeries) -> u64 {
    filter.parts.last().map_or(0, |micros| micros.sum())
}

fn one_filter((filter, side): (&str, &str), series: &FilterSeries) -> FilterOverview {
    let names = |counts: &lens::guardrail::Findings| {
        counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    };
    FilterOverview {
        filter: filter.to_owned(),
        side: side.to_owned(),
        requests: series.requests,
        calls: series.calls,
        critical_share: series.critical as f64 / series.requests.max(1) as f64,
        verdicts: names(&series.verdicts),
        failures: names(&series.failures),
        parts: FilterSeries::PARTS
            .into_iter()
            .zip(&series.parts)
            .filter_map(|(name, micros)| Some((name, timing(micros)?)))
            .collect(),
    }
}
