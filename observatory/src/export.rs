//! The walk over all series, gauges and samples, and the interface of the formats they are exported
//! in.
//!
//! - *In*: series, gauges, and samples of other components.
//! - *Out*: each metric of the catalog with its labels, to a [`MetricWriter`].
//! - *Never*: a second count of the same thing, or a metric that a format computes on its own.

mod prometheus;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use lens::observe::Sample;
use lens::record::Outcome;
use lens::{FilterSeries, FinishReason, Histogram, Record, Series, State, Timing};

use crate::SeriesMap;
use crate::audit::AuditLine;
use crate::exemplars::{Exemplars, TracedRecords};
use crate::gauges::{DROPPED_LOG_LINES, Gauges};
use crate::group::{Group, Groups, SeriesKey};
use crate::recent::Recent;
use crate::sink::Pump;
use crate::sink_counts::Circuit;
use prometheus::Families;
pub use prometheus::Format;

/// Receives all metrics, and encodes them in a format.
pub trait MetricWriter {
    /// Labels in the form of the format. Two sets are equal if their names and values are.
    type Labels: Clone + Ord;

    /// No labels.
    fn no_labels(&self) -> Self::Labels;

    /// The same labels and one more. `name` is a label of the catalog.
    fn with(&self, labels: &Self::Labels, name: &str, value: &str) -> Self::Labels;

    /// A counter or a gauge; the catalog defines which.
    fn number(&mut self, name: &'static str, labels: &Self::Labels, value: f64);

    /// A histogram; `None`: it has no values.
    fn histogram<const PER_UNIT: u64>(
        &mut self,
        name: &'static str,
        labels: &Self::Labels,
        values: Option<&Histogram<PER_UNIT>>,
        exemplars: Exemplars<'_>,
    );

    /// The writer takes exemplars of requests that ended after this time, in Unix microseconds.
    /// `None`: it takes none.
    fn exemplars_since(&self) -> Option<u64> {
        None
    }

    /// The labels of GenAI metrics.
    fn inference_labels(&self, group: &Group, model: &str) -> Self::Labels {
        self.labels([
            ("route", &group.route),
            ("backend", &group.backend),
            ("gen_ai_operation_name", group.operation),
            ("gen_ai_provider_name", &group.provider),
            ("gen_ai_request_model", model),
        ])
    }

    /// Labels of these names and values.
    fn labels<const N: usize>(&self, pairs: [(&str, &str); N]) -> Self::Labels {
        let add = |labels, (name, value)| self.with(&labels, name, value);
        pairs.into_iter().fold(self.no_labels(), add)
    }

    /// A counter.
    fn counter(&mut self, name: &'static str, labels: &Self::Labels, value: u64) {
        self.number(name, labels, value as f64);
    }

    /// A counter of microseconds, exported in seconds.
    fn seconds(&mut self, name: &'static str, labels: &Self::Labels, micros: u64) {
        self.number(name, labels, micros as f64 / 1e6);
    }
}

/// What the metrics of an observatory are made from.
pub(crate) struct Sources<'a> {
    pub(crate) series: &'a SeriesMap<SeriesKey, Series>,
    pub(crate) traced: TracedRecords,
    pub(crate) groups: &'a Groups,
    pub(crate) gauges: &'a Gauges,
    pub(crate) recent: &'a Recent,
    pub(crate) audit: Option<&'a Pump<AuditLine>>,
    pub(crate) pump: &'a Pump,
}

/// Write all metrics, and the samples of other components.
pub(crate) fn write<W: MetricWriter>(out: &mut W, sources: &Sources<'_>, more: Vec<Sample>) {
    of_series(out, sources);
    of_groups(out, sources.groups);
    of_process(out, sources.gauges, sources.recent, sources.audit);
    of_sinks(out, sources.pump);
    for Sample { name, labels, value } in more {
        let labels =
            labels.iter().fold(out.no_labels(), |all, (name, value)| out.with(&all, name, value));
        out.number(name, &labels, value);
    }
}

/// The Prometheus exposition, in parts to send in order.
pub(crate) fn prometheus(format: Format, sources: &Sources<'_>, more: Vec<Sample>) -> Vec<Vec<u8>> {
    let mut out = Families::new(format);
    write(&mut out, sources, more);
    out.finish()
}

/// Series that share their labels, and the requests among them that have traces.
#[derive(Default)]
struct Members<'a> {
    series: Vec<&'a Series>,
    traced: Vec<&'a Record>,
}

type MembersByLabels<'a, L> = BTreeMap<L, Members<'a>>;

