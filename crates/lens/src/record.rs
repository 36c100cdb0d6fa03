//! The record of one request.
//!
//! All sinks share this schema. Within a schema number, fields are added, but never renamed or
//! redefined. Absent means unknown, never zero. Times are microseconds since the request head was
//! read, unless they are described as durations.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Tick;
use crate::engine_split::EngineSplit;
use crate::event_times::StreamTimes;
use crate::gaps::{GapSketch, GapSummary};
use crate::guardrail::{GuardrailOverhead, RecordGuardrail};
use crate::ledger::Parts;
use crate::stream::{Mark, Marks};
use crate::trace::RecordTrace;

/// The number of the schema that this version writes.
pub const SCHEMA: u32 = 1;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The complete answer was forwarded, and it is not an error.
    Ok,
    /// The client disconnected before the end.
    ClientGone,
    /// No answer, or an incomplete one: connect failure, reset, bad HTTP, a truncated stream.
    UpstreamFailed,
    /// The engine reported an error: a status of 400 or more, an error inside a stream, or a stream
    /// without an ending.
    UpstreamError,
    /// A timeout of the gateway ended it.
    Timeout,
    /// The gateway rejected it before calling a backend.
    Rejected,
    /// A guardrail blocked it.
    Blocked,
    /// A token or cost limit ended its stream.
    Limited,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 8] = [
        Outcome::Ok,
        Outcome::ClientGone,
        Outcome::UpstreamFailed,
        Outcome::UpstreamError,
        Outcome::Timeout,
        Outcome::Rejected,
        Outcome::Blocked,
        Outcome::Limited,
    ];

    /// The name in records and labels.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientGone => "client_gone",
            Outcome::UpstreamFailed => "upstream_failed",
            Outcome::UpstreamError => "upstream_error",
            Outcome::Timeout => "timeout",
            Outcome::Rejected => "rejected",
            Outcome::Blocked => "blocked",
            Outcome::Limited => "limited",
        }
    }
}

/// A failed attempt before the one that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAttempt {
    /// Backend of the attempt.
    pub backend: Arc<str>,
    /// Stable error code.
    pub code: String,
    /// HTTP status, if the backend returned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Duration: backend selected to attempt failed.
    pub us: u64,
    /// When the backend was selected, relative to the request head.
    #[serde(default)]
    pub at_us: u64,
    /// Id of the attempt's span, 16 hex digits; absent while no traces are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// `gen_ai.provider.name` of the backend; absent without a span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// A hedge of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHedge {
    /// Backend of the hedge.
    pub backend: Arc<str>,
    /// Whether the hedge answered first.
    pub won: bool,
    /// Duration: first request sent to hedge sent.
    pub after_us: u64,
    /// Id of the span of the call that lost, 16 hex digits; absent while no traces are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// `gen_ai.provider.name` of the backend that lost; absent without a span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// A resume: a backend continued the answer of a failed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordResume {
    /// Backend that resumed the answer.
    pub backend: Arc<str>,
    /// Generated tokens before the resume, counted or estimated.
    pub after_tokens: u64,
    /// When the answer of the resuming backend began.
    pub at_us: u64,
}

/// Token counts that limits and cost are computed from, reported by the engine or estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordUsage {
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Whether `prompt_tokens` is the gateway's estimate, or the count of the route's tokenizer;
    /// not reported by the engine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt_estimated: bool,
    /// Tokens generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Generated tokens spent on reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// Prompt tokens from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Prompt tokens written to a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Whether `completion_tokens` is estimated, not reported by the engine. Values derived from it
    /// are then estimates too.
    pub estimated: bool,
}

/// One mark, in microseconds from the request head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkUs {
    /// Read from upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<u64>,
    /// Accepted by the client's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

/// The marks of [`Marks`], in microseconds from the request head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarksUs {
    /// First byte of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<MarkUs>,
    /// First event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_event: Option<MarkUs>,
    /// First role-only event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<MarkUs>,
    /// First reasoning text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<MarkUs>,
    /// First content text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<MarkUs>,
    /// First tool-call text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<MarkUs>,
    /// First generated text of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token: Option<MarkUs>,
    /// Last generated text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_token: Option<MarkUs>,
}

impl MarksUs {
    /// The marks, relative to the time at which the request head was read.
    pub fn from_marks(marks: &Marks, head: Tick) -> Self {
        let us = |mark: Mark| {
            let since = |t: Option<Tick>| t.map(|t| t.micros_since(head));
            let mark = MarkUs { arrival: since(mark.arrival), written: since(mark.written) };
            (mark != MarkUs::default()).then_some(mark)
        };
        MarksUs {
            first_byte: us(marks.first_byte),
            first_event: us(marks.first_event),
            role: us(marks.role),
            reasoning: us(marks.reasoning),
            content: us(marks.content),
            tool_call: us(marks.tool_call),
            first_token: us(marks.first_token),
            last_token: us(marks.last_token),
        }
    }
}

