//! Ids of the spans of a request.
//!
//! While traces are exported, the request has a span of its own, and each call of a backend another
//! one, whose id goes upstream in `traceparent`: the engine's spans are its children. While no
//! traces are exported, the client's `traceparent` is forwarded as it is, because an id that is
//! never exported would cut the trace in two.
//!
//! - *In*: the client's `traceparent`, if it has one.
//! - *Out*: the `traceparent` of each call; the trace part of the record.
//! - *Never*: a decision to drop a trace. The exporter decides when the request has ended; only the
//!   sampled flag, which goes upstream before that, is set here.

use lens::trace::{self, RecordInterval, RecordStall, RecordTrace, SAMPLED};
use lens::{Ledger, StreamLens, Tick};
use observatory::Group;

use super::Accepted;
use crate::shared::Tracing;

/// Ids of the spans of a request, in hex digits.
#[derive(Clone, Debug)]
pub struct Spans {
    /// The trace: the client's, or a new one.
    pub trace_id: String,
    /// The request's span.
    pub span_id: String,
    /// The current call's span; `None` before it is sent.
    pub call: Option<String>,
    /// The hedge's span.
    pub hedge: Option<String>,
    /// Flags that go upstream.
    pub flags: u8,
}

impl Spans {
    pub(super) fn new(tracing: Tracing, accepted: &Accepted) -> Self {
        let parent = accepted.trace.as_ref();
        let trace_id = parent.map_or_else(new_trace_id, |parent| parent.trace_id.clone());
        let flags = match parent {
            Some(parent) if tracing.follows_parent => parent.flags,
            parent => {
                let others = parent.map_or(0, |parent| parent.flags) & !SAMPLED;
                others | u8::from(trace::is_in_share(&trace_id, tracing.share))
            }
        };
        Spans { trace_id, span_id: new_span_id(), call: None, hedge: None, flags }
    }

    /// Begin the span of a call. Returns its `traceparent`.
    pub fn begin_call(&mut self) -> String {
        let span_id = new_span_id();
        let value = trace::traceparent(&self.trace_id, &span_id, self.flags);
        self.call = Some(span_id);
        value
    }

    /// Begin the span of a hedge, which may never be sent. Returns its `traceparent`.
    pub fn begin_hedge(&mut self) -> String {
        let span_id = new_span_id();
        let value = trace::traceparent(&self.trace_id, &span_id, self.flags);
        self.hedge = Some(span_id);
        value
    }

    /// The trace part of the record. `head`: when the request head was complete.
    pub(crate) fn record(
        self,
        ledger: &Ledger,
        lens: &StreamLens,
        group: &Group,
        head: Tick,
    ) -> RecordTrace {
        let stall = |(at, nanos): &(Tick, u64)| RecordStall {
            at_us: at.micros_since(head),
            us: nanos / 1000,
        };
        RecordTrace {
            span_id: self.span_id,
            upstream_span_id: self.call,
            provider: group.provider.clone(),
            server: group.server.clone(),
            intervals: ledger
                .intervals()
                .iter()
                .map(|interval| RecordInterval::new(interval, head))
                .collect(),
            stall_times: lens.stalls().iter().map(stall).collect(),
        }
    }
}

/// 128 random bits, not all zero.
fn new_trace_id() -> String {
    hex::encode(rand::random::<u128>().max(1).to_be_bytes())
}

/// 64 random bits, not all zero.
fn new_span_id() -> String {
    hex::encode(rand::random::<u64>().max(1).to_be_bytes())
}