/// Several groups can have the same labels in a family, and a family must not repeat a label set:
/// their series are merged.
fn of_series<W: MetricWriter>(out: &mut W, sources: &Sources<'_>) {
    let [mut errors, mut inference, mut all] = [const { MembersByLabels::<W::Labels>::new() }; 3];
    let mut outcomes: BTreeMap<W::Labels, u64> = BTreeMap::new();
    for (SeriesKey { group, model, outcome }, one) in sources.series {
        let Some(group) = sources.groups.group(*group) else { continue };
        let traced: Vec<&Record> = sources.traced.of(&group, *model, *outcome).collect();
        let model = group.model_label(*model);
        let labels = out.with(&place(out, &group), "gen_ai_request_model", model);
        *outcomes.entry(out.with(&labels, "outcome", outcome.name())).or_default() +=
            one.requests();
        all.entry(labels).or_default().add(one, &traced);
        if !group.operation.is_empty() {
            let labels = out.inference_labels(&group, model);
            let error = if *outcome == Outcome::Ok { "" } else { outcome.name() };
            errors.entry(out.with(&labels, "error_type", error)).or_default().add(one, &traced);
            inference.entry(labels).or_default().add(one, &traced);
        }
    }
    for (labels, requests) in &outcomes {
        out.counter("llm_lens_requests_total", labels, *requests);
    }
    errors.iter().for_each(|(labels, members)| durations(out, labels, &members.merged()));
    inference.iter().for_each(|(labels, members)| gen_ai(out, labels, &members.merged()));
    all.iter().for_each(|(labels, members)| gateway_metrics(out, labels, &members.merged()));
}

impl<'a> Members<'a> {
    fn add(&mut self, series: &'a Series, traced: &[&'a Record]) {
        self.series.push(series);
        self.traced.extend(traced);
    }

    /// A single series, the usual case, is borrowed.
    fn merged(&self) -> MergedSeries<'_> {
        let series = match &*self.series {
            [one] => Cow::Borrowed(*one),
            several => Cow::Owned(several.iter().fold(Series::default(), |mut sum, one| {
                sum.merge(one);
                sum
            })),
        };
        MergedSeries { series, traced: &self.traced }
    }
}

/// One series for a set of labels, and its requests that have traces.
struct MergedSeries<'a> {
    series: Cow<'a, Series>,
    traced: &'a [&'a Record],
}

impl MergedSeries<'_> {
    fn write<W: MetricWriter>(
        &self,
        out: &mut W,
        name: &'static str,
        labels: &W::Labels,
        timing: Timing,
    ) {
        let exemplars = Exemplars::new(self.traced, timing);
        out.histogram(name, labels, self.series.timing(timing), exemplars);
    }
}

fn place<W: MetricWriter>(out: &W, group: &Group) -> W::Labels {
    out.labels([("route", &group.route), ("backend", &group.backend)])
}

fn durations<W: MetricWriter>(out: &mut W, labels: &W::Labels, merged: &MergedSeries<'_>) {
    merged.write(out, "gen_ai_client_operation_duration_seconds", labels, Timing::Engine);
    merged.write(out, "gen_ai_server_request_duration_seconds", labels, Timing::Engine);
}

fn gen_ai<W: MetricWriter>(out: &mut W, labels: &W::Labels, merged: &MergedSeries<'_>) {
    let s = &*merged.series;
    for (name, timing) in [
        ("gen_ai_client_operation_time_to_first_chunk_seconds", Timing::FirstEvent),
        ("gen_ai_client_operation_time_per_output_chunk_seconds", Timing::Itl),
        ("gen_ai_server_time_to_first_token_seconds", Timing::EngineTtft),
        ("gen_ai_server_time_per_output_token_seconds", Timing::Tpot),
    ] {
        merged.write(out, name, labels, timing);
    }
    for (kind, tokens) in [("input", &s.input_tokens), ("output", &s.output_tokens)] {
        let labels = out.with(labels, "gen_ai_token_type", kind);
        let none = Exemplars::default();
        out.histogram("gen_ai_client_token_usage", &labels, tokens.as_deref(), none);
    }
    for (name, tokens) in [
        ("llm_lens_cached_tokens_total", s.cached_tokens),
        ("llm_lens_cache_write_tokens_total", s.cache_write_tokens),
        ("llm_lens_reasoning_tokens_total", s.reasoning_tokens),
    ] {
        out.counter(name, labels, tokens);
    }
}

