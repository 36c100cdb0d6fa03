//! The Prometheus text, made from the same histograms that everything else reads.
//!
//! - *In*: merged series.
//! - *Out*: families in the text format, with the bucket boundaries of the OpenTelemetry GenAI conventions and finer ones
//!   below 10 ms.
//! - *Never*: a second count of the same thing. Buckets are read off the exponential histograms of series on each scrape, so a bucket's
//!   edge is exact to 2.2 %, and sums and counts are exact.

mod bounds;
mod family;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use lens::observe::Sample;
use lens::record::Outcome;
use lens::{FilterSeries, Series, State, Timing};
use prometheus::Encoder;

use crate::audit::AuditLine;
use crate::gauges::Gauges;
use crate::group::{Group, GroupId, Groups};
use crate::recent::Recent;
use crate::sink::Pump;
use bounds::{BYTES, CLIENT_SECONDS, SERVER_TPOT_SECONDS, SERVER_TTFT_SECONDS, TOKENS};
use family::Families;

/// The content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

type Merged = HashMap<(GroupId, u16, Outcome), Series>;

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

pub(crate) fn render(
    series: &Merged,
    groups: &Groups,
    gauges: &Gauges,
    (recent, audit, pump): (&Recent, Option<&Pump<AuditLine>>, &Pump),
    more: Vec<Sample>,
) -> String {
    let mut out = Families::default();
    // Groups differ in more than what a family names, and a sample may stand there once: series meet under their labels.
    let [mut outcomes, mut errors, mut inference, mut all] = [const { BTreeMap::<Labels, Series>::new() }; 4];
    for ((id, model, outcome), one) in series {
        let Some(group) = groups.group(*id) else { continue };
        let model = group.model_label(*model);
        let labels = place_and_model(&group, model);
        outcomes.entry(with(&labels, "outcome", outcome.name())).or_default().merge(one);
        all.entry(labels).or_default().merge(one);
        if !group.operation.is_empty() {
            let labels = gen_ai_labels(&group, model);
            let error = if *outcome == Outcome::Ok { "" } else { outcome.name() };
            errors.entry(with(&labels, "error_type", error)).or_default().merge(one);
            inference.entry(labels).or_default().merge(one);
        }
    }
    outcomes.into_iter().for_each(|(labels, one)| out.counter("llm_lens_requests_total", labels, one.requests()));
    errors.iter().for_each(|(labels, one)| durations(&mut out, labels, one));
    inference.iter().for_each(|(labels, one)| gen_ai(&mut out, labels, one));
    all.iter().for_each(|(labels, one)| ours(&mut out, labels, one));
    of_groups(&mut out, groups);
    of_process(&mut out, gauges, recent, audit);
    of_sinks(&mut out, pump);
    for Sample { name, labels, value } in more {
        if name.ends_with("_total") {
            out.counter(name, labels, value as u64);
        } else {
            out.gauge(name, labels, value);
        }
    }
    let mut text = Vec::new();
    match prometheus::TextEncoder::new().encode(&out.finish(), &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(e) => format!("# encoding failed: {e}\n"),
    }
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

fn place(group: &Group) -> Labels {
    vec![("route", group.route.to_string()), ("backend", group.backend.to_string())]
}

fn place_and_model(group: &Group, model: &str) -> Labels {
    with(&place(group), "gen_ai_request_model", model)
}

fn gen_ai_labels(group: &Group, model: &str) -> Labels {
    let mut labels = place(group);
    labels.push(("gen_ai_operation_name", group.operation.to_owned()));
    labels.push(("gen_ai_provider_name", group.provider.to_string()));
    labels.push(("gen_ai_request_model", model.to_owned()));
    labels
}

fn durations(out: &mut Families, labels: &Labels, s: &Series) {
    out.histogram("gen_ai_client_operation_duration_seconds", labels.clone(), s.timing(Timing::Engine), CLIENT_SECONDS);
    out.histogram("gen_ai_server_request_duration_seconds", labels.clone(), s.timing(Timing::Engine), CLIENT_SECONDS);
}

fn gen_ai(out: &mut Families, labels: &Labels, s: &Series) {
    for (name, timing, bounds) in [
        ("gen_ai_client_operation_time_to_first_chunk_seconds", Timing::FirstEvent, CLIENT_SECONDS),
        ("gen_ai_client_operation_time_per_output_chunk_seconds", Timing::Itl, CLIENT_SECONDS),
        ("gen_ai_server_time_to_first_token_seconds", Timing::EngineTtft, SERVER_TTFT_SECONDS),
        ("gen_ai_server_time_per_output_token_seconds", Timing::Tpot, SERVER_TPOT_SECONDS),
    ] {
        out.histogram(name, labels.clone(), s.timing(timing), bounds);
    }
    for (kind, tokens) in [("input", &s.input_tokens), ("output", &s.output_tokens)] {
        let labels = with(labels, "gen_ai_token_type", kind);
        out.histogram("gen_ai_client_token_usage", labels, tokens.as_deref(), TOKENS);
    }
}

fn ours(out: &mut Families, labels: &Labels, s: &Series) {
    for (name, timing) in [
        ("llm_lens_request_duration_seconds", Timing::Total),
        ("llm_lens_client_ttft_seconds", Timing::ClientTtft),
        ("llm_lens_inter_token_seconds", Timing::Itl),
        ("llm_lens_client_inter_token_seconds", Timing::ClientItl),
        ("llm_lens_queue_seconds", Timing::Queue),
        ("llm_lens_gateway_seconds", Timing::Gateway),
    ] {
        out.histogram(name, labels.clone(), s.timing(timing), CLIENT_SECONDS);
    }
    for mark in [Timing::FirstByte, Timing::FirstEvent, Timing::Role, Timing::Reasoning, Timing::Content, Timing::ToolCall] {
        let labels = with(labels, "mark", mark.name());
        out.histogram("llm_lens_mark_seconds", labels, s.timing(mark), SERVER_TTFT_SECONDS);
    }
    for (state, micros) in State::ALL.into_iter().zip(s.ledger_us) {
        let labels = with(labels, "state", state.name());
        out.seconds("llm_lens_ledger_seconds_total", labels, micros);
    }
    for (direction, findings) in [("input", &s.found_in), ("output", &s.found_out)] {
        for (rule, count) in findings {
            let labels = with(&with(labels, "direction", direction), "rule", rule);
            out.counter("llm_lens_shield_findings_total", labels, *count);
        }
    }
    guards(out, labels, s);
    for (name, value) in [
        ("llm_lens_events_total", s.events),
        ("llm_lens_content_events_total", s.content_events),
        ("llm_lens_comments_total", s.comments),
        ("llm_lens_coalesced_events_total", s.coalesced),
        ("llm_lens_stalls_total", s.stalls),
        ("llm_lens_estimated_tokens_total", s.estimated_tokens),
        ("llm_lens_not_parsed_total", s.not_parsed),
        ("llm_lens_client_received_bytes_total", s.bytes_from_client),
        ("llm_lens_client_sent_bytes_total", s.bytes_to_client),
    ] {
        out.counter(name, labels.clone(), value);
    }
}

/// What guards did and cost.
fn guards(out: &mut Families, labels: &Labels, s: &Series) {
    for phase in [Timing::Validation, Timing::ThreatDetection, Timing::OutputFiltering, Timing::Hold, Timing::Security] {
        let labels = with(labels, "phase", if phase == Timing::Security { "total" } else { phase.name() });
        out.histogram("llm_lens_shield_overhead_seconds", labels, s.timing(phase), CLIENT_SECONDS);
    }
    for (name, timing) in [
        ("llm_lens_shield_added_ttft_seconds", Timing::AddedTtft),
        ("llm_lens_shield_ttft_without_seconds", Timing::TtftWithoutGuard),
        ("llm_lens_shield_event_hold_seconds", Timing::EventHold),
    ] {
        out.histogram(name, labels.clone(), s.timing(timing), CLIENT_SECONDS);
    }
    out.histogram("llm_lens_shield_held_bytes", labels.clone(), s.held_bytes.as_deref(), BYTES);
    for ((filter, side), series) in &s.filters {
        let labels = with(&with(labels, "filter", filter), "side", side);
        for (part, micros) in FilterSeries::PARTS.iter().zip(&series.parts) {
            let labels = with(&labels, "part", part);
            out.histogram("llm_lens_shield_filter_seconds", labels, Some(micros), CLIENT_SECONDS);
        }
        out.counter("llm_lens_shield_questions_total", labels.clone(), series.calls);
        for (verdict, count) in &series.verdicts {
            let labels = with(&labels, "verdict", verdict);
            out.counter("llm_lens_shield_verdicts_total", labels, *count);
        }
        for (failure, count) in &series.failures {
            let labels = with(&labels, "failure", failure);
            out.counter("llm_lens_shield_failures_total", labels, *count);
        }
    }
}

fn of_groups(out: &mut Families, groups: &Groups) {
    let mut info = BTreeMap::new();
    let mut now: BTreeMap<Labels, (i64, i64)> = BTreeMap::new();
    for (group, in_flight) in groups.all() {
        let (requests, ring_bytes) = now.entry(with(&place(&group), "gen_ai_operation_name", group.operation)).or_default();
        *requests += in_flight.requests.load(Ordering::Relaxed);
        *ring_bytes += in_flight.ring_bytes.load(Ordering::Relaxed);
        info.insert((group.route.clone(), group.backend.clone()), group);
    }
    for (labels, (requests, ring_bytes)) in now {
        out.gauge("llm_lens_in_flight_requests", labels.clone(), requests as f64);
        out.gauge("llm_lens_ring_bytes", labels, ring_bytes as f64);
    }
    for group in info.values() {
        out.info("llm_lens_route_info", place(group), &group.labels, &group.server);
    }
}

fn of_sinks(out: &mut Families, pump: &Pump) {
    for counts in pump.counts() {
        let labels = vec![("sink", counts.name.to_owned())];
        out.counter("llm_lens_sink_records_total", labels.clone(), counts.delivered());
        out.counter("llm_lens_sink_dropped_records_total", labels, counts.dropped());
    }
    out.counter("llm_lens_sink_queue_dropped_records_total", Vec::new(), pump.dropped());
}

fn of_process(out: &mut Families, gauges: &Gauges, recent: &Recent, audit: Option<&Pump<AuditLine>>) {
    let load = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    let log = audit.into_iter().flat_map(Pump::counts);
    let (written, lost) = log.fold((0, 0), |(written, lost), counts| (written + counts.delivered(), lost + counts.dropped()));
    out.gauge("llm_lens_client_connections", Vec::new(), gauges.connections.load(Ordering::Relaxed) as f64);
    for (name, value) in [
        ("llm_lens_bad_heads_total", load(&gauges.bad_heads)),
        ("llm_lens_panics_total", load(&gauges.panics)),
        ("llm_lens_reloads_total", load(&gauges.reloads)),
        ("llm_lens_reload_failures_total", load(&gauges.reload_failures)),
        ("llm_lens_records_dropped_total", recent.dropped()),
        ("llm_lens_audit_lines_total", written),
        ("llm_lens_audit_lines_dropped_total", lost + audit.map_or(0, Pump::dropped)),
    ] {
        out.counter(name, Vec::new(), value);
    }
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    out.gauge("llm_lens_build_info", version, 1.0);
}
