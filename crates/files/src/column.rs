//! The columns of a file of records: one table for all formats.
//!
//! - *In*: nothing.
//! - *Out*: name, type, unit, meaning and protobuf number of each field of a record.
//! - *Never*: a number that is used again. A field that is removed leaves a gap.

use std::fmt::Write as _;

/// What a column holds. Every column can be absent, but for flags and lists.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Unsigned number of 64 bits.
    Unsigned,
    /// Signed number of 64 bits.
    Signed,
    /// Number of 64 bits with a fraction.
    Float,
    /// True or false.
    Flag,
    /// Wall-clock time in microseconds.
    Time,
    /// Texts, in order.
    Texts,
    /// Numbers by name.
    Counts,
    /// Columns of a part.
    Struct(&'static Group),
    /// Several parts with the same columns.
    List(&'static Group),
}

/// Columns of a part of a record.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// Name of its protobuf message.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// Number of the protobuf field.
    pub number: u32,
    /// Name, as in JSON.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Unit; empty for texts and flags.
    pub unit: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn column(
    number: u32,
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
) -> Column {
    Column { number, name, kind, unit, meaning }
}

const fn text(number: u32, name: &'static str, meaning: &'static str) -> Column {
    column(number, name, Kind::Text, "", meaning)
}

const fn flag(number: u32, name: &'static str, meaning: &'static str) -> Column {
    column(number, name, Kind::Flag, "", meaning)
}

const fn count(
    number: u32,
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
) -> Column {
    column(number, name, Kind::Unsigned, unit, meaning)
}

const fn us(number: u32, name: &'static str, meaning: &'static str) -> Column {
    column(number, name, Kind::Unsigned, "us", meaning)
}

const fn part(
    number: u32,
    name: &'static str,
    group: &'static Group,
    unit: &'static str,
    meaning: &'static str,
) -> Column {
    column(number, name, Kind::Struct(group), unit, meaning)
}

const fn list(
    number: u32,
    name: &'static str,
    group: &'static Group,
    meaning: &'static str,
) -> Column {
    column(number, name, Kind::List(group), "", meaning)
}

static HEDGE: Group = Group {
    name: "Hedge",
    columns: &[
        text(1, "backend", "Backend of the hedge."),
        flag(2, "won", "Whether the hedge answered first."),
        us(3, "after_us", "First request sent to hedge sent."),
        text(4, "span_id", "Id of the span of the call that lost."),
        text(5, "provider", "`gen_ai.provider.name` of the backend that lost."),
    ],
};

static RESUME: Group = Group {
    name: "Resume",
    columns: &[
        text(1, "backend", "Backend that resumed the answer."),
        count(2, "after_tokens", "tokens", "Generated tokens before the resume."),
        us(3, "at_us", "When the answer of the resuming backend began."),
    ],
};

static ATTEMPT: Group = Group {
    name: "Attempt",
    columns: &[
        text(1, "backend", "Backend of the attempt."),
        text(2, "code", "Stable error code."),
        count(3, "http_status", "", "HTTP status, if the backend returned one."),
        us(4, "us", "Backend selected to attempt failed."),
        us(5, "at_us", "When the backend was selected."),
        text(6, "span_id", "Id of the attempt's span."),
        text(7, "provider", "`gen_ai.provider.name` of the backend."),
    ],
};

static INTERVAL: Group = Group {
    name: "Interval",
    columns: &[
        text(1, "state", "State of the ledger."),
        column(
            2,
            "from_us",
            Kind::Signed,
            "us",
            "When it began; negative: before the head was complete.",
        ),
        column(3, "to_us", Kind::Signed, "us", "When it ended."),
    ],
};

static STALL: Group = Group {
    name: "Stall",
    columns: &[us(1, "at_us", "When the gap ended."), us(2, "us", "Its duration.")],
};

static USAGE: Group = Group {
    name: "Usage",
    columns: &[
        count(1, "prompt_tokens", "tokens", "Tokens of the prompt."),
        flag(2, "prompt_estimated", "Whether `prompt_tokens` is not reported by the engine."),
        count(3, "completion_tokens", "tokens", "Tokens generated."),
        count(4, "reasoning_tokens", "tokens", "Generated tokens spent on reasoning."),
        count(5, "cached_tokens", "tokens", "Prompt tokens from a cache."),
        count(6, "cache_write_tokens", "tokens", "Prompt tokens written to a cache."),
        flag(7, "estimated", "Whether `completion_tokens` is estimated."),
    ],
};

static MARK: Group = Group {
    name: "Mark",
    columns: &[
        us(1, "arrival", "Read from upstream."),
        us(2, "written", "Accepted by the client's socket."),
    ],
};

static MARKS: Group = Group {
    name: "Marks",
    columns: &[
        part(1, "first_byte", &MARK, "us", "First byte of the answer."),
        part(2, "first_event", &MARK, "us", "First event."),
        part(3, "role", &MARK, "us", "First role-only event."),
        part(4, "reasoning", &MARK, "us", "First reasoning text."),
        part(5, "content", &MARK, "us", "First content text."),
        part(6, "tool_call", &MARK, "us", "First tool-call text."),
        part(7, "first_token", &MARK, "us", "First generated text of any kind."),
        part(8, "last_token", &MARK, "us", "Last generated text."),
    ],
};

static SPLIT: Group = Group {
    name: "EngineSplit",
    columns: &[
        us(1, "queue_us", "Waiting in the engine's queue."),
        us(2, "load_us", "Loading the model."),
        us(3, "prefill_us", "Processing the prompt."),
        us(4, "decode_us", "Generating: first to last token."),
        us(5, "unexplained_us", "The rest of the measured time."),
        flag(6, "disagrees", "Whether the report contradicts the measurement."),
    ],
};

static GAPS: Group = Group {
    name: "Gaps",
    columns: &[
        count(1, "count", "", "Number of gaps."),
        column(2, "mean", Kind::Float, "us", "Arithmetic mean."),
        us(3, "p50", "Median, within 1.6 %."),
        us(4, "p90", "90th percentile, within 1.6 %."),
        us(5, "p99", "99th percentile, within 1.6 %."),
        us(6, "max", "Longest."),
    ],
};

static FILTER: Group = Group {
    name: "Filter",
    columns: &[
        text(1, "filter", "Name of the filter."),
        text(2, "side", "`input` or `output`."),
        text(3, "verdict", "`pass`, `flag`, `redact`, `block`, `failed_open` or `failed_closed`."),
        text(4, "failure", "Reason of the last failure."),
        count(5, "calls", "", "Number of calls."),
        us(6, "cpu_us", "Time on a thread."),
        us(7, "queue_us", "Waiting for a thread."),
        us(8, "remote_us", "Waiting for another server."),
        us(9, "wall_us", "From call to result."),
        flag(10, "critical", "Whether it finished last in its stage."),
    ],
};

static GUARDRAIL: Group = Group {
    name: "Guardrail",
    columns: &[
        text(1, "guardrail", "Name of the guardrail."),
        text(2, "mode", "`enforce` or `observe`."),
        column(3, "input", Kind::Counts, "", "Findings in the prompt, by rule."),
        column(4, "output", Kind::Counts, "", "Findings in the answer, by rule."),
        count(5, "held_events", "", "Events that were held for later ones."),
        count(6, "held_bytes_max", "bytes", "Maximum bytes of events held at one time."),
        part(7, "hold_us", &GAPS, "us", "Arrival to release of held events."),
        text(8, "verdict", "`pass`, `flag`, `redact`, `block` or `failed_closed`."),
        column(9, "risk", Kind::Float, "", "Combined risk score of the prompt, 0 to 1."),
        text(10, "level", "`LOW`, `MEDIUM` or `HIGH`."),
        list(11, "filters", &FILTER, "The filters that were called."),
    ],
};

static OVERHEAD: Group = Group {
    name: "GuardrailOverhead",
    columns: &[
        us(1, "validation_us", "Detectors on the prompt."),
        us(2, "threat_detection_us", "Judges of the prompt, and the assessment of all results."),
        us(3, "output_filtering_us", "Checks of the answer."),
        us(4, "hold_us", "Time with held events and nothing else to send; the engine generates."),
        us(5, "total_us", "Sum of the four parts."),
        column(
            6,
            "security_impact_percent",
            Kind::Float,
            "%",
            "`last_event_delay_us` as a share of the whole request.",
        ),
        us(9, "first_event_delay_us", "How much later the first event was sent."),
        us(10, "last_event_delay_us", "How much later the last event was sent."),
        us(7, "added_ttft_us", "How much later the first token was sent."),
        us(8, "ttft_without_us", "The client's TTFT without the guardrail."),
    ],
};

static LEDGER: Group = Group {
    name: "Ledger",
    columns: &[
        us(1, "read_request", "The request is being read from the client."),
        us(2, "authenticate", "Authentication."),
        us(3, "queue", "Waiting for admission."),
        us(4, "guardrail_input", "Guardrails check the request."),
        us(5, "route", "A backend is selected."),
        us(6, "connect", "A connection to the backend is reused or opened."),
        us(7, "send", "The request is being written to the backend."),
        us(8, "await_first_byte", "The request is sent; no byte of the answer has arrived."),
        us(9, "await_first_token", "The answer has begun; no generated text has arrived."),
        us(10, "await_token", "There is nothing to forward until the backend sends more."),
        us(11, "guardrail_output", "Guardrails check the answer."),
        us(12, "hold", "A guardrail holds an event."),
        us(13, "client_write", "The client does not accept bytes that are ready."),
        us(14, "gateway", "The gateway's own work."),
        us(15, "settle", "Bookkeeping after the answer."),
    ],
};

/// The columns of a file.
pub static COLUMNS: &[Column] = &[
    text(
        1,
        "instance",
        "Host of the gateway. The key of a record is (`instance`, `epoch`, `sequence`): records with the same key are the same record.",
    ),
    column(2, "epoch", Kind::Unsigned, "us", "Start of the gateway's process, Unix time."),
    count(
        3,
        "sequence",
        "",
        "Number of the record in this process. A missing number is a lost record.",
    ),
    count(4, "schema", "", "Number of the schema. Within a number, columns are only added."),
    text(5, "id", "The request id, from the client or generated by the gateway."),
    text(6, "unique_id", "Unique id, if `id` is the client's."),
    text(7, "trace_id", "The trace id."),
    text(8, "parent_span_id", "Span id of the client's `traceparent`."),
    count(9, "trace_flags", "", "The flags of the client's `traceparent`."),
    text(
        10,
        "span_id",
        "Id of the request's span; this and the next five only while traces are exported.",
    ),
    text(11, "upstream_span_id", "Id of the span of the call that answered."),
    text(12, "provider", "`gen_ai.provider.name` of the backend."),
    text(13, "server", "Host and port of the backend."),
    list(14, "intervals", &INTERVAL, "Intervals of the ledger, in order."),
    list(15, "stall_times", &STALL, "The first gaps over the route's threshold."),
    column(
        16,
        "started_at",
        Kind::Time,
        "us",
        "Wall-clock time of the first byte of the request, in UTC. Other times are microseconds since the request head was read.",
    ),
    text(17, "route", "The route that matched."),
    text(18, "backend", "The backend, if one was called."),
    text(19, "pool", "Pool of the backend."),
    text(20, "chosen", "Why the backend was selected."),
    text(21, "offload", "Whether the request was offloaded, and why."),
    count(
        22,
        "engine_waiting",
        "requests",
        "Waiting requests that the engine reported at selection.",
    ),
    us(23, "predicted_ttft_us", "Request sent to first token, predicted at selection."),
    column(
        24,
        "predicted_tpot_us",
        Kind::Float,
        "us",
        "Per output token after the first, predicted at selection.",
    ),
    flag(
        25,
        "retry_denied",
        "A failed attempt was not retried because the retry budget was used up.",
    ),
    part(26, "hedge", &HEDGE, "", "The hedge."),
    list(27, "resumes", &RESUME, "Backends that resumed the stream."),
    list(28, "failed_attempts", &ATTEMPT, "Earlier attempts, which failed."),
    text(29, "dialect", "Dialect of the answer; absent for requests other than inference."),
    text(30, "endpoint", "The request path, without its query."),
    text(31, "caller", "The public name of the key, or `anonymous`."),
    text(32, "owner", "The owner of the key."),
    column(33, "cost", Kind::Float, "dollars", "Cost at the operator's prices."),
    text(34, "model_requested", "The model that the client requested."),
    text(35, "model_answered", "The model that the engine reported."),
    count(36, "http_status", "", "The status sent to the client; absent if none was sent."),
    flag(37, "stream", "Whether the answer was a stream of events."),
    text(38, "outcome", "How the request ended."),
    text(39, "error_code", "Stable error code."),
    text(40, "engine_error", "Code or type of the engine's error."),
    column(41, "finish_reasons", Kind::Texts, "", "Finish reasons of the choices."),
    part(42, "usage", &USAGE, "", "Token counts."),
    text(43, "not_parsed", "Why the answer's events were not measured."),
    count(44, "events", "", "Events, end marks included."),
    count(45, "content_events", "", "Events with generated text."),
    count(46, "comments", "", "Comment lines."),
    count(47, "bytes_from_client", "bytes", "Bytes of the request, head and body."),
    count(48, "bytes_to_client", "bytes", "Bytes of the answer's body that the client accepted."),
    us(49, "sent_us", "When the last byte of the request was written upstream."),
    part(50, "marks_us", &MARKS, "us", "The marks."),
    us(51, "engine_us", "Request sent to end of answer."),
    us(52, "engine_ttft_us", "Request sent to first token event read."),
    part(53, "engine_split", &SPLIT, "", "The engine's own report on its time."),
    us(54, "client_ttft_us", "Request head read to first token event written."),
    column(55, "tpot_us", Kind::Float, "us", "Per output token after the first event."),
    part(56, "itl_us", &GAPS, "us", "Gaps between token events, on arrival."),
    part(57, "client_itl_us", &GAPS, "us", "The same on write."),
    text(65, "client_itl_sketch", "Distribution of `client_itl_us`, for charts over requests."),
    count(58, "stalls", "", "Gaps over the route's threshold."),
    count(
        59,
        "coalesced_events",
        "",
        "Token events that arrived in the same read as an earlier one.",
    ),
    part(60, "read_lag_us", &GAPS, "us", "Kernel receive to the gateway's read."),
    part(61, "guardrail", &GUARDRAIL, "", "Findings of the route's guardrail."),
    part(62, "guardrail_overhead", &OVERHEAD, "", "Time spent in the guardrail."),
    part(63, "ledger_us", &LEDGER, "us", "Where the time went; the parts sum to `total_us`."),
    us(64, "total_us", "First byte of the request to the end of the exchange."),
];

impl Kind {
    /// The name in the documentation.
    fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Unsigned => "u64",
            Kind::Signed => "i64",
            Kind::Float => "f64",
            Kind::Flag => "flag",
            Kind::Time => "time",
            Kind::Texts => "list of texts",
            Kind::Counts => "counts by name",
            Kind::Struct(_) => "part",
            Kind::List(_) => "list of parts",
        }
    }

    /// The columns of the parts.
    pub(crate) fn group(self) -> Option<&'static Group> {
        match self {
            Kind::Struct(group) | Kind::List(group) => Some(group),
            _ => None,
        }
    }
}