fn gateway_metrics<W: MetricWriter>(out: &mut W, labels: &W::Labels, merged: &MergedSeries<'_>) {
    let s = &*merged.series;
    for (name, timing) in [
        ("llm_lens_request_duration_seconds", Timing::Total),
        ("llm_lens_engine_duration_seconds", Timing::Engine),
        ("llm_lens_engine_ttft_seconds", Timing::EngineTtft),
        ("llm_lens_client_ttft_seconds", Timing::ClientTtft),
        ("llm_lens_inter_token_seconds", Timing::Itl),
        ("llm_lens_client_inter_token_seconds", Timing::ClientItl),
        ("llm_lens_queue_seconds", Timing::Queue),
        ("llm_lens_gateway_seconds", Timing::Gateway),
    ] {
        merged.write(out, name, labels, timing);
    }
    for (tokens, timing) in [("counted", Timing::Tpot), ("estimated", Timing::EstimatedTpot)] {
        let labels = out.with(labels, "tokens", tokens);
        merged.write(out, "llm_lens_time_per_output_token_seconds", &labels, timing);
    }
    engine_split(out, labels, merged);
    for mark in [
        Timing::FirstByte,
        Timing::FirstEvent,
        Timing::Role,
        Timing::Reasoning,
        Timing::Content,
        Timing::ToolCall,
    ] {
        let labels = out.with(labels, "mark", mark.name());
        merged.write(out, "llm_lens_mark_seconds", &labels, mark);
    }
    for (state, micros) in State::ALL.into_iter().zip(s.ledger_us) {
        let labels = out.with(labels, "state", state.name());
        out.seconds("llm_lens_ledger_seconds_total", &labels, micros);
    }
    for (reason, count) in FinishReason::ALL.into_iter().zip(s.finish_reasons) {
        let labels = out.with(labels, "finish_reason", reason.name());
        out.counter("llm_lens_finish_reasons_total", &labels, count);
    }
    for (direction, findings) in [("input", &s.found_in), ("output", &s.found_out)] {
        for (rule, count) in findings {
            let labels = out.with(&out.with(labels, "side", direction), "rule", rule);
            out.counter("llm_lens_guardrail_findings_total", &labels, *count);
        }
    }
    guards(out, labels, merged);
    for (name, value) in [
        ("llm_lens_service_failures_total", s.service_failures),
        ("llm_lens_events_total", s.events),
        ("llm_lens_content_events_total", s.content_events),
        ("llm_lens_comments_total", s.comments),
        ("llm_lens_coalesced_events_total", s.coalesced),
        ("llm_lens_stalls_total", s.stalls),
        ("llm_lens_engine_disagreements_total", s.engine_disagreements),
        ("llm_lens_estimated_tokens_total", s.estimated_tokens),
        ("llm_lens_not_parsed_total", s.not_parsed),
        ("llm_lens_client_received_bytes_total", s.bytes_from_client),
        ("llm_lens_client_sent_bytes_total", s.bytes_to_client),
    ] {
        out.counter(name, labels, value);
    }
}

/// The engine's own report on its time.
fn engine_split<W: MetricWriter>(out: &mut W, labels: &W::Labels, merged: &MergedSeries<'_>) {
    for (part, timing) in [
        ("queue", Timing::EngineQueue),
        ("prefill", Timing::EnginePrefill),
        ("decode", Timing::EngineDecode),
        ("unexplained", Timing::EngineUnexplained),
    ] {
        let labels = out.with(labels, "part", part);
        merged.write(out, "llm_lens_engine_split_seconds", &labels, timing);
    }
}

/// Timings, calls, verdicts and failures of guardrails.
fn guards<W: MetricWriter>(out: &mut W, labels: &W::Labels, merged: &MergedSeries<'_>) {
    let s = &*merged.series;
    for phase in [
        Timing::Validation,
        Timing::ThreatDetection,
        Timing::OutputFiltering,
        Timing::Hold,
        Timing::Guardrail,
    ] {
        let labels = out.with(
            labels,
            "phase",
            if phase == Timing::Guardrail { "total" } else { phase.name() },
        );
        merged.write(out, "llm_lens_guardrail_overhead_seconds", &labels, phase);
    }
    for (event, timing) in [("first", Timing::FirstEventDelay), ("last", Timing::LastEventDelay)] {
        let labels = out.with(labels, "event", event);
        merged.write(out, "llm_lens_guardrail_delay_seconds", &labels, timing);
    }
    for (name, timing) in [
        ("llm_lens_guardrail_added_ttft_seconds", Timing::AddedTtft),
        ("llm_lens_ttft_without_guardrail_seconds", Timing::TtftWithoutGuardrail),
        ("llm_lens_guardrail_event_hold_seconds", Timing::EventHold),
    ] {
        merged.write(out, name, labels, timing);
    }
    let none = Exemplars::default();
    out.histogram("llm_lens_guardrail_held_bytes", labels, s.held_bytes.as_deref(), none);
    for ((filter, side), series) in &s.filters {
        let labels = out.with(&out.with(labels, "filter", filter), "side", side);
        for (part, micros) in FilterSeries::PARTS.iter().zip(&series.parts) {
            let labels = out.with(&labels, "part", part);
            out.histogram("llm_lens_guardrail_filter_seconds", &labels, Some(micros), none);
        }
        out.counter("llm_lens_guardrail_calls_total", &labels, series.calls);
        for (verdict, count) in &series.verdicts {
            let labels = out.with(&labels, "verdict", verdict);
            out.counter("llm_lens_guardrail_verdicts_total", &labels, *count);
        }
        for (failure, count) in &series.failures {
            let labels = out.with(&labels, "failure", failure);
            out.counter("llm_lens_guardrail_failures_total", &labels, *count);
        }
    }
}

