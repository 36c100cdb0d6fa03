//! Every metric: its name, kind, unit, labels and help. Exporters walk this table; what is not in it cannot be exported.
//!
//! - *In*: nothing; it is data.
//! - *Out*: rows for Prometheus, for `docs/metrics.md`, and for any other exporter.
//! - *Never*: a label whose values a client chooses.
//!
//! Longer than 500 lines, because it is one table.

mod bounds;

use bounds::{BYTES, CLIENT_SECONDS, SERVER_TPOT_SECONDS, SERVER_TTFT_SECONDS, TOKENS};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds. Series keep microseconds.
    Seconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
    /// A count, a ratio or a flag.
    One,
}

/// A row of the catalog.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name, with the unit or `_total` at the end.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its values count.
    pub unit: Unit,
    /// The labels that a sample may have; `*` stands for labels of the settings.
    pub labels: &'static [&'static str],
    /// What is counted, in a sentence.
    pub help: &'static str,
    /// The upper bounds of a histogram's classic buckets, in its unit, without the infinite one. Empty for other kinds.
    pub bounds: &'static [f64],
}

/// All metrics, by name.
pub const CATALOG: &[Metric] = &[
    histogram(
        "gen_ai_client_operation_duration_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
        "The gateway's call to the engine: request sent to end of answer.",
    ),
    histogram(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"],
        "Gap between two events with generated text, on arrival.",
    ),
    histogram(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"],
        "Request sent to the first complete event of a stream, of any kind.",
    ),
    histogram(
        "gen_ai_client_token_usage",
        Unit::Tokens,
        TOKENS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"],
        "Tokens of a request as the engine stated them.",
    ),
    histogram(
        "gen_ai_server_request_duration_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
        "The engine's time for a request, as seen on the upstream leg.",
    ),
    histogram(
        "gen_ai_server_time_per_output_token_seconds",
        Unit::Seconds,
        SERVER_TPOT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"],
        "Time for each output token after the first event, one value a request.",
    ),
    histogram(
        "gen_ai_server_time_to_first_token_seconds",
        Unit::Seconds,
        SERVER_TTFT_SECONDS,
        &["route", "backend", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"],
        "Request sent to the first generated text of any kind.",
    ),
    metric("llm_lens_admission_cap", Kind::Gauge, Unit::One, &["backend"], "Maximum concurrent requests to the backend; 0 is no maximum."),
    metric("llm_lens_admitted_in_flight", Kind::Gauge, Unit::One, &["backend"], "Requests that hold an admission permit of the backend."),
    metric(
        "llm_lens_admitted_requests_total",
        Kind::Counter,
        Unit::One,
        &["backend"],
        "Requests that got an admission permit of the backend.",
    ),
    metric(
        "llm_lens_admitted_tokens",
        Kind::Gauge,
        Unit::Tokens,
        &["backend"],
        "Estimated tokens, prompt and output, of the requests that hold a permit.",
    ),
    metric(
        "llm_lens_audit_lines_dropped_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Lines of the audit log that were lost because its queue or the disk was full.",
    ),
    metric("llm_lens_audit_lines_total", Kind::Counter, Unit::One, &[], "Lines written to the audit log."),
    metric("llm_lens_backend_attempts_total", Kind::Counter, Unit::One, &["pool", "backend"], "Attempts sent to the backend."),
    metric("llm_lens_backend_ejections_total", Kind::Counter, Unit::One, &["pool", "backend"], "Ejections of the backend."),
    metric("llm_lens_backend_failures_total", Kind::Counter, Unit::One, &["pool", "backend"], "Failed attempts of the backend."),
    metric("llm_lens_backend_in_flight", Kind::Gauge, Unit::One, &["pool", "backend"], "Requests at the backend."),
    metric(
        "llm_lens_backend_state",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend", "state"],
        "State of the backend: 1 for the state that holds, 0 for the others.",
    ),
    metric(
        "llm_lens_backend_tokens_in_flight",
        Kind::Gauge,
        Unit::Tokens,
        &["pool", "backend"],
        "Estimated tokens of the requests at the backend.",
    ),
    metric("llm_lens_bad_heads_total", Kind::Counter, Unit::One, &[], "Requests refused because of their head alone."),
    metric("llm_lens_build_info", Kind::Gauge, Unit::One, &["version"], "The version that runs; always 1."),
    metric(
        "llm_lens_candidate_rolled_back",
        Kind::Gauge,
        Unit::One,
        &["route"],
        "Whether the candidate was rolled back because it was worse: 1 or 0.",
    ),
    metric(
        "llm_lens_candidate_share",
        Kind::Gauge,
        Unit::One,
        &["route"],
        "Share of the route's requests that the candidate gets, 0 to 1.",
    ),
    metric("llm_lens_client_connections", Kind::Gauge, Unit::One, &[], "Open connections of clients."),
    histogram(
        "llm_lens_client_inter_token_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Gap between two events with generated text, when the client took the bytes.",
    ),
    metric(
        "llm_lens_client_received_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        &["route", "backend", "gen_ai_request_model"],
        "Bytes of requests.",
    ),
    metric(
        "llm_lens_client_sent_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        &["route", "backend", "gen_ai_request_model"],
        "Body bytes of answers that clients took.",
    ),
    histogram(
        "llm_lens_client_ttft_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Request head read to the first generated text taken by the client.",
    ),
    metric(
        "llm_lens_coalesced_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events with generated text that came in the same read as one before them.",
    ),
    metric("llm_lens_comments_total", Kind::Counter, Unit::One, &["route", "backend", "gen_ai_request_model"], "Comment lines of answers."),
    metric(
        "llm_lens_content_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events with generated text.",
    ),
    metric(
        "llm_lens_continuations_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Backends that were asked to resume the stream of another.",
    ),
    metric(
        "llm_lens_engine_cache_ratio",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend"],
        "Share of its key-value cache that the engine reports in use, 0 to 1.",
    ),
    metric("llm_lens_engine_running", Kind::Gauge, Unit::One, &["pool", "backend"], "Requests that the engine reports running."),
    metric("llm_lens_engine_waiting", Kind::Gauge, Unit::One, &["pool", "backend"], "Requests that the engine reports waiting."),
    metric(
        "llm_lens_estimated_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &["route", "backend", "gen_ai_request_model"],
        "Generated tokens that no engine stated.",
    ),
    metric(
        "llm_lens_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events of answers, end marks included.",
    ),
    metric("llm_lens_fallbacks_total", Kind::Counter, Unit::One, &["route"], "Requests that went to a pool behind their own."),
    histogram(
        "llm_lens_gateway_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "The gateway's own work for a request, without any wait.",
    ),
    metric(
        "llm_lens_hedged_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &["pool", "tier"],
        "Estimated prompt tokens of second backends that lost.",
    ),
    metric(
        "llm_lens_hedges_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Second backends that were asked because the first was late.",
    ),
    metric("llm_lens_hedges_won_total", Kind::Counter, Unit::One, &["pool", "tier"], "Second backends that answered first."),
    metric(
        "llm_lens_in_flight_requests",
        Kind::Gauge,
        Unit::One,
        &["route", "backend", "gen_ai_operation_name"],
        "Requests that have not ended.",
    ),
    histogram(
        "llm_lens_inter_token_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Gap between two events with generated text, on arrival.",
    ),
    metric(
        "llm_lens_ledger_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &["route", "backend", "gen_ai_request_model", "state"],
        "Time of all requests in each state of the ledger.",
    ),
    metric("llm_lens_limit_accounts", Kind::Gauge, Unit::One, &["limit", "of"], "Accounts that the limit keeps."),
    metric(
        "llm_lens_limit_warnings_total",
        Kind::Counter,
        Unit::One,
        &["limit", "of"],
        "Answers that warned that the limit is nearly reached.",
    ),
    metric("llm_lens_limited_requests_total", Kind::Counter, Unit::One, &["limit", "of"], "Requests that the limit refused."),
    metric("llm_lens_limited_streams_total", Kind::Counter, Unit::One, &["limit", "of"], "Streams that the limit ended."),
    histogram(
        "llm_lens_mark_seconds",
        Unit::Seconds,
        SERVER_TTFT_SECONDS,
        &["route", "backend", "gen_ai_request_model", "mark"],
        "Request sent to the first event of its kind, on arrival.",
    ),
    metric(
        "llm_lens_mirrored_first_tokens_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Mirrored requests whose answer had a first token.",
    ),
    metric("llm_lens_mirrored_requests_total", Kind::Counter, Unit::One, &["route", "ended"], "Mirrored requests, by how they ended."),
    metric(
        "llm_lens_mirrored_ttft_microseconds_total",
        Kind::Counter,
        Unit::Microseconds,
        &["route"],
        "Sum of the times to first token of mirrored requests.",
    ),
    metric(
        "llm_lens_not_parsed_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Answers that could not be read, or not to the end.",
    ),
    metric(
        "llm_lens_offload_decisions_total",
        Kind::Counter,
        Unit::One,
        &["route", "decision"],
        "Requests by the decision between edge and cloud.",
    ),
    metric("llm_lens_panics_total", Kind::Counter, Unit::One, &[], "Panics that ended one request each."),
    metric(
        "llm_lens_prediction_error_ratio",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend", "of"],
        "Median relative error of predicted times to the first and to the last token, of the last 128.",
    ),
    metric(
        "llm_lens_prefix_block_hits_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Prompt blocks that the chosen backend had been sent before.",
    ),
    metric("llm_lens_prefix_blocks_total", Kind::Counter, Unit::One, &["pool", "tier"], "Prompt blocks that were looked up."),
    metric("llm_lens_queue_depth", Kind::Gauge, Unit::One, &["backend"], "Requests that wait for an admission permit of the backend."),
    histogram(
        "llm_lens_queue_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Wait for limits and admission, of requests that waited.",
    ),
    metric("llm_lens_queued_requests_total", Kind::Counter, Unit::One, &["backend"], "Admitted requests that had waited."),
    metric("llm_lens_records_dropped_total", Kind::Counter, Unit::One, &[], "Records that fell out of the list of recent ones."),
    metric("llm_lens_refused_addresses_total", Kind::Counter, Unit::One, &[], "Requests refused because their address sent too many."),
    metric("llm_lens_refused_connections_total", Kind::Counter, Unit::One, &[], "Connections refused because there were too many."),
    metric("llm_lens_reload_failures_total", Kind::Counter, Unit::One, &[], "Changes of settings that were refused."),
    metric("llm_lens_reloads_total", Kind::Counter, Unit::One, &[], "Changes of settings that took effect."),
    histogram(
        "llm_lens_request_duration_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "First byte of the request to the end of the exchange.",
    ),
    metric(
        "llm_lens_requests_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "outcome"],
        "Requests that ended, by outcome.",
    ),
    metric(
        "llm_lens_retries_denied_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Failures that were not retried because the retry budget was used up.",
    ),
    metric("llm_lens_retries_total", Kind::Counter, Unit::One, &["route"], "Attempts after another had failed before its first token."),
    metric(
        "llm_lens_ring_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &["route", "backend", "gen_ai_operation_name"],
        "Bytes read from backends that clients have not taken yet.",
    ),
    metric(
        "llm_lens_route_info",
        Kind::Gauge,
        Unit::One,
        &["route", "backend", "server_address", "*"],
        "Labels of the route's settings, and the address of its backend; always 1.",
    ),
    metric("llm_lens_shed_requests_total", Kind::Counter, Unit::One, &["backend", "reason"], "Requests that admission refused, by reason."),
    histogram(
        "llm_lens_shield_added_ttft_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "The guardrail's time before the client had the first token.",
    ),
    histogram(
        "llm_lens_shield_event_hold_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Arrival to release of an event that the guardrail held.",
    ),
    metric(
        "llm_lens_shield_failures_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "failure"],
        "Requests that a filter could not judge, by reason.",
    ),
    histogram(
        "llm_lens_shield_filter_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "part"],
        "Time of a filter in a request: on a thread, waiting for a thread, on another server, and in all.",
    ),
    metric(
        "llm_lens_shield_findings_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "direction", "rule"],
        "Findings of guardrails, by rule.",
    ),
    histogram(
        "llm_lens_shield_held_bytes",
        Unit::Bytes,
        BYTES,
        &["route", "backend", "gen_ai_request_model"],
        "Most bytes of events held at a time, one value a request.",
    ),
    histogram(
        "llm_lens_shield_overhead_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model", "phase"],
        "The guardrail's time in a request, by phase.",
    ),
    metric(
        "llm_lens_shield_questions_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side"],
        "Calls of filters.",
    ),
    histogram(
        "llm_lens_shield_ttft_without_seconds",
        Unit::Seconds,
        CLIENT_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Client TTFT less the guardrail's time in it.",
    ),
    metric(
        "llm_lens_shield_verdicts_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "verdict"],
        "Requests by the verdict of a filter.",
    ),
    metric("llm_lens_sink_dropped_records_total", Kind::Counter, Unit::One, &["sink"], "Records that a sink lost: its write failed."),
    metric(
        "llm_lens_sink_queue_dropped_records_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Records that no sink got because the queue of their worker was full.",
    ),
    metric("llm_lens_sink_records_total", Kind::Counter, Unit::One, &["sink"], "Records that a sink took."),
    metric(
        "llm_lens_stalls_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Gaps between generated text over the route's threshold.",
    ),
    metric("llm_lens_store_answers_total", Kind::Counter, Unit::One, &[], "Calls that the store of shared limits answered."),
    metric("llm_lens_store_failures_total", Kind::Counter, Unit::One, &[], "Calls that the store of shared limits did not answer."),
    metric(
        "llm_lens_store_fallbacks_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests that were decided without the store of shared limits.",
    ),
    metric("llm_lens_store_up", Kind::Gauge, Unit::One, &[], "Whether the store of shared limits is connected: 1 or 0."),
    metric(
        "llm_lens_version_requests",
        Kind::Gauge,
        Unit::One,
        &["route", "version", "ended"],
        "Requests of a version since the candidate's share was set.",
    ),
];

