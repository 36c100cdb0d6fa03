//! Every metric: its name, kind, unit, labels and help. Exporters iterate over this table; a metric
//! that is not in it is not exported.
//!
//! - *In*: nothing; it is data.
//! - *Out*: rows for Prometheus, for `docs/metrics.md`, and for any other exporter.
//! - *Never*: a label whose values a client chooses.
//!
//! Longer than 500 lines, because it is one table.

mod bounds;

use bounds::{
    BYTES, GEN_AI_SECONDS, GEN_AI_TPOT_SECONDS, GEN_AI_TTFT_SECONDS, LENS_SECONDS, TOKENS,
};

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds. Series keep microseconds.
    Seconds,
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
    /// Its kind.
    pub kind: Kind,
    /// Unit of its values.
    pub unit: Unit,
    /// The labels that a sample may have; `*` stands for labels of the settings.
    pub labels: &'static [&'static str],
    /// What is counted, in a sentence.
    pub help: &'static str,
    /// Upper bounds of a histogram's classic buckets, in its unit, without `+Inf`. Empty for other
    /// kinds.
    pub bounds: &'static [f64],
}

/// All metrics, by name.
pub const CATALOG: &[Metric] = &[
    histogram(
        "gen_ai_client_operation_duration_seconds",
        Unit::Seconds,
        GEN_AI_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
            "error_type",
        ],
        "Time from the request sent to the engine to the end of its answer.",
    ),
    histogram(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        Unit::Seconds,
        GEN_AI_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Gap between two events with generated text, as received from the backend.",
    ),
    histogram(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        Unit::Seconds,
        GEN_AI_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Time from the request sent to the first event of a stream, of any kind.",
    ),
    histogram(
        "gen_ai_client_token_usage",
        Unit::Tokens,
        TOKENS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
            "gen_ai_token_type",
        ],
        "Tokens of a request as reported by the engine.",
    ),
    histogram(
        "gen_ai_server_request_duration_seconds",
        Unit::Seconds,
        GEN_AI_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
            "error_type",
        ],
        "Time that the engine takes for a request, as observed by the gateway.",
    ),
    histogram(
        "gen_ai_server_time_per_output_token_seconds",
        Unit::Seconds,
        GEN_AI_TPOT_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Mean time per output token after the first event, one value per request whose tokens the engine counted.",
    ),
    histogram(
        "gen_ai_server_time_to_first_token_seconds",
        Unit::Seconds,
        GEN_AI_TTFT_SECONDS,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Time from the request sent to the first generated text of any kind.",
    ),
    metric(
        "llm_lens_admin_denied_requests_total",
        Kind::Counter,
        Unit::One,
        &["reason"],
        "Requests that the admin listener denied: without a token, with a wrong one, after too many attempts, with too low a role, or from a page of another origin.",
    ),
    metric(
        "llm_lens_admin_sessions",
        Kind::Gauge,
        Unit::One,
        &[],
        "Browsers that are signed in to the dashboard.",
    ),
    metric(
        "llm_lens_admission_limit",
        Kind::Gauge,
        Unit::One,
        &["backend"],
        "Maximum concurrent requests to the backend. 0 means no limit.",
    ),
    metric(
        "llm_lens_admitted_in_flight",
        Kind::Gauge,
        Unit::One,
        &["backend"],
        "Requests that hold an admission permit of the backend.",
    ),
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
        "Estimated tokens, prompt and output, of requests that the admission queue let through and that still run.",
    ),
    metric(
        "llm_lens_audit_lines_dropped_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Lines of the audit log that were lost because its queue or the disk was full.",
    ),
    metric(
        "llm_lens_audit_lines_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Lines written to the audit log.",
    ),
    metric(
        "llm_lens_audit_sequence",
        Kind::Gauge,
        Unit::One,
        &[],
        "Sequence number of the last line in the audit log's chain. A lower value than before means that lines were removed while no gateway ran.",
    ),
    metric(
        "llm_lens_backend_attempts_total",
        Kind::Counter,
        Unit::One,
        &["pool", "backend"],
        "Attempts sent to the backend.",
    ),
    metric(
        "llm_lens_backend_ejections_total",
        Kind::Counter,
        Unit::One,
        &["pool", "backend"],
        "Ejections of the backend.",
    ),
    metric(
        "llm_lens_backend_failures_total",
        Kind::Counter,
        Unit::One,
        &["pool", "backend"],
        "Failed attempts of the backend.",
    ),
    metric(
        "llm_lens_backend_in_flight",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend"],
        "Requests in flight at the backend.",
    ),
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
    metric(
        "llm_lens_buffered_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes of request bodies and queued answers in memory, over all clients.",
    ),
    metric(
        "llm_lens_build_info",
        Kind::Gauge,
        Unit::One,
        &["version"],
        "Version of the gateway; always 1.",
    ),
    metric(
        "llm_lens_cache_write_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Prompt tokens written to a cache, as reported by the engine.",
    ),
    metric(
        "llm_lens_cached_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Prompt tokens read from a cache, as reported by the engine.",
    ),
    metric(
        "llm_lens_canary_rolled_back",
        Kind::Gauge,
        Unit::One,
        &["route"],
        "Whether the canary was rolled back: 1 or 0.",
    ),
    metric(
        "llm_lens_canary_share",
        Kind::Gauge,
        Unit::One,
        &["route"],
        "Share of the route's requests that the canary gets, 0 to 1.",
    ),
    metric(
        "llm_lens_certificate_expiry_timestamp_seconds",
        Kind::Gauge,
        Unit::Seconds,
        &["listener"],
        "Unix time at which the first certificate of the listener's chain expires.",
    ),
    metric("llm_lens_client_connections", Kind::Gauge, Unit::One, &[], "Open client connections."),
    metric(
        "llm_lens_client_denied_connections_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Connections closed because of the allow or deny list of a listener or of the admin listener, or because of a PROXY header.",
    ),
    histogram(
        "llm_lens_client_inter_token_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Gap between two events with generated text, as written to the client.",
    ),
    metric(
        "llm_lens_client_limited_connections_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Connections refused by client limits.",
    ),
    metric(
        "llm_lens_client_limited_requests_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests refused by the client limit of their address.",
    ),
    metric(
        "llm_lens_client_received_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        &["route", "backend", "gen_ai_request_model"],
        "Bytes received from clients.",
    ),
    metric(
        "llm_lens_client_sent_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        &["route", "backend", "gen_ai_request_model"],
        "Body bytes of answers written to clients.",
    ),
    histogram(
        "llm_lens_client_ttft_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time from the request head read to the first generated text written to the client.",
    ),
    metric(
        "llm_lens_coalesced_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events with generated text that arrived in the same read as the one before.",
    ),
    metric(
        "llm_lens_comments_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Comment lines of streams.",
    ),
    metric(
        "llm_lens_content_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events with generated text.",
    ),
    metric(
        "llm_lens_contents_dropped_total",
        Kind::Counter,
        Unit::One,
        &["reason"],
        "Requests whose prompt and answer were not stored.",
    ),
    metric(
        "llm_lens_contents_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Failed attempts to write or to remove a file of prompts and answers.",
    ),
    metric(
        "llm_lens_contents_removed_files_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Files of prompts and answers removed because of their age or the size of the folder.",
    ),
    metric(
        "llm_lens_contents_size_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Size of the files of prompts and answers.",
    ),
    metric(
        "llm_lens_contents_stored_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests whose prompt and answer were stored.",
    ),
    metric(
        "llm_lens_descriptor_limited_requests_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests refused because as many need a connection to a backend as the limit of open files permits.",
    ),
    metric(
        "llm_lens_engine_cache_ratio",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend"],
        "Used share of the key-value cache, 0 to 1, as reported by the engine.",
    ),
    metric(
        "llm_lens_engine_disagreements_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Answers whose engine reported times that contradict the gateway's measurement.",
    ),
    histogram(
        "llm_lens_engine_duration_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time from the request sent to the engine to the end of its answer.",
    ),
    metric(
        "llm_lens_engine_running",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend"],
        "Running requests, as reported by the engine.",
    ),
    histogram(
        "llm_lens_engine_split_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "part"],
        "The engine's own report on its time, by part (queue, prefill, decode), and measured time that it does not explain (unexplained).",
    ),
    histogram(
        "llm_lens_engine_ttft_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time from the request sent to the engine to the first generated text received from it.",
    ),
    metric(
        "llm_lens_engine_waiting",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend"],
        "Waiting requests, as reported by the engine.",
    ),
    metric(
        "llm_lens_estimated_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &["route", "backend", "gen_ai_request_model"],
        "Generated tokens that were estimated because the engine reported no usage.",
    ),
    metric(
        "llm_lens_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Events of answers, end markers included.",
    ),
    metric(
        "llm_lens_fallbacks_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Requests that were sent to a fallback pool.",
    ),
    metric(
        "llm_lens_finish_reasons_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "finish_reason"],
        "Finish reasons of answers, one for each choice: stop, length, tool_calls, content_filter, other.",
    ),
    histogram(
        "llm_lens_gateway_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time of the gateway's own work for a request, without waits.",
    ),
    histogram(
        "llm_lens_guardrail_added_ttft_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "How much later the first token was sent because of the guardrail.",
    ),
    metric(
        "llm_lens_guardrail_calls_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side"],
        "Calls of a filter.",
    ),
    histogram(
        "llm_lens_guardrail_delay_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "event"],
        "How much later the first and the last event of an answer were sent because of the guardrail.",
    ),
    histogram(
        "llm_lens_guardrail_event_hold_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time an event was held by the guardrail.",
    ),
    metric(
        "llm_lens_guardrail_failures_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "failure"],
        "Requests in which a filter gave no verdict (timeout, error), by reason. Findings are counted elsewhere.",
    ),
    histogram(
        "llm_lens_guardrail_filter_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "part"],
        "Time of a filter in a request by `part`: cpu, queue, remote, and wall, which includes the others.",
    ),
    metric(
        "llm_lens_guardrail_findings_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "side", "rule"],
        "Findings of guardrails by rule.",
    ),
    histogram(
        "llm_lens_guardrail_held_bytes",
        Unit::Bytes,
        BYTES,
        &["route", "backend", "gen_ai_request_model"],
        "Maximum bytes of events held at a time, one value per request.",
    ),
    histogram(
        "llm_lens_guardrail_overhead_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "phase"],
        "Guardrail time of a request by phase. Most of it overlaps with the engine's time; see llm_lens_guardrail_delay_seconds.",
    ),
    metric(
        "llm_lens_guardrail_verdicts_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "filter", "side", "verdict"],
        "Requests by verdict of a filter.",
    ),
    metric(
        "llm_lens_hedged_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &["pool", "tier"],
        "Estimated prompt tokens of hedges that were canceled.",
    ),
    metric(
        "llm_lens_hedges_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Hedges sent because the first token was late.",
    ),
    metric(
        "llm_lens_hedges_won_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Hedges that produced the first token.",
    ),
    metric(
        "llm_lens_in_flight_requests",
        Kind::Gauge,
        Unit::One,
        &["route", "backend", "gen_ai_operation_name"],
        "Requests in flight.",
    ),
    histogram(
        "llm_lens_inter_token_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Gap between two events with generated text, as received from the backend.",
    ),
    metric(
        "llm_lens_ledger_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &["route", "backend", "gen_ai_request_model", "state"],
        "Time that requests spent in each state: queue, connect, waiting for the first byte or token, writing to the client, ...",
    ),
    metric(
        "llm_lens_log_lines_dropped_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Log lines that were lost because the log's queue was full or standard error was closed.",
    ),
    metric(
        "llm_lens_malformed_requests_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests refused because their head is not valid HTTP.",
    ),
    histogram(
        "llm_lens_mark_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "mark"],
        "Time from the request sent to the first event of a kind, on arrival.",
    ),
    metric(
        "llm_lens_max_buffered_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Maximum of llm_lens_buffered_bytes: limits.buffered_bytes, or half of the memory.",
    ),
    metric(
        "llm_lens_max_client_connections",
        Kind::Gauge,
        Unit::One,
        &[],
        "Maximum client connections: limits.connections, or what the descriptor limit permits.",
    ),
    metric(
        "llm_lens_memory_limited_requests_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests refused because memory held limits.buffered_bytes.",
    ),
    metric(
        "llm_lens_mirrored_first_tokens_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Mirrored requests whose answer had a first token.",
    ),
    metric(
        "llm_lens_mirrored_requests_total",
        Kind::Counter,
        Unit::One,
        &["route", "result"],
        "Mirrored requests by result.",
    ),
    metric(
        "llm_lens_mirrored_ttft_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &["route"],
        "Sum of times to first token of mirrored requests.",
    ),
    metric(
        "llm_lens_not_parsed_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Answers that were not parsed, or not to their end.",
    ),
    metric(
        "llm_lens_offload_decisions_total",
        Kind::Counter,
        Unit::One,
        &["route", "decision"],
        "Requests by decision between edge and cloud.",
    ),
    metric(
        "llm_lens_otlp_exported_total",
        Kind::Counter,
        Unit::One,
        &["signal"],
        "Spans, log records and data points that the OpenTelemetry backend accepted.",
    ),
    metric(
        "llm_lens_otlp_failures_total",
        Kind::Counter,
        Unit::One,
        &["signal", "code"],
        "Failed export requests to the OpenTelemetry backend, retries included, by code.",
    ),
    metric(
        "llm_lens_otlp_rejected_total",
        Kind::Counter,
        Unit::One,
        &["signal"],
        "Spans, log records and data points that the OpenTelemetry backend refused.",
    ),
    metric(
        "llm_lens_otlp_unsampled_traces_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests whose trace was not exported because of sampling.",
    ),
    metric(
        "llm_lens_panics_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Panics. Each ended one request.",
    ),
    metric(
        "llm_lens_prediction_error_ratio",
        Kind::Gauge,
        Unit::One,
        &["pool", "backend", "target"],
        "Median relative error of the last 128 predictions by `target`: time to the first token, or to the last.",
    ),
    metric(
        "llm_lens_prefix_block_hits_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Prompt blocks that the selected backend had received before.",
    ),
    metric(
        "llm_lens_prefix_blocks_total",
        Kind::Counter,
        Unit::One,
        &["pool", "tier"],
        "Prompt blocks looked up by prefix balancing.",
    ),
    metric(
        "llm_lens_queue_depth",
        Kind::Gauge,
        Unit::One,
        &["backend"],
        "Requests in the admission queue of the backend.",
    ),
    histogram(
        "llm_lens_queue_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time in rate limits and in the admission queue.",
    ),
    metric(
        "llm_lens_queued_requests_total",
        Kind::Counter,
        Unit::One,
        &["backend"],
        "Admitted requests that waited in the queue.",
    ),
    metric(
        "llm_lens_rate_limit_accounts",
        Kind::Gauge,
        Unit::One,
        &["limit", "unit"],
        "Keys, owners, routes, models or addresses that the rate limit tracks.",
    ),
    metric(
        "llm_lens_rate_limit_warnings_total",
        Kind::Counter,
        Unit::One,
        &["limit", "unit"],
        "Answers with a warning about the rate limit.",
    ),
    metric(
        "llm_lens_rate_limited_requests_total",
        Kind::Counter,
        Unit::One,
        &["limit", "unit"],
        "Requests refused by the rate limit.",
    ),
    metric(
        "llm_lens_rate_limited_streams_total",
        Kind::Counter,
        Unit::One,
        &["limit", "unit"],
        "Streams ended by the rate limit.",
    ),
    metric(
        "llm_lens_reasoning_tokens_total",
        Kind::Counter,
        Unit::Tokens,
        &[
            "route",
            "backend",
            "gen_ai_operation_name",
            "gen_ai_provider_name",
            "gen_ai_request_model",
        ],
        "Generated tokens spent on reasoning, as reported by the engine.",
    ),
    metric(
        "llm_lens_record_files_completed_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Complete files of records.",
    ),
    metric(
        "llm_lens_record_files_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Failed attempts to complete or to remove a file of records.",
    ),
    metric(
        "llm_lens_record_files_removed_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Files of records removed because of their age.",
    ),
    metric(
        "llm_lens_record_store_damaged_files_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Damaged files of the record store that were renamed.",
    ),
    metric(
        "llm_lens_record_store_dropped_files_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Files of the record store removed because of their age or the maximum size.",
    ),
    metric(
        "llm_lens_record_store_repeated_records_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Records that were delivered to the record store again and stored once.",
    ),
    metric(
        "llm_lens_record_store_size_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Size of the files of the record store.",
    ),
    metric(
        "llm_lens_record_store_unreadable_files_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Files of the record store from a newer version, which are not read.",
    ),
    metric(
        "llm_lens_record_upload_dropped_files_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Files of records removed before their upload, because more than `max_waiting` bytes waited.",
    ),
    metric(
        "llm_lens_record_upload_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Failed attempts to upload files of records.",
    ),
    metric(
        "llm_lens_record_upload_files_total",
        Kind::Counter,
        Unit::One,
        &["result"],
        "Uploaded files of records: `created`, or `existed` if an earlier attempt had created the object.",
    ),
    metric(
        "llm_lens_record_upload_sent_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        &[],
        "Bytes of objects created from files of records.",
    ),
    metric(
        "llm_lens_record_upload_waiting_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Bytes of complete files of records that wait for their upload.",
    ),
    metric(
        "llm_lens_record_upload_waiting_files",
        Kind::Gauge,
        Unit::One,
        &[],
        "Complete files of records that wait for their upload.",
    ),
    metric(
        "llm_lens_records_dropped_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Records dropped from the list of recent records because it was full.",
    ),
    metric(
        "llm_lens_reload_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Reloads of the settings that were refused.",
    ),
    metric(
        "llm_lens_reloads_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Reloads of the settings that took effect.",
    ),
    histogram(
        "llm_lens_request_duration_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time from the first byte of the request to the end of the exchange.",
    ),
    metric(
        "llm_lens_requests_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model", "outcome"],
        "Finished requests by outcome.",
    ),
    metric(
        "llm_lens_resumes_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Attempts to resume a broken stream on another backend.",
    ),
    metric(
        "llm_lens_retries_denied_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Failed requests that were not retried because the retry budget was used up.",
    ),
    metric(
        "llm_lens_retries_total",
        Kind::Counter,
        Unit::One,
        &["route"],
        "Attempts that retried a failed one.",
    ),
    metric(
        "llm_lens_route_info",
        Kind::Gauge,
        Unit::One,
        &["route", "backend", "server_address", "*"],
        "Labels of the route's settings, and the address of its backend; always 1.",
    ),
    metric(
        "llm_lens_service_failures_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Finished requests that the gateway or an engine failed; clients' mistakes and disconnects, verdicts, limits and an engine's 429 do not count.",
    ),
    metric(
        "llm_lens_settings_stale_since_timestamp_seconds",
        Kind::Gauge,
        Unit::Seconds,
        &[],
        "Unix time since which a file of the settings, such as the keys or a certificate, is missing or invalid, and the previous content stays in force; 0 if all are current.",
    ),
    metric(
        "llm_lens_shed_requests_total",
        Kind::Counter,
        Unit::One,
        &["backend", "reason"],
        "Requests shed by admission, by reason.",
    ),
    metric(
        "llm_lens_sink_dropped_records_total",
        Kind::Counter,
        Unit::One,
        &["sink", "reason"],
        "Records that a sink lost, by reason.",
    ),
    metric(
        "llm_lens_sink_queue_dropped_records_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Records that reached no sink because the queue was full.",
    ),
    metric(
        "llm_lens_sink_queued_records",
        Kind::Gauge,
        Unit::One,
        &["sink"],
        "Records in the memory of a sink that retries.",
    ),
    metric(
        "llm_lens_sink_records_total",
        Kind::Counter,
        Unit::One,
        &["sink"],
        "Records written by a sink.",
    ),
    metric(
        "llm_lens_sink_retries_total",
        Kind::Counter,
        Unit::One,
        &["sink"],
        "Failed attempts of a sink to deliver a batch, which is sent again.",
    ),
    metric(
        "llm_lens_sink_spill_failures_total",
        Kind::Counter,
        Unit::One,
        &["sink"],
        "Failed attempts to open, write, read or remove the spill of a sink.",
    ),
    metric(
        "llm_lens_sink_spilled_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &["sink"],
        "Size of the spill of a sink.",
    ),
    metric(
        "llm_lens_sink_spilled_records",
        Kind::Gauge,
        Unit::One,
        &["sink"],
        "Records in the spill of a sink that are not delivered yet.",
    ),
    metric(
        "llm_lens_sink_state",
        Kind::Gauge,
        Unit::One,
        &["sink", "state"],
        "Circuit of a sink that retries: 1 for the state that holds, 0 for the others.",
    ),
    metric(
        "llm_lens_slo_budget_remaining_ratio",
        Kind::Gauge,
        Unit::One,
        &["route", "slo"],
        "Share of the error budget that is left in the window of the objective; below 0 if more missed than allowed.",
    ),
    metric(
        "llm_lens_slo_burn_ratio",
        Kind::Gauge,
        Unit::One,
        &["route", "slo", "window"],
        "Share of events that missed the objective, divided by the allowed share: 1 uses up what is allowed.",
    ),
    metric(
        "llm_lens_slo_events_total",
        Kind::Counter,
        Unit::One,
        &["route", "slo"],
        "Requests that count for the objective.",
    ),
    metric(
        "llm_lens_slo_misses_total",
        Kind::Counter,
        Unit::One,
        &["route", "slo"],
        "Requests that missed the objective.",
    ),
    metric(
        "llm_lens_slo_objective_ratio",
        Kind::Gauge,
        Unit::One,
        &["route", "slo"],
        "Share of good events that the objective requires.",
    ),
    metric(
        "llm_lens_stalls_total",
        Kind::Counter,
        Unit::One,
        &["route", "backend", "gen_ai_request_model"],
        "Gaps between tokens over the stall threshold of the route.",
    ),
    metric(
        "llm_lens_store_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Calls to the store of shared limits that failed.",
    ),
    metric(
        "llm_lens_store_fallbacks_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Requests decided without the store of shared limits.",
    ),
    metric(
        "llm_lens_store_successes_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Calls to the store of shared limits that succeeded.",
    ),
    metric(
        "llm_lens_store_up",
        Kind::Gauge,
        Unit::One,
        &[],
        "Whether the store of shared limits is connected: 1 or 0.",
    ),
    metric(
        "llm_lens_stream_buffer_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &["route", "backend", "gen_ai_operation_name"],
        "Bytes read from backends and not yet written to clients.",
    ),
    histogram(
        "llm_lens_time_per_output_token_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model", "tokens"],
        "Mean time per output token after the first event, one value per request, by whether its tokens were counted by the engine or estimated by the gateway.",
    ),
    metric(
        "llm_lens_tls_handshake_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "TLS handshakes of clients that failed or took too long.",
    ),
    histogram(
        "llm_lens_ttft_without_guardrail_seconds",
        Unit::Seconds,
        LENS_SECONDS,
        &["route", "backend", "gen_ai_request_model"],
        "Time to first token at the client, without guardrail time.",
    ),
    metric(
        "llm_lens_usage_file_damaged_lines_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Lines of the usage file that were skipped because they are damaged.",
    ),
    metric(
        "llm_lens_usage_file_write_failures_total",
        Kind::Counter,
        Unit::One,
        &[],
        "Attempts to append to the usage file that failed.",
    ),
    metric(
        "llm_lens_version_requests",
        Kind::Gauge,
        Unit::One,
        &["route", "version", "result"],
        "Requests of a version by result, since the canary's share was set.",
    ),
    metric(
        "process_cpu_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &[],
        "CPU time of the process, user and system.",
    ),
    metric(
        "process_max_fds",
        Kind::Gauge,
        Unit::One,
        &[],
        "Maximum open file descriptors of the process.",
    ),
    metric(
        "process_open_fds",
        Kind::Gauge,
        Unit::One,
        &[],
        "Open file descriptors of the process.",
    ),
    metric(
        "process_resident_memory_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Resident memory of the process.",
    ),
    metric(
        "process_start_time_seconds",
        Kind::Gauge,
        Unit::Seconds,
        &[],
        "Unix time at which the process started.",
    ),
    metric(
        "process_virtual_memory_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Virtual memory of the process.",
    ),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help, bounds: &[] }
}

