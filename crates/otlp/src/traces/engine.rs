//! The engine's own report on its time, below the span of the call that answered.
//!
//! Engines report durations and no times. Queue, load and prefill are placed one after the other,
//! so that the last one ends with the first token, and decode begins there. An answer that is no
//! stream ends with its decode. Each of these spans has the attribute
//! `llm_lens.estimated_position`.
//!
//! - *In*: the split of a record.
//! - *Out*: attributes of the call's span, and its child spans.
//! - *Never*: a span outside of the time from the request sent to the end of the call: a report
//!   that exceeds it within the tolerance is cut. Spans of a report that contradicts the
//!   measurement: it is in attributes only.

use lens::EngineSplit;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::Request;
use crate::value::{double, flag, pair};

impl Request<'_> {
    /// Attributes of the call's span; empty if the engine reported nothing.
    pub(super) fn engine_attributes(&self) -> Vec<KeyValue> {
        let Some(split) = self.record.engine_split else { return Vec::new() };
        let EngineSplit { queue_us, load_us, prefill_us, decode_us, unexplained_us, disagrees } =
            split;
        let durations = [
            ("llm_lens.engine.queue", queue_us),
            ("llm_lens.engine.load", load_us),
            ("llm_lens.engine.prefill", prefill_us),
            ("llm_lens.engine.decode", decode_us),
            ("llm_lens.engine.unexplained", unexplained_us),
        ];
        let seconds = |(key, us): (_, Option<u64>)| Some(pair(key, double(us? as f64 / 1e6)));
        let disagrees = disagrees.then(|| pair("llm_lens.engine.disagrees", flag(true)));
        durations.into_iter().filter_map(seconds).chain(disagrees).collect()
    }

    /// Spans of the engine's work, children of `call`, in order.
    pub(super) fn engine_spans(&self, call: &Span) -> Vec<Span> {
        let (Some(split), Some(sent)) = (self.record.engine_split, self.record.sent_us) else {
            return Vec::new();
        };
        let first_token = self.record.marks_us.first_token.and_then(|mark| mark.arrival);
        let decode = split.decode_us.unwrap_or(0);
        let ended = self.record.engine_us.map(|us| sent.saturating_add(us));
        let prefilled = if self.record.stream {
            first_token
        } else {
            ended.map(|ended| ended.saturating_sub(decode).max(sent))
        };
        let Some(prefilled) = prefilled.filter(|_| !split.disagrees) else { return Vec::new() };
        let mut parts =
            vec![("llm_lens.engine.decode", prefilled, prefilled.saturating_add(decode))];
        let mut end = prefilled;
        for (name, us) in [
            ("llm_lens.engine.prefill", split.prefill_us),
            ("llm_lens.engine.load", split.load_us),
            ("llm_lens.engine.queue", split.queue_us),
        ] {
            let begin = end.saturating_sub(us.unwrap_or(0)).max(sent);
            parts.push((name, begin, end));
            end = begin;
        }
        let last = call.end_time_unix_nano;
        let parts = parts
            .into_iter()
            .rev()
            .map(|(name, from, to)| (name, self.after(from).min(last), self.after(to).min(last)));
        parts
            .filter(|(_, from, to)| from < to)
            .map(|(name, from, to)| {
                let mut span = self.span(name.to_owned(), SpanKind::Internal, (from, to));
                span.parent_span_id.clone_from(&call.span_id);
                span.attributes = vec![pair("llm_lens.estimated_position", flag(true))];
                span
            })
            .collect()
    }
}