/// Routing decisions of a request. All fields are absent on a route with one backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordRouting {
    /// Pool of the backend, if the route has pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<str>>,
    /// Why the backend was selected (values: `docs/routing.md`); absent if there was no choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Cow<'static, str>>,
    /// Whether the request was offloaded from the first pool to the second, and why (values:
    /// `docs/routing.md`); absent without an offload policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<Cow<'static, str>>,
    /// Waiting requests that the engine reported at selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_waiting: Option<u64>,
    /// Duration: request sent to first token, predicted at selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ttft_us: Option<u64>,
    /// Duration per output token after the first, predicted at selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_tpot_us: Option<f64>,
    /// A failed attempt was not retried because the retry budget was used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_denied: bool,
    /// The hedge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<RecordHedge>,
    /// Backends that resumed the stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resumes: Vec<RecordResume>,
    /// Earlier attempts, which failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed_attempts: Vec<RecordAttempt>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The request id, from the client or generated by the gateway.
    pub id: String,
    /// Unique id, if `id` is the client's: clients may repeat theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
    /// The trace id of the client's `traceparent`, or that of the gateway's own trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Span id of the client's `traceparent`, 16 hex digits; the parent of the request's span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// The flags of the client's `traceparent`; bit 0: the trace is sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_flags: Option<u8>,
    /// Ids and times for spans; absent while no traces are exported.
    #[serde(flatten)]
    pub trace: Option<Box<RecordTrace>>,
    /// Wall-clock time of the first byte of the request, RFC 3339 in UTC.
    #[serde(with = "rfc3339")]
    pub started_at: u64,
    /// The route that matched.
    pub route: Arc<str>,
    /// The backend, if one was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Arc<str>>,
    /// Routing decisions, if there was a choice.
    #[serde(flatten)]
    pub routing: RecordRouting,
    /// Dialect of the answer; absent for requests other than inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Cow<'static, str>>,
    /// The request path, without its query.
    pub endpoint: String,
    /// The public name of the key, or `anonymous`; absent without authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Arc<str>>,
    /// The owner of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// Cost in dollars at the operator's prices; absent if the model has no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The model that the client requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// The model that the engine reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_answered: Option<String>,
    /// The status sent to the client; absent if none was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Whether the answer was a stream of events.
    pub stream: bool,
    /// How the request ended.
    pub outcome: Outcome,
    /// Stable error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Code of the engine's error, or its type if it has no code, as reported by the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_error: Option<String>,
    /// Finish reasons of the choices, as reported by the engine.
    #[serde(default)]
    pub finish_reasons: Vec<String>,
    /// Token counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<RecordUsage>,
    /// Why the answer's events were not measured; absent if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_parsed: Option<Cow<'static, str>>,
    /// Events, end marks included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// Events with generated text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_events: Option<u64>,
    /// Comment lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comments: Option<u64>,
    /// Bytes of the request, head and body.
    pub bytes_from_client: u64,
    /// Bytes of the answer's body that the client accepted, without transfer coding.
    pub bytes_to_client: u64,
    /// When the last byte of the request was written upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_us: Option<u64>,
    /// The marks.
    #[serde(default)]
    pub marks_us: MarksUs,
    /// Duration: request sent to end of answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_us: Option<u64>,
    /// Duration: request sent to first token event read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_ttft_us: Option<u64>,
    /// The engine's own report on its time; absent if the engine reports none, and for answers that
    /// another backend resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_split: Option<EngineSplit>,
    /// Duration: request head read to first token event written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ttft_us: Option<u64>,
    /// Duration per output token after the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_us: Option<f64>,
    /// Gaps between token events, on arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_us: Option<GapSummary>,
    /// The same on write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_itl_us: Option<GapSummary>,
    /// Their distribution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_itl_sketch: Option<GapSketch>,
    /// Times of the token events. They are kept for recent requests, and not exported.
    #[serde(skip)]
    pub event_times: Option<Box<StreamTimes>>,
    /// Gaps over the route's threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls: Option<u64>,
    /// Token events that arrived in the same read as an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalesced_events: Option<u64>,
    /// Delay from kernel receive to the gateway's read, for reads with a kernel timestamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_lag_us: Option<GapSummary>,
    /// Findings of the route's guardrail; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrail: Option<Box<RecordGuardrail>>,
    /// Time spent in the guardrail; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrail_overhead: Option<GuardrailOverhead>,
    /// Where the time went; the parts sum to `total_us`.
    pub ledger_us: Parts,
    /// Duration: first byte of the request to the end of the exchange.
    pub total_us: u64,
}

