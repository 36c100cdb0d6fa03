//! Spans of calls: of the backend that answered, of attempts that failed, and of the call that lost
//! to a hedge.

use lens::State;
use lens::record::Outcome;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use wire::Dialect;

use super::{Request, error_status, event, span_bytes};
use crate::value::{double, flag, int, pair, text, texts};

/// Tolerance between the end of the ledger's state `send` and the request's own time of sending.
const SEND_SLACK_US: i64 = 1000;

impl Request<'_> {
    /// The spans of all calls.
    pub(super) fn calls(&self) -> Vec<Span> {
        let mut spans = self.failed_attempts();
        spans.extend(self.lost_call());
        if let Some(call) = self.answered() {
            let work = self.engine_spans(&call);
            spans.push(call);
            spans.extend(work);
        }
        spans
    }

    /// The id of the span of the call that answered, if it was a call of a model and its provider
    /// is known.
    pub(crate) fn inference_span(&self) -> Option<&str> {
        let dialect = self.record.dialect.as_deref().and_then(Dialect::from_name);
        let is_inference =
            dialect.is_some_and(Dialect::generates) && !self.trace.provider.is_empty();
        self.trace.upstream_span_id.as_deref().filter(|_| is_inference)
    }

    fn operation(&self) -> Option<&'static str> {
        self.record.dialect.as_deref().and_then(Dialect::from_name).map(Dialect::operation)
    }

    /// `{operation} {model}`, as the conventions require.
    fn call_name(&self) -> String {
        match (self.operation(), &self.record.model_requested) {
            (Some(operation), Some(model)) => format!("{operation} {model}"),
            (Some(operation), None) => operation.to_owned(),
            (None, _) => self.record.route.to_string(),
        }
    }

    /// `gen_ai.provider.name` of a call of a model.
    fn provider(&self, name: &str) -> Option<KeyValue> {
        let is_known = self.operation().is_some() && !name.is_empty();
        is_known.then(|| pair("gen_ai.provider.name", text(name)))
    }

    pub(super) fn call_attributes(&self, backend: Option<&str>) -> Vec<KeyValue> {
        let model = self.record.model_requested.as_deref();
        [
            ("gen_ai.operation.name", self.operation()),
            ("gen_ai.request.model", model.filter(|_| self.operation().is_some())),
            ("llm_lens.backend", backend),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(pair(key, text(value?))))
        .collect()
    }

    fn failed_attempts(&self) -> Vec<Span> {
        let attempts = self.record.routing.failed_attempts.iter();
        attempts
            .filter_map(|attempt| {
                let times = (self.after(attempt.at_us), self.after(attempt.at_us + attempt.us));
                let mut span = self.span(self.call_name(), SpanKind::Client, times);
                span.span_id = span_bytes(attempt.span_id.as_deref()?);
                span.attributes = self.call_attributes(Some(&attempt.backend));
                span.attributes
                    .extend(attempt.provider.as_deref().and_then(|it| self.provider(it)));
                span.attributes.push(pair("error.type", text(&attempt.code)));
                let status = attempt.http_status.map(|status| int(status.into()));
                let status = status.map(|status| pair("http.response.status_code", status));
                span.attributes.extend(status);
                span.status = Some(error_status(Some(&attempt.code)));
                Some(span)
            })
            .collect()
    }

    /// The call that was canceled because the other one of a hedge answered first.
    fn lost_call(&self) -> Option<Span> {
        let hedge = self.record.routing.hedge.as_ref()?;
        let id = hedge.span_id.as_deref()?;
        let sent = self.record.sent_us?;
        let start = if hedge.won {
            sent.saturating_sub(hedge.after_us)
        } else {
            sent.saturating_add(hedge.after_us)
        };
        let first = self.record.marks_us.first_token.and_then(|mark| mark.arrival);
        let end = first.unwrap_or(self.record.total_us);
        let times = (self.after(start), self.after(end));
        let mut span = self.span(self.call_name(), SpanKind::Client, times);
        span.span_id = span_bytes(id);
        let backend = Some(&*hedge.backend).filter(|_| !hedge.won);
        span.attributes = self.call_attributes(backend);
        span.attributes.extend(hedge.provider.as_deref().and_then(|it| self.provider(it)));
        span.attributes.push(pair("error.type", text("hedge_lost")));
        Some(span)
    }

    /// The call that answered, or the last that failed.
    fn answered(&self) -> Option<Span> {
        let id = self.trace.upstream_span_id.as_deref()?;
        let (_, last) = self.bounds();
        let (start, end) = match self.record.sent_us {
            Some(sent) => {
                let took = self.record.engine_us;
                (self.send_began(sent), took.map_or(self.at(last), |us| self.after(sent + us)))
            }
            None => (self.at(self.connect_began()?), self.at(last)),
        };
        let mut span = self.span(self.call_name(), SpanKind::Client, (start, end));
        span.span_id = span_bytes(id);
        span.attributes = self.call_attributes(self.record.backend.as_deref());
        span.attributes.extend(self.answer_attributes());
        span.events = self.call_events();
        let is_failed = !matches!(
            self.record.outcome,
            Outcome::Ok | Outcome::ClientGone | Outcome::Blocked | Outcome::Limited
        );
        if is_failed {
            span.status = Some(error_status(self.record.error_code.as_deref()));
        }
        Some(span)
    }

    /// When the first byte of the request was written.
    fn send_began(&self, sent: u64) -> u64 {
        let sent = i64::try_from(sent).unwrap_or(i64::MAX);
        let send = self.trace.intervals.iter().rfind(|interval| {
            interval.state == State::Send.name()
                && interval.from_us <= sent
                && interval.to_us + SEND_SLACK_US >= sent
        });
        self.at(send.map_or(sent, |interval| interval.from_us))
    }

    fn connect_began(&self) -> Option<i64> {
        let connect = State::Connect.name();
        let last = self.trace.intervals.iter().rfind(|interval| interval.state == connect);
        last.map(|interval| interval.from_us)
    }

    pub(super) fn answer_attributes(&self) -> Vec<KeyValue> {
        let record = self.record;
        let mut all = Vec::new();
        let mut add = |key: &str, value| all.extend(Option::map(value, |value| pair(key, value)));
        let (host, port) = self.trace.server.rsplit_once(':').unwrap_or_default();
        add("server.address", Some(text(host)).filter(|_| !host.is_empty()));
        add("server.port", port.parse().ok().map(int));
        add("error.type", record.error_code.as_deref().map(text));
        if self.operation().is_none() {
            add("http.response.status_code", record.http_status.map(|status| int(status.into())));
            return all;
        }
        add("gen_ai.request.stream", Some(flag(record.stream)));
        add("gen_ai.response.model", record.model_answered.as_deref().map(text));
        let reasons = Some(&record.finish_reasons).filter(|reasons| !reasons.is_empty());
        add("gen_ai.response.finish_reasons", reasons.map(|reasons| texts(reasons)));
        let first_event = record.marks_us.first_event.and_then(|mark| mark.arrival);
        let first_chunk = first_event.zip(record.sent_us).filter(|_| record.stream);
        let first_chunk = first_chunk.map(|(event, sent)| event.saturating_sub(sent) as f64 / 1e6);
        add("gen_ai.response.time_to_first_chunk", first_chunk.map(double));
        let usage = record.usage.clone().unwrap_or_default();
        add("gen_ai.usage.input_tokens", usage.prompt_tokens.map(int));
        let output = if usage.estimated {
            "llm_lens.usage.estimated_output_tokens"
        } else {
            "gen_ai.usage.output_tokens"
        };
        add(output, usage.completion_tokens.map(int));
        add("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens.map(int));
        if self.conventions.has_v141() {
            let written = usage.cache_write_tokens;
            add("gen_ai.usage.cache_creation.input_tokens", written.map(int));
        }
        if self.conventions.has_latest() {
            add("gen_ai.usage.cache_write.input_tokens", usage.cache_write_tokens.map(int));
        }
        add("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens.map(int));
        add("llm_lens.engine_ttft", record.engine_ttft_us.map(|us| double(us as f64 / 1e6)));
        all.extend(self.provider(&self.trace.provider));
        all.extend(self.engine_attributes());
        all
    }

    fn call_events(&self) -> Vec<Event> {
        let record = self.record;
        let first = record.marks_us.first_token.and_then(|mark| mark.arrival);
        let mut events: Vec<Event> = first
            .map(|us| event("llm_lens.first_token", self.after(us), vec![]))
            .into_iter()
            .collect();
        events.extend(self.trace.stall_times.iter().map(|stall| {
            let took = pair("llm_lens.duration", double(stall.us as f64 / 1e6));
            event("llm_lens.stall", self.after(stall.at_us), vec![took])
        }));
        events.extend(record.routing.resumes.iter().map(|resume| {
            let attributes = vec![
                pair("llm_lens.backend", text(&*resume.backend)),
                pair("llm_lens.after_tokens", int(resume.after_tokens)),
            ];
            event("llm_lens.resume", self.after(resume.at_us), attributes)
        }));
        events.sort_by_key(|event| event.time_unix_nano);
        events
    }
}
