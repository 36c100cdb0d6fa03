//! Exemplars: values of single requests, which lead from a histogram to a trace.
//!
//! - *In*: the latest records whose traces are kept.
//! - *Out*: for a histogram of a series, the values of requests that the series counts.
//! - *Never*: a request of another series; a value without a trace.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lens::record::Outcome;
use lens::trace::SAMPLED;
use lens::{Record, Timing};
use wire::Dialect;

use crate::group::Group;

/// Maximum records that exemplars are taken from.
pub(crate) const MAX_RECORDS: usize = 1000;

/// Which requests have a trace that can be looked at. By default, those that the client's tracing
/// has sampled.
pub struct TraceFilter(Box<dyn Fn(&Record) -> bool + Send + Sync>);

impl TraceFilter {
    /// Of the requests for which `has_trace` is true.
    pub fn new(has_trace: impl Fn(&Record) -> bool + Send + Sync + 'static) -> Self {
        TraceFilter(Box::new(has_trace))
    }

    pub(crate) fn has(&self, record: &Record) -> bool {
        (self.0)(record)
    }
}

impl Default for TraceFilter {
    fn default() -> Self {
        TraceFilter::new(|record| record.trace_flags.is_some_and(|flags| flags & SAMPLED != 0))
    }
}

impl fmt::Debug for TraceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceFilter")
    }
}

/// Records with traces, by route and backend.
#[derive(Debug, Default)]
pub(crate) struct TracedRecords(HashMap<Place, Vec<Arc<Record>>>);

/// A route and a backend.
type Place = (Arc<str>, Arc<str>);

impl TracedRecords {
    /// `records` are sorted, newest first.
    pub(crate) fn new(records: impl Iterator<Item = Arc<Record>>) -> Self {
        let mut by_place: HashMap<_, Vec<Arc<Record>>> = HashMap::new();
        for record in records {
            let backend = record.backend.clone().unwrap_or_default();
            by_place.entry((record.route.clone(), backend)).or_default().push(record);
        }
        TracedRecords(by_place)
    }

    /// The requests that a series counts, newest first.
    pub(crate) fn of<'a>(
        &'a self,
        group: &Group,
        model: u16,
        outcome: Outcome,
    ) -> impl Iterator<Item = &'a Record> {
        let place = (group.route.clone(), group.backend.clone());
        let records = self.0.get(&place).into_iter().flatten().map(|record| &**record);
        records.filter(move |record| {
            record.outcome == outcome
                && operation(record) == group.operation
                && group.model_number(record.model_requested.as_deref()) == model
        })
    }
}

fn operation(record: &Record) -> &'static str {
    let dialect = record.dialect.as_deref().and_then(Dialect::from_name);
    dialect.map_or("", Dialect::operation)
}

/// Requests with traces that a histogram counts.
#[derive(Clone, Copy, Debug)]
pub struct Exemplars<'a> {
    records: &'a [&'a Record],
    timing: Timing,
}

impl<'a> Exemplars<'a> {
    /// Of a timing. `records` are sorted, newest first.
    pub(crate) fn new(records: &'a [&'a Record], timing: Timing) -> Self {
        Exemplars { records, timing }
    }

    /// The values, newest first.
    pub fn iter(self) -> impl Iterator<Item = Exemplar<'a>> {
        self.records.iter().filter_map(move |record| {
            let (_, micros) = record.timings().find(|(timing, _)| *timing == self.timing)?;
            Some(Exemplar {
                seconds: micros as f64 / 1e6,
                at: record.started_at.saturating_add(record.total_us),
                trace_id: record.trace_id.as_deref()?,
                span_id: record.trace.as_ref().map(|trace| trace.span_id.as_str()),
            })
        })
    }
}

impl Default for Exemplars<'_> {
    /// None.
    fn default() -> Self {
        Exemplars { records: &[], timing: Timing::Total }
    }
}

/// A value of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar<'a> {
    /// The value.
    pub seconds: f64,
    /// End of the request, in Unix microseconds.
    pub at: u64,
    /// Its trace, 32 hex digits.
    pub trace_id: &'a str,
    /// The gateway's span, 16 hex digits; `None`: the gateway exports no traces.
    pub span_id: Option<&'a str>,
}

impl<'a> Exemplar<'a> {
    /// Its labels in Prometheus.
    pub(crate) fn labels(self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let span = self.span_id.map(|id| ("span_id", id));
        [("trace_id", self.trace_id)].into_iter().chain(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    fn group(operation: &'static str) -> Group {
        Group {
            route: record("m", "ok").route,
            backend: record("m", "ok").backend.unwrap_or_default(),
            provider: "p".into(),
            operation,
            models: ["m".to_owned()].into(),
            labels: Arc::default(),
            server: "b:80".into(),
        }
    }

    #[test]
    fn exemplars_are_requests_that_the_series_counts() {
        let chat = |model: &str, outcome: &str| {
            let dialect = Some("openai-chat".into());
            Arc::new(Record { dialect, ..record(model, outcome) })
        };
        let records = [chat("m", "ok"), chat("made-up", "ok"), chat("m", "timeout")];
        let traced = TracedRecords::new(records.iter().cloned());
        let of = |operation, model, outcome| -> Vec<&Record> {
            traced.of(&group(operation), model, outcome).collect()
        };
        assert_eq!(of("chat", 1, Outcome::Ok), [&*records[0]]);
        assert_eq!(of("chat", 0, Outcome::Ok), [&*records[1]], "the series `other`");
        assert_eq!(of("chat", 1, Outcome::Timeout), [&*records[2]]);
        assert!(of("embeddings", 1, Outcome::Ok).is_empty());
    }

    #[test]
    fn sampled_requests_of_clients_have_traces_by_default() {
        let flags = |trace_flags| Record { trace_flags, ..record("m", "ok") };
        let filter = TraceFilter::default();
        assert!(filter.has(&flags(Some(1))) && !filter.has(&flags(Some(0))));
        assert!(!filter.has(&flags(None)));
    }
}
