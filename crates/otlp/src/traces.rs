//! Spans of finished requests, and which traces are exported.
//!
//! ```text
//! POST route                         server; child of the client's span
//! ├── llm_lens.queue                 internal: a state of the ledger that took time
//! ├── chat m                         client: an attempt that failed
//! └── chat m                         client: the call that answered; has the engine's spans
//!     └── llm_lens.engine.prefill    internal: a part of the engine's own report
//! ```
//!
//! - *In*: records with the trace part that the pipeline wrote.
//! - *Out*: a request with their spans.
//! - *Never*: other ids if a record is exported again. A prompt, an answer, or a credential:
//!   records have none. More than [`MAX_INTERVALS`] spans for the states of a request.
//!
//! The decision is made when the request has ended: slow, failed, blocked and limited requests are
//! exported, and a share of the others by trace id.

mod call;
mod engine;

use std::cell::Cell;
use std::sync::LazyLock;

use lens::record::Outcome;
use lens::trace::{self, RecordInterval, RecordTrace, SAMPLED};
use lens::{Record, State};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::semconv::Conventions;
use crate::settings::Sampler;
use crate::value::{double, int, pair, text};

/// Maximum spans for states of the ledger; the longest are kept.
pub const MAX_INTERVALS: usize = 32;
/// States that took less time have no span. Their time is in the attributes of the request's span.
const MIN_INTERVAL_US: i64 = 1000;
/// States without a span: the time in them is that of a call, or the gateway's own.
const IN_CALL: [State; 6] = [
    State::Send,
    State::AwaitFirstByte,
    State::AwaitFirstToken,
    State::AwaitToken,
    State::Gateway,
    State::Settle,
];

/// Flags of a span: whether it is known that its parent is remote, and whether it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// Whether the trace of a request is exported.
pub fn is_kept(record: &Record, sampler: &Sampler) -> bool {
    let Some(trace_id) = &record.trace_id else { return false };
    if let (true, Some(_), Some(flags)) =
        (sampler.parent_based, &record.parent_span_id, record.trace_flags)
    {
        return flags & SAMPLED != 0;
    }
    let is_failed = match record.outcome {
        Outcome::UpstreamFailed
        | Outcome::UpstreamError
        | Outcome::Timeout
        | Outcome::Blocked
        | Outcome::Limited => true,
        // Anyone can send requests that are rejected.
        Outcome::Ok | Outcome::ClientGone | Outcome::Rejected => false,
    };
    let is_slow = u128::from(record.total_us) > sampler.slow.as_micros();
    is_failed || is_slow || trace::is_in_share(trace_id, sampler.share)
}

/// The spans of a request; empty for a record without ids.
pub fn spans(record: &Record, conventions: Conventions) -> Vec<Span> {
    if record.trace.is_none() || record.trace_id.is_none() {
        return Vec::new();
    }
    let request = Request::new(record, conventions);
    let mut spans = vec![request.server()];
    spans.extend(request.intervals());
    spans.extend(request.calls());
    spans
}

/// An export request with the spans of each resource.
pub fn request(parts: Vec<(Resource, Vec<Span>)>) -> ExportTraceServiceRequest {
    let part = |(resource, spans)| ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: parts.into_iter().map(part).collect() }
}

pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "llm-lens".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// The bytes of a trace id in hex digits.
pub(crate) fn trace_bytes(hex: &str) -> Vec<u8> {
    TraceId::from_hex(hex).unwrap_or(TraceId::INVALID).to_bytes().to_vec()
}

/// The bytes of a span id in hex digits.
pub(crate) fn span_bytes(hex: &str) -> Vec<u8> {
    SpanId::from_hex(hex).unwrap_or(SpanId::INVALID).to_bytes().to_vec()
}

/// The trace part of a record without one.
static NO_TRACE: LazyLock<RecordTrace> = LazyLock::new(RecordTrace::default);

/// A request and what its spans share.
pub(crate) struct Request<'r> {
    record: &'r Record,
    trace: &'r RecordTrace,
    trace_id: Vec<u8>,
    conventions: Conventions,
    /// Number of the next id that is derived.
    ids: Cell<u64>,
}

impl<'r> Request<'r> {
    /// A request. Without a trace part, it has attributes and no spans.
    pub(crate) fn new(record: &'r Record, conventions: Conventions) -> Self {
        Request {
            record,
            trace: record.trace.as_deref().unwrap_or(&NO_TRACE),
            trace_id: record.trace_id.as_deref().map(trace_bytes).unwrap_or_default(),
            conventions,
            ids: Cell::new(1),
        }
    }

