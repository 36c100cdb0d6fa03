use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value;
use serde_json::{Value, json};

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SERVER: &str = "00000000000000a1";
const CALL: &str = "00000000000000a2";
/// 2026-01-02T03:04:05Z.
const HEAD_US: u64 = 1_767_323_045_000_000;

pub(crate) fn record(changes: Value) -> Record {
    let mut record = json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "backend": "b",
        "dialect": "openai-chat", "endpoint": "/v1/chat/completions", "stream": true, "outcome": "ok",
        "model_requested": "m", "model_answered": "m-1", "http_status": 200, "finish_reasons": ["stop"],
        "bytes_from_client": 10, "bytes_to_client": 20, "sent_us": 30_000, "engine_us": 90_000,
        "marks_us": {"first_event": {"arrival": 35_000}, "first_token": {"arrival": 50_000, "written": 51_000}},
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "cache_write_tokens": 1, "estimated": false},
        "ledger_us": {"queue": 20_000, "await_token": 100_000}, "total_us": 121_000,
        "trace_id": TRACE, "trace_flags": 1, "parent_span_id": "b7ad6b7169203331",
        "span_id": SERVER, "upstream_span_id": CALL, "provider": "vllm", "server": "127.0.0.1:8000",
        "intervals": [
            {"state": "read_request", "from_us": -1_000, "to_us": 0},
            {"state": "queue", "from_us": 0, "to_us": 20_000},
            {"state": "connect", "from_us": 20_000, "to_us": 20_500},
            {"state": "send", "from_us": 29_000, "to_us": 30_000},
            {"state": "await_token", "from_us": 30_000, "to_us": 120_000}
        ]
    });
    let map = record.as_object_mut().unwrap();
    map.extend(changes.as_object().cloned().unwrap_or_default());
    map.retain(|_, value| !value.is_null());
    serde_json::from_value(record).unwrap()
}