/// The table of columns for the documentation.
pub fn markdown() -> String {
    let mut out = "| column | type | unit | meaning |\n|---|---|---|---|\n".to_owned();
    rows(&mut out, "", COLUMNS);
    out
}

fn rows(out: &mut String, prefix: &str, columns: &[Column]) {
    for column in columns {
        let Column { name, kind, unit, meaning, .. } = column;
        let _ = writeln!(out, "| `{prefix}{name}` | {} | {unit} | {meaning} |", kind.name());
        // The columns of marks and gaps are the same everywhere: they are listed once.
        if let Some(group) = kind.group()
            && (!["Mark", "Gaps"].contains(&group.name) || ["itl_us", "first_byte"].contains(name))
        {
            rows(out, &format!("{prefix}{name}."), group.columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All groups, that of the file first.
    fn groups(columns: &'static [Column], all: &mut Vec<&'static [Column]>) {
        all.push(columns);
        columns
            .iter()
            .filter_map(|column| column.kind.group())
            .for_each(|g| groups(g.columns, all));
    }

    #[test]
    fn names_and_numbers_are_unique_and_times_have_units() {
        let mut all = Vec::new();
        groups(COLUMNS, &mut all);
        for columns in all {
            let names: BTreeSet<_> = columns.iter().map(|column| column.name).collect();
            let numbers: BTreeSet<_> = columns.iter().map(|column| column.number).collect();
            assert_eq!((names.len(), numbers.len()), (columns.len(), columns.len()));
            for column in columns {
                assert!(column.meaning.ends_with('.'), "{}", column.name);
                let is_time = column.name == "us" || column.name.ends_with("_us");
                let has_unit = column.unit == "us" || column.kind.group() == Some(&SPLIT);
                assert!(!is_time || has_unit, "{}", column.name);
            }
        }
    }

    #[test]
    fn ledger_has_all_states() {
        let names: Vec<&str> = LEDGER.columns.iter().map(|column| column.name).collect();
        assert_eq!(names, lens::State::ALL.map(lens::State::name));
    }
}