const fn histogram(
    name: &'static str,
    unit: Unit,
    bounds: &'static [f64],
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
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

    /// Exporters sort metrics by name, so a help text cannot refer to the row before.
    #[test]
    fn help_texts_stand_alone() {
        let words = ["Of these", "Their", "The same", "Those", "These", "It ", "Likewise"];
        for Metric { name, help, .. } in CATALOG {
            assert!(!words.iter().any(|word| help.starts_with(word)), "{name}: {help}");
            assert!(help.split(' ').count() > 2 && !help.contains("above"), "{name}: {help}");
        }
    }

    /// A percentile that Prometheus interpolates inside a bucket is off by at most its width.
    #[test]
    fn boundaries_are_fine_and_the_same_at_both_ends_of_a_request() {
        for pair in LENS_SECONDS.windows(2).filter(|pair| (0.001..10.0).contains(&pair[0])) {
            assert!(pair[1] <= pair[0] * 1.5 + 1e-12, "{pair:?}");
        }
        for row in CATALOG.iter().filter(|row| row.kind == Kind::Histogram) {
            let is_convention = row.name.starts_with("gen_ai_");
            assert!(
                is_convention || row.unit != Unit::Seconds || row.bounds == LENS_SECONDS,
                "{}",
                row.name
            );
            assert!(!is_convention || row.bounds != LENS_SECONDS, "{}", row.name);
        }
    }

    #[test]
    fn rows_are_sorted_and_named_by_their_kind() {
        assert!(CATALOG.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, each once");
        for Metric { name, kind, unit, labels, help, bounds } in CATALOG {
            assert!(
                bounds.is_sorted() && bounds.is_empty() == (*kind != Kind::Histogram),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(*unit != Unit::Seconds || name.contains("_seconds"), "{name}");
            assert!(
                help.ends_with('.') && help.len() > 10 && !help.contains('|'),
                "{name}: {help}"
            );
            let mut known = labels.to_vec();
            known.sort_unstable();
            known.dedup();
            assert_eq!(known.len(), labels.len(), "{name}");
            assert_eq!(find(name).map(|metric| metric.name), Some(*name));
        }
        assert_eq!(find("llm_lens_nothing"), None);
    }
}