fn of(changes: Value) -> Vec<Span> {
    spans(&record(changes), Conventions::V141)
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn attribute(span: &Span, key: &str) -> Option<any_value::Value> {
    span.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value
}

fn word(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

fn at(us: i64) -> u64 {
    HEAD_US.saturating_add_signed(us) * 1000
}

#[test]
fn request_and_call_stand_between_the_clients_span_and_the_engines() {
    let spans = of(json!({}));
    let server = named(&spans, "POST r")[0];
    assert_eq!(server.trace_id, trace_bytes(TRACE));
    assert_eq!((&server.span_id, server.kind), (&span_bytes(SERVER), SpanKind::Server as i32));
    assert_eq!(server.parent_span_id, span_bytes("b7ad6b7169203331"));
    assert_eq!(server.flags, 0x301);
    assert_eq!((server.start_time_unix_nano, server.end_time_unix_nano), (at(-1_000), at(120_000)));
    assert_eq!(
        attribute(server, "llm_lens.ledger.queue"),
        Some(any_value::Value::DoubleValue(0.02))
    );
    let call = named(&spans, "chat m")[0];
    assert_eq!((&call.span_id, call.kind), (&span_bytes(CALL), SpanKind::Client as i32));
    assert_eq!(call.parent_span_id, server.span_id);
    assert_eq!((call.start_time_unix_nano, call.end_time_unix_nano), (at(29_000), at(120_000)));
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "vllm"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.response.model", "m-1"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(word(call, key), value);
    }
    for (key, value) in [
        ("server.port", any_value::Value::IntValue(8000)),
        ("gen_ai.usage.input_tokens", any_value::Value::IntValue(5)),
        ("gen_ai.usage.output_tokens", any_value::Value::IntValue(9)),
        ("gen_ai.usage.cache_creation.input_tokens", any_value::Value::IntValue(1)),
        ("gen_ai.request.stream", any_value::Value::BoolValue(true)),
        ("gen_ai.response.time_to_first_chunk", any_value::Value::DoubleValue(0.005)),
    ] {
        assert_eq!(attribute(call, key), Some(value), "{key}");
    }
    let events: Vec<(&str, u64)> =
        call.events.iter().map(|event| (event.name.as_str(), event.time_unix_nano)).collect();
    assert_eq!(events, [("llm_lens.first_token", at(50_000))]);
    assert!(spans.iter().all(|span| span.status.is_none()));
    // Only what took time has a span of its own.
    let states: Vec<&str> = spans
        .iter()
        .filter(|span| span.kind == SpanKind::Internal as i32)
        .map(|span| span.name.as_str())
        .collect();
    assert_eq!(states, ["llm_lens.read_request", "llm_lens.queue"]);
    assert!(named(&spans, "llm_lens.queue")[0].parent_span_id == server.span_id);
}

#[test]
fn a_request_without_a_parent_is_the_root() {
    let spans = of(json!({"parent_span_id": null, "trace_flags": 0}));
    let server = named(&spans, "POST r")[0];
    assert!(server.parent_span_id.is_empty());
    assert_eq!(server.flags, 0x101, "it is exported, so it is sampled");
    assert!(of(json!({"span_id": null})).is_empty(), "no ids, no spans");
}

/// A collector that ignores spans it has stores each once.
#[test]
fn a_record_that_is_exported_again_has_the_same_spans() {
    let spans = of(json!({}));
    assert_eq!(spans, of(json!({})));
    let mut ids: Vec<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
    let other = of(json!({"span_id": "00000000000000a9"}));
    assert!(
        other.iter().all(|span| span.span_id == span_bytes(CALL) || !ids.contains(&&*span.span_id))
    );
}

/// Name, begin and end of the spans below the call, in microseconds since the head.
fn engine_spans(changes: Value) -> Vec<(String, u64, u64)> {
    let spans = of(changes);
    let since = |nanos: u64| nanos / 1000 - HEAD_US;
    let below = spans.iter().filter(|span| span.parent_span_id == span_bytes(CALL));
    below
        .map(|span| {
            assert!(attribute(span, "llm_lens.estimated_position").is_some());
            let name = span.name.strip_prefix("llm_lens.engine.").expect("a part").to_owned();
            (name, since(span.start_time_unix_nano), since(span.end_time_unix_nano))
        })
        .collect()
}

#[test]
fn engines_report_is_placed_within_the_call() {
    let part = |name: &str, from, to| (name.to_owned(), from, to);
    // Sent at 30 ms, first token at 50 ms, end at 120 ms.
    let stream = |split: Value| engine_spans(json!({"engine_split": split}));
    assert_eq!(
        stream(
            json!({"queue_us": 4_000, "prefill_us": 11_000, "decode_us": 60_000, "unexplained_us": 5_000})
        ),
        [
            part("queue", 35_000, 39_000),
            part("prefill", 39_000, 50_000),
            part("decode", 50_000, 110_000)
        ]
    );
    // A report that is too long within the tolerance is cut, first at its begin.
    assert_eq!(
        stream(
            json!({"queue_us": 4_000, "load_us": 1_000, "prefill_us": 18_000, "decode_us": 75_000})
        ),
        [
            part("queue", 30_000, 31_000),
            part("load", 31_000, 32_000),
            part("prefill", 32_000, 50_000),
            part("decode", 50_000, 120_000)
        ]
    );
    assert_eq!(stream(json!({"prefill_us": 30_000})), [part("prefill", 30_000, 50_000)]);
    assert_eq!(stream(json!({"prefill_us": 900_000, "disagrees": true})), []);
    // A whole answer ends with its decode.
    let whole = json!({"stream": false, "marks_us": {}, "engine_split": {"prefill_us": 10_000, "decode_us": 70_000}});
    assert_eq!(
        engine_spans(whole),
        [part("prefill", 40_000, 50_000), part("decode", 50_000, 120_000)]
    );
    let without_tokens = json!({"marks_us": {}, "engine_split": {"prefill_us": 10_000}});
    assert_eq!(engine_spans(without_tokens), []);
}

#[test]
fn engines_report_is_in_attributes_of_the_call() {
    let spans =
        of(json!({"engine_split": {"queue_us": 4_000, "unexplained_us": 0, "disagrees": true}}));
    let call = named(&spans, "chat m")[0];
    for (key, value) in [
        ("llm_lens.engine.queue", Some(any_value::Value::DoubleValue(0.004))),
        ("llm_lens.engine.unexplained", Some(any_value::Value::DoubleValue(0.0))),
        ("llm_lens.engine.disagrees", Some(any_value::Value::BoolValue(true))),
        ("llm_lens.engine.prefill", None),
    ] {
        assert_eq!(attribute(call, key), value, "{key}");
    }
}

#[test]
fn attempts_hedges_stalls_and_resumes_are_visible() {
    let spans = of(json!({
        "failed_attempts": [
            {"backend": "x", "code": "http_503", "http_status": 503, "us": 4_000, "at_us": 21_000, "span_id": "00000000000000a3",
             "provider": "sglang"},
            {"backend": "y", "code": "overloaded", "us": 10, "at_us": 26_000}
        ],
        "hedge": {"backend": "h", "won": false, "after_us": 10_000, "span_id": "00000000000000a4",
            "provider": "openai"},
        "resumes": [{"backend": "b", "after_tokens": 7, "at_us": 80_000}],
        "stall_times": [{"at_us": 70_000, "us": 15_000}]
    }));
    let calls = named(&spans, "chat m");
    let call = |id: &str| *calls.iter().find(|span| span.span_id == span_bytes(id)).unwrap();
    let failed = call("00000000000000a3");
    assert_eq!(
        (word(failed, "error.type"), word(failed, "llm_lens.backend")),
        ("http_503".into(), "x".into())
    );
    assert_eq!(word(failed, "gen_ai.provider.name"), "sglang");
    assert_eq!((failed.start_time_unix_nano, failed.end_time_unix_nano), (at(21_000), at(25_000)));
    assert_eq!(failed.status.as_ref().unwrap().code, StatusCode::Error as i32);
    let hedge = call("00000000000000a4");
    assert_eq!((hedge.start_time_unix_nano, hedge.end_time_unix_nano), (at(40_000), at(50_000)));
    assert_eq!(word(hedge, "llm_lens.backend"), "h");
    assert_eq!(word(hedge, "gen_ai.provider.name"), "openai");
    let events: Vec<&str> = call(CALL).events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["llm_lens.first_token", "llm_lens.stall", "llm_lens.resume"]);
    let server = named(&spans, "POST r")[0];
    assert!(server.events.iter().any(|event| event.name == "llm_lens.attempt_failed"));
}

