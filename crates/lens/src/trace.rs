//! Trace context: what spans need of a request, and which traces are sampled.
//!
//! - *In*: ids in hex digits, as `traceparent` has them; the ledger's intervals.
//! - *Out*: the trace part of a record; a sampling decision that all components of a trace share.
//! - *Never*: randomness. Ids are arguments.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Tick;
use crate::ledger::Interval;

/// The flag of a sampled trace.
pub const SAMPLED: u8 = 1;

/// The trace part of a record. Times are microseconds since the request head was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTrace {
    /// Id of the request's span, 16 hex digits.
    pub span_id: String,
    /// Id of the span of the call that answered, 16 hex digits. It is the parent of the engine's
    /// spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_span_id: Option<String>,
    /// `gen_ai.provider.name` of the backend.
    pub provider: Arc<str>,
    /// Host and port of the backend; empty without one.
    pub server: Arc<str>,
    /// Intervals of the ledger, in order; the first may begin before the request head.
    #[serde(default)]
    pub intervals: Vec<RecordInterval>,
    /// The first gaps over the route's threshold.
    #[serde(default)]
    pub stall_times: Vec<RecordStall>,
}

/// Time in one state of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordInterval {
    /// The state.
    pub state: Cow<'static, str>,
    /// When it began. Negative: before the request head was complete.
    pub from_us: i64,
    /// When it ended.
    pub to_us: i64,
}

impl RecordInterval {
    /// An interval, relative to the time at which the request head was read.
    pub fn new(interval: &Interval, head: Tick) -> Self {
        let since = |at: Tick| {
            let (later, earlier) = (at.micros_since(head), head.micros_since(at));
            i64::try_from(later).unwrap_or(i64::MAX) - i64::try_from(earlier).unwrap_or(0)
        };
        RecordInterval {
            state: Cow::Borrowed(interval.state.name()),
            from_us: since(interval.from),
            to_us: since(interval.to),
        }
    }
}

/// A gap between token events over the route's threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStall {
    /// When it ended.
    pub at_us: u64,
    /// Its duration.
    pub us: u64,
}

/// Whether a trace is in the sampled share of all, 0 to 1. Samplers of OpenTelemetry with the same
/// share decide the same by the trace id.
pub fn is_in_share(trace_id: &str, share: f64) -> bool {
    let low = trace_id.get(16..32).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    // 63 bits, as in OpenTelemetry's `TraceIdRatioBased`.
    let bound = (share.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64;
    low.is_some_and(|low| low >> 1 < bound)
}

/// A `traceparent` of version 00.
pub fn traceparent(trace_id: &str, span_id: &str, flags: u8) -> String {
    let mut out = String::with_capacity(trace_id.len() + span_id.len() + 7);
    for part in ["00-", trace_id, "-", span_id, "-"] {
        out.push_str(part);
    }
    for digit in [flags >> 4, flags & 0xf] {
        out.extend(char::from_digit(u32::from(digit), 16));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn shares_are_those_of_opentelemetry() {
        let id = |low: u64| format!("{:016x}{low:016x}", 7);
        for (low, share, sampled) in [
            (u64::MAX, 1.0, true),
            (0, 0.0, false),
            (0, 1e-9, true),
            (u64::MAX / 2 - 1, 0.5, true),
            (u64::MAX / 2 + 2, 0.5, false),
            (u64::MAX / 4, 2.0, true),
        ] {
            assert_eq!(is_in_share(&id(low), share), sampled, "{low:x} {share}");
        }
        assert!(!is_in_share("short", 1.0));
    }

    #[test]
    fn intervals_may_begin_before_the_head() {
        let interval = Interval {
            state: State::ReadRequest,
            from: Tick::from_micros(5),
            to: Tick::from_micros(20),
        };
        let got = RecordInterval::new(&interval, Tick::from_micros(10));
        assert_eq!((&*got.state, got.from_us, got.to_us), ("read_request", -5, 10));
        let own = RecordInterval::new(&interval, Tick::from_micros(5));
        assert_eq!((own.from_us, own.to_us), (0, 15));
    }
}