const fn metric(name: &'static str, kind: Kind, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, unit, labels, help, bounds: &[] }
}

const fn histogram(name: &'static str, unit: Unit, bounds: &'static [f64], labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit, labels, help, bounds }
}

/// The metric of that name.
pub fn find(name: &str) -> Option<&'static Metric> {
    CATALOG.binary_search_by(|metric| metric.name.cmp(name)).ok().and_then(|at| CATALOG.get(at))
}

/// The catalog as the table of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut out = String::from("| metric | kind | unit | labels | what |\n|---|---|---|---|---|\n");
    for Metric { name, kind, unit, labels, help, .. } in CATALOG {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match unit {
            Unit::Seconds => "s",
            Unit::Microseconds => "us",
            Unit::Bytes => "bytes",
            Unit::Tokens => "tokens",
            Unit::One => "",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        out.push_str(&format!("| `{name}` | {kind} | {unit} | {} | {help} |\n", labels.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_named_by_their_kind() {
        assert!(CATALOG.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, each once");
        for Metric { name, kind, unit, labels, help, bounds } in CATALOG {
            assert!(bounds.is_sorted() && bounds.is_empty() == (*kind != Kind::Histogram), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(*unit != Unit::Seconds || name.contains("_seconds"), "{name}");
            assert!(help.ends_with('.') && help.len() > 10 && !help.contains('|'), "{name}: {help}");
            let mut known = labels.to_vec();
            known.sort_unstable();
            known.dedup();
            assert_eq!(known.len(), labels.len(), "{name}");
            assert_eq!(find(name).map(|metric| metric.name), Some(*name));
        }
        assert_eq!(find("llm_lens_nothing"), None);
    }
}