impl Record {
    /// Whether the gateway or an engine failed the request: no answer or an incomplete one, a
    /// timeout that the client did not cause, or a server error. Mistakes and disconnects of
    /// clients, verdicts of guardrails and limits are not failures of the service, and neither is
    /// an engine's 429, which may concern the client's own account.
    pub fn is_service_failure(&self) -> bool {
        let code = self.error_code.as_deref().unwrap_or_default();
        let status = self.http_status.unwrap_or_default();
        match self.outcome {
            Outcome::Ok | Outcome::ClientGone | Outcome::Limited => false,
            Outcome::UpstreamFailed => true,
            Outcome::Timeout => !matches!(code, "request_timeout" | "client_write_timeout"),
            // Without a status in its code, the stream had no ending.
            Outcome::UpstreamError => code
                .strip_prefix("http_")
                .and_then(|status| status.parse::<u16>().ok())
                .is_none_or(|status| status >= 500),
            // 501 and 505 answer requests that the gateway does not support.
            Outcome::Rejected => matches!(status, 500 | 503) || code == "internal_error",
            Outcome::Blocked => {
                matches!(code, "guardrail_unavailable" | "guardrail_unreadable_answer")
            }
        }
    }
}

/// Unix microseconds as RFC 3339 text, for `#[serde(with)]`.
pub mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    /// Microseconds as text.
    pub fn serialize<S: Serializer>(us: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let at = i64::try_from(*us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
        let at = at.ok_or_else(|| ser::Error::custom("time out of range"))?;
        serializer.collect_str(&format_args!("{at:.6}"))
    }

    /// Text as microseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: Timestamp = text.parse().map_err(de::Error::custom)?;
        u64::try_from(at.as_microsecond()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
impl Record {
    /// A record with only the required fields.
    pub(crate) fn bare() -> Self {
        let json = r#"{"schema":1,"id":"i","started_at":"2026-01-02T03:04:05.678901Z","route":"r","endpoint":"/","stream":false,
            "outcome":"ok","bytes_from_client":0,"bytes_to_client":0,"ledger_us":{},"total_us":0}"#;
        serde_json::from_str(json).expect("a valid record")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_not_written_and_comes_back_absent() {
        let record = Record::bare();
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["started_at"], "2026-01-02T03:04:05.678901Z");
        for key in ["usage", "events", "tpot_us", "backend", "http_status"] {
            assert!(json.get(key).is_none(), "{key}");
        }
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }

    #[test]
    fn mistakes_of_clients_are_no_service_failures() {
        for (outcome, http_status, code, failed) in [
            (Outcome::Ok, 200, "", false),
            (Outcome::ClientGone, 200, "client_closed", false),
            (Outcome::Limited, 200, "budget_exhausted", false),
            (Outcome::UpstreamFailed, 502, "upstream_connect_failed", true),
            (Outcome::UpstreamFailed, 200, "upstream_died", true),
            (Outcome::Timeout, 504, "upstream_first_token_timeout", true),
            (Outcome::Timeout, 408, "request_timeout", false),
            (Outcome::Timeout, 200, "client_write_timeout", false),
            (Outcome::UpstreamError, 400, "http_400", false),
            (Outcome::UpstreamError, 429, "http_429", false),
            (Outcome::UpstreamError, 500, "http_500", true),
            (Outcome::UpstreamError, 200, "http_503", true),
            (Outcome::UpstreamError, 200, "incomplete_stream", true),
            (Outcome::Rejected, 401, "invalid_api_key", false),
            (Outcome::Rejected, 429, "rate_limit_exceeded", false),
            (Outcome::Rejected, 501, "upgrade_not_supported", false),
            (Outcome::Rejected, 503, "overloaded", true),
            (Outcome::Rejected, 200, "internal_error", true),
            (Outcome::Blocked, 400, "content_blocked", false),
            (Outcome::Blocked, 503, "guardrail_unavailable", true),
            (Outcome::Blocked, 200, "guardrail_unavailable", true),
        ] {
            let record = Record {
                outcome,
                http_status: Some(http_status),
                error_code: Some(code.to_owned()),
                ..Record::bare()
            };
            assert_eq!(record.is_service_failure(), failed, "{outcome:?} {http_status} {code}");
        }
    }
}
