use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use serde_json::{Value, json};

use super::*;
use crate::traces::tests::record;

fn log(changes: Value) -> LogRecord {
    log_record(&record(changes), Conventions::V141, true)
}

fn attribute(log: &LogRecord, key: &str) -> Option<AnyValue> {
    let found: Vec<_> = log.attributes.iter().filter(|pair| pair.key == key).collect();
    assert!(found.len() <= 1, "{key} once");
    found.first()?.value.clone()?.value
}

fn word(value: &str) -> Option<AnyValue> {
    Some(AnyValue::StringValue(value.to_owned()))
}

#[test]
fn a_call_of_a_model_is_the_event_of_the_conventions() {
    let log = log(json!({}));
    assert_eq!(log.event_name, "gen_ai.client.inference.operation.details");
    assert_eq!(log.trace_id, trace_bytes("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(log.span_id, span_bytes("00000000000000a2"), "the call's span");
    assert_eq!((log.severity_number, &*log.severity_text), (9, "INFO"));
    // 120 ms after 2026-01-02T03:04:05Z.
    assert_eq!(log.time_unix_nano, 1_767_323_045_120_000_000);
    assert_eq!(log.observed_time_unix_nano, log.time_unix_nano);
    assert_eq!(log.body.unwrap().value, word("r: ok, status 200, 0.121 s"));
    let log = self::log(json!({"backend": "b"}));
    for (key, value) in [
        ("gen_ai.operation.name", word("chat")),
        ("gen_ai.provider.name", word("vllm")),
        ("gen_ai.request.model", word("m")),
        ("gen_ai.usage.output_tokens", Some(AnyValue::IntValue(9))),
        ("server.address", word("127.0.0.1")),
        ("llm_lens.request.id", word("i")),
        ("llm_lens.outcome", word("ok")),
        ("llm_lens.backend", word("b")),
        ("llm_lens.ledger.queue", Some(AnyValue::DoubleValue(0.02))),
        ("http.response.status_code", Some(AnyValue::IntValue(200))),
    ] {
        assert_eq!(attribute(&log, key), value, "{key}");
    }
}

#[test]
fn other_requests_are_an_event_of_our_own() {
    for changes in [
        json!({"backend": null, "upstream_span_id": null, "outcome": "rejected", "error_code": "no_route"}),
        json!({"dialect": "embeddings"}),
        json!({"dialect": null}),
    ] {
        let log = log(changes.clone());
        assert_eq!(log.event_name, "llm_lens.request", "{changes}");
        assert_eq!(log.span_id, span_bytes("00000000000000a1"), "the request's span");
    }
    // While no traces are exported, the trace is the client's.
    let log = log(json!({"span_id": null, "provider": null}));
    assert_eq!((&*log.event_name, log.span_id.len()), ("llm_lens.request", 0));
    assert_eq!(log.trace_id, trace_bytes("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(attribute(&log, "gen_ai.provider.name"), None);
    assert_eq!(attribute(&log, "gen_ai.request.model"), word("m"));
}

#[test]
fn severity_is_that_of_the_outcome() {
    for (changes, severity) in [
        (json!({"outcome": "ok"}), SeverityNumber::Info),
        (json!({"outcome": "client_gone"}), SeverityNumber::Info),
        (json!({"outcome": "upstream_failed"}), SeverityNumber::Error),
        (json!({"outcome": "upstream_error", "error_code": "http_503"}), SeverityNumber::Error),
        (json!({"outcome": "upstream_error", "error_code": "http_400"}), SeverityNumber::Warn),
        (json!({"outcome": "timeout", "error_code": "first_byte_timeout"}), SeverityNumber::Error),
        (json!({"outcome": "timeout", "error_code": "request_timeout"}), SeverityNumber::Warn),
        (json!({"outcome": "rejected", "http_status": 503}), SeverityNumber::Error),
        (json!({"outcome": "rejected", "http_status": 401}), SeverityNumber::Warn),
        (json!({"outcome": "blocked"}), SeverityNumber::Warn),
        (json!({"outcome": "limited"}), SeverityNumber::Warn),
    ] {
        assert_eq!(log(changes.clone()).severity_number, severity as i32, "{changes}");
    }
    let failed =
        json!({"outcome": "upstream_failed", "http_status": null, "error_code": "upstream_died"});
    let line = log(failed).body.unwrap().value;
    assert_eq!(line, word("r: upstream_failed upstream_died, 0.121 s"));
}

/// The flag says whether the trace that the ids lead to is exported.
#[test]
fn the_sampled_flag_is_that_of_the_exported_trace() {
    for (flags, is_traced, want) in [(1, true, 1), (1, false, 0), (0, true, 1), (2, false, 2)] {
        let record = record(json!({"trace_flags": flags}));
        assert_eq!(log_record(&record, Conventions::V141, is_traced).flags, want);
    }
}