    /// When the request ended, in Unix nanoseconds.
    pub(crate) fn ended_at(&self) -> u64 {
        self.at(self.bounds().1)
    }

    /// The id of the request's span, in hex digits.
    pub(crate) fn own_span(&self) -> Option<&'r str> {
        Some(&*self.trace.span_id).filter(|id| !id.is_empty())
    }

    /// Attributes of the request's span, and of the span of the call that answered. Of keys that
    /// both have, the first value counts.
    pub(crate) fn attributes(&self) -> Vec<KeyValue> {
        let mut all = self.server_attributes();
        let mut add = |more: Vec<KeyValue>| {
            for pair in more {
                if !all.iter().any(|known| known.key == pair.key) {
                    all.push(pair);
                }
            }
        };
        add(self.call_attributes(None));
        if self.record.backend.is_some() {
            add(self.answer_attributes());
        }
        all
    }

    /// Unix nanoseconds of a time relative to the request head.
    fn at(&self, us: i64) -> u64 {
        self.record.started_at.saturating_add_signed(us).saturating_mul(1000)
    }

    fn after(&self, us: u64) -> u64 {
        self.record.started_at.saturating_add(us).saturating_mul(1000)
    }

    /// Start and end of the request, relative to its head.
    fn bounds(&self) -> (i64, i64) {
        let from = self.trace.intervals.first().map_or(0, |first| first.from_us.min(0));
        (from, from + i64::try_from(self.record.total_us).unwrap_or(i64::MAX))
    }

    /// An id for a span that has none in the record. It is derived from the id of the request's
    /// span: a record that is exported again has the same spans.
    fn next_id(&self) -> u64 {
        let number = self.ids.replace(self.ids.get() + 1);
        let own = u64::from_str_radix(&self.trace.span_id, 16).unwrap_or(0);
        // The mixing function of SplitMix64, which maps different inputs to different ids.
        let mut id = own.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        id = (id ^ (id >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (id ^ (id >> 31)).max(1)
    }

    fn span(&self, name: String, kind: SpanKind, (from, to): (u64, u64)) -> Span {
        Span {
            trace_id: self.trace_id.clone(),
            span_id: self.next_id().to_be_bytes().to_vec(),
            parent_span_id: span_bytes(&self.trace.span_id),
            flags: PARENT_KNOWN | u32::from(self.record.trace_flags.unwrap_or(0) | SAMPLED),
            name,
            kind: kind as i32,
            start_time_unix_nano: from,
            end_time_unix_nano: to.max(from),
            ..Span::default()
        }
    }

    /// The span of the request.
    fn server(&self) -> Span {
        let record = self.record;
        // By the route and not by the path, which the client chooses.
        let name = match &record.dialect {
            Some(_) => format!("POST {}", record.route),
            None => record.route.to_string(),
        };
        let (from, to) = self.bounds();
        let mut span = self.span(name, SpanKind::Server, (self.at(from), self.at(to)));
        span.span_id = span_bytes(&self.trace.span_id);
        span.parent_span_id.clear();
        if let Some(parent) = &record.parent_span_id {
            span.parent_span_id = span_bytes(parent);
            span.flags |= PARENT_REMOTE;
        }
        span.attributes = self.server_attributes();
        span.events = self.server_events();
        let status = record.http_status.unwrap_or(0);
        let is_failed = matches!(
            record.outcome,
            Outcome::UpstreamFailed | Outcome::UpstreamError | Outcome::Timeout
        );
        // By the conventions of HTTP, an error of the client is no error of the server.
        if status >= 500 || is_failed && !(400..500).contains(&status) {
            span.status = Some(error_status(record.error_code.as_deref()));
        }
        span
    }

    fn server_attributes(&self) -> Vec<KeyValue> {
        let record = self.record;
        let seconds = |us: u64| double(us as f64 / 1e6);
        let mut all = vec![
            pair("llm_lens.request.id", text(&record.id)),
            pair("llm_lens.route", text(&*record.route)),
            pair("llm_lens.outcome", text(record.outcome.name())),
            pair("url.path", text(&record.endpoint)),
        ];
        let mut add = |key: &str, value| all.extend(Option::map(value, |value| pair(key, value)));
        add("http.request.method", record.dialect.as_ref().map(|_| text("POST")));
        add("http.response.status_code", record.http_status.map(|status| int(status.into())));
        add("error.type", record.error_code.as_deref().map(text));
        add("llm_lens.backend", record.backend.as_deref().map(text));
        add("llm_lens.pool", record.routing.pool.as_deref().map(text));
        add("llm_lens.chosen", record.routing.chosen.as_deref().map(text));
        add("llm_lens.client_ttft", record.client_ttft_us.map(seconds));
        add("llm_lens.cost", record.cost.map(double));
        if let Some(guardrail) = &record.guardrail {
            add("llm_lens.guardrail", Some(text(&*guardrail.guardrail)));
            add("llm_lens.guardrail.verdict", Some(text(&*guardrail.verdict)));
            add("llm_lens.guardrail.risk", Some(double(guardrail.risk.into())));
        }
        for (state, us) in record.ledger_us.iter().filter(|(_, us)| *us > 0) {
            add(&format!("llm_lens.ledger.{}", state.name()), Some(seconds(us)));
        }
        all
    }

    /// The first token's write, filters of the guardrail, and attempts that were never sent.
    fn server_events(&self) -> Vec<Event> {
        let record = self.record;
        let mut events = Vec::new();
        let mark = record.marks_us.first_token.and_then(|mark| mark.written);
        events.extend(mark.map(|us| event("llm_lens.first_token_written", self.after(us), vec![])));
        let input = State::GuardrailInput.name();
        let checked = self.trace.intervals.iter().rfind(|interval| interval.state == input);
        let (_, end) = self.bounds();
        for filter in record.guardrail.iter().flat_map(|guardrail| &guardrail.filters) {
            let at = match checked {
                Some(interval) if filter.side == "input" => interval.to_us,
                _ => end,
            };
            let seconds = |us: u64| double(us as f64 / 1e6);
            let mut attributes = vec![
                pair("llm_lens.filter", text(&*filter.filter)),
                pair("llm_lens.side", text(&*filter.side)),
                pair("llm_lens.verdict", text(&*filter.verdict)),
                pair("llm_lens.filter.cpu", seconds(filter.cpu_us)),
                pair("llm_lens.filter.queue", seconds(filter.queue_us)),
                pair("llm_lens.filter.remote", seconds(filter.remote_us)),
                pair("llm_lens.filter.wall", seconds(filter.wall_us)),
            ];
            let failure = filter.failure.as_deref();
            attributes.extend(failure.map(|why| pair("llm_lens.failure", text(why))));
            events.push(event("llm_lens.guardrail.filter", self.at(at), attributes));
        }
        let unsent = record.routing.failed_attempts.iter().filter(|it| it.span_id.is_none());
        events.extend(unsent.map(|attempt| {
            let attributes = vec![
                pair("llm_lens.backend", text(&*attempt.backend)),
                pair("error.type", text(&attempt.code)),
            ];
            event("llm_lens.attempt_failed", self.after(attempt.at_us + attempt.us), attributes)
        }));
        events
    }

    /// Spans of the states that took time, in order.
    fn intervals(&self) -> Vec<Span> {
        let has_span = |interval: &&RecordInterval| {
            interval.to_us - interval.from_us >= MIN_INTERVAL_US
                && !IN_CALL.iter().any(|state| state.name() == interval.state)
        };
        let mut kept: Vec<&RecordInterval> = self.trace.intervals.iter().filter(has_span).collect();
        kept.sort_by_key(|interval| interval.from_us - interval.to_us);
        kept.truncate(MAX_INTERVALS);
        kept.sort_by_key(|interval| interval.from_us);
        let span = |interval: &RecordInterval| {
            let times = (self.at(interval.from_us), self.at(interval.to_us));
            self.span(format!("llm_lens.{}", interval.state), SpanKind::Internal, times)
        };
        kept.into_iter().map(span).collect()
    }
}

fn event(name: &str, at: u64, attributes: Vec<KeyValue>) -> Event {
    Event { name: name.to_owned(), time_unix_nano: at, attributes, ..Event::default() }
}

fn error_status(code: Option<&str>) -> Status {
    Status { message: code.unwrap_or_default().to_owned(), code: StatusCode::Error as i32 }
}

#[cfg(test)]
pub(crate) mod tests;