#[test]
fn filters_of_a_guardrail_are_events() {
    let filter = json!({"filter": "pii", "side": "input", "verdict": "redact", "calls": 1, "cpu_us": 500,
        "queue_us": 0, "remote_us": 0, "wall_us": 600, "critical": true});
    let spans = of(json!({
        "guardrail": {"guardrail": "g", "mode": "enforce", "held_events": 0, "held_bytes_max": 0,
            "verdict": "redact", "filters": [filter]},
        "intervals": [{"state": "guardrail_input", "from_us": 100, "to_us": 700}]
    }));
    let server = named(&spans, "POST r")[0];
    let event = server.events.iter().find(|event| event.name == "llm_lens.guardrail.filter");
    assert_eq!(event.unwrap().time_unix_nano, at(700));
    assert_eq!(word(server, "llm_lens.guardrail.verdict"), "redact");
}

#[test]
fn errors_are_marked_by_whose_they_are() {
    for (changes, server_fails, call_fails) in [
        (
            json!({"outcome": "upstream_error", "http_status": 503, "error_code": "http_503"}),
            true,
            true,
        ),
        (
            json!({"outcome": "upstream_error", "http_status": 400, "error_code": "http_400"}),
            false,
            true,
        ),
        (json!({"outcome": "upstream_failed", "error_code": "upstream_died"}), true, true),
        (
            json!({"outcome": "blocked", "http_status": 403, "error_code": "guardrail"}),
            false,
            false,
        ),
        (json!({"outcome": "client_gone"}), false, false),
    ] {
        let spans = of(changes.clone());
        let fails = |name: &str| named(&spans, name)[0].status.is_some();
        assert_eq!((fails("POST r"), fails("chat m")), (server_fails, call_fails), "{changes}");
    }
}

#[test]
fn a_share_is_kept_and_all_that_is_slow_or_failed() {
    let sampler =
        |share, parent_based| Sampler { share, parent_based, slow: Duration::from_secs(1) };
    let root = json!({"parent_span_id": null});
    let with = |more: Value| {
        let mut all = root.clone();
        all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        record(all)
    };
    let ok = with(json!({}));
    assert!(is_kept(&ok, &sampler(1.0, true)) && !is_kept(&ok, &sampler(0.0, true)));
    for (outcome, kept) in [
        ("upstream_failed", true),
        ("upstream_error", true),
        ("timeout", true),
        ("blocked", true),
        ("limited", true),
        ("rejected", false),
        ("client_gone", false),
    ] {
        assert_eq!(
            is_kept(&with(json!({"outcome": outcome})), &sampler(0.0, true)),
            kept,
            "{outcome}"
        );
    }
    assert!(is_kept(&with(json!({"total_us": 1_000_001})), &sampler(0.0, true)));
    assert!(!is_kept(&with(json!({"total_us": 1_000_000})), &sampler(0.0, true)));
    // The client's flag decides, if the sampler follows it.
    let unsampled = record(json!({"trace_flags": 0, "outcome": "timeout"}));
    assert!(!is_kept(&unsampled, &sampler(1.0, true)) && is_kept(&unsampled, &sampler(0.0, false)));
    assert!(is_kept(&record(json!({})), &sampler(0.0, true)));
}

#[test]
fn spans_of_states_are_bounded_to_the_longest() {
    let interval = |at: i64| {
        let (from, to) = (at * 10_000, at * 10_000 + 1_000 + at);
        json!({"state": "client_write", "from_us": from, "to_us": to})
    };
    let spans = of(json!({"intervals": (0..200).map(interval).collect::<Vec<_>>()}));
    let states = named(&spans, "llm_lens.client_write");
    assert_eq!(states.len(), MAX_INTERVALS);
    assert_eq!(states[0].start_time_unix_nano, at(168 * 10_000));
    assert!(states.is_sorted_by_key(|span| span.start_time_unix_nano));
}