fn of_groups<W: MetricWriter>(out: &mut W, groups: &Groups) {
    let mut info = BTreeMap::new();
    let mut now: BTreeMap<W::Labels, (i64, i64)> = BTreeMap::new();
    for (group, in_flight) in groups.all() {
        let labels = out.with(&place(out, &group), "gen_ai_operation_name", group.operation);
        let (requests, ring_bytes) = now.entry(labels).or_default();
        *requests += in_flight.requests.load(Ordering::Relaxed);
        *ring_bytes += in_flight.ring_bytes.load(Ordering::Relaxed);
        info.insert((group.route.clone(), group.backend.clone()), group);
    }
    for (labels, (requests, ring_bytes)) in now {
        out.number("llm_lens_in_flight_requests", &labels, requests as f64);
        out.number("llm_lens_stream_buffer_bytes", &labels, ring_bytes as f64);
    }
    for group in info.values() {
        let labels = out.with(&place(out, group), "server_address", &group.server);
        let labels =
            group.labels.iter().fold(labels, |all, (name, value)| out.with(&all, name, value));
        out.number("llm_lens_route_info", &labels, 1.0);
    }
}

fn of_sinks<W: MetricWriter>(out: &mut W, pump: &Pump) {
    for counts in pump.counts() {
        let labels = out.labels([("sink", counts.name)]);
        out.counter("llm_lens_sink_records_total", &labels, counts.delivered());
        for (reason, count) in counts.dropped_by_reason() {
            let labels = out.with(&labels, "reason", reason.name());
            out.counter("llm_lens_sink_dropped_records_total", &labels, count);
        }
        let Some(delivery) = counts.delivery() else { continue };
        out.counter("llm_lens_sink_retries_total", &labels, delivery.retries());
        out.counter("llm_lens_sink_spill_failures_total", &labels, delivery.spill_failures());
        out.number("llm_lens_sink_queued_records", &labels, delivery.queued() as f64);
        out.number("llm_lens_sink_spilled_records", &labels, delivery.spilled() as f64);
        out.number("llm_lens_sink_spilled_bytes", &labels, delivery.spilled_bytes() as f64);
        for circuit in Circuit::ALL {
            let labels = out.with(&labels, "state", circuit.name());
            let holds = u8::from(circuit == delivery.circuit());
            out.number("llm_lens_sink_state", &labels, holds.into());
        }
    }
    let none = out.no_labels();
    out.counter("llm_lens_sink_queue_dropped_records_total", &none, pump.dropped());
}

fn of_process<W: MetricWriter>(
    out: &mut W,
    gauges: &Gauges,
    recent: &Recent,
    audit: Option<&Pump<AuditLine>>,
) {
    let none = out.no_labels();
    let load = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    let log = audit.into_iter().flat_map(Pump::counts);
    let (written, lost) = log.fold((0, 0), |(written, lost), counts| {
        (written + counts.delivered(), lost + counts.dropped())
    });
    out.number(
        "llm_lens_client_connections",
        &none,
        gauges.connections.load(Ordering::Relaxed) as f64,
    );
    out.number(
        "llm_lens_settings_stale_since_timestamp_seconds",
        &none,
        gauges.settings_stale_since() as f64 / 1e6,
    );
    for (name, value) in [
        ("llm_lens_log_lines_dropped_total", load(&DROPPED_LOG_LINES)),
        ("llm_lens_malformed_requests_total", load(&gauges.bad_heads)),
        ("llm_lens_panics_total", load(&gauges.panics)),
        ("llm_lens_reloads_total", load(&gauges.reloads)),
        ("llm_lens_reload_failures_total", load(&gauges.reload_failures)),
        ("llm_lens_records_dropped_total", recent.dropped()),
        ("llm_lens_usage_file_damaged_lines_total", load(&gauges.usage_lines_damaged)),
        ("llm_lens_usage_file_write_failures_total", load(&gauges.usage_write_failures)),
        ("llm_lens_audit_lines_total", written),
        ("llm_lens_audit_lines_dropped_total", lost + audit.map_or(0, Pump::dropped)),
    ] {
        out.counter(name, &none, value);
    }
    let version = out.labels([("version", env!("CARGO_PKG_VERSION"))]);
    out.number("llm_lens_build_info", &version, 1.0);
}
