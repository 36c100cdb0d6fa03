use std::collections::BTreeMap;

use lens::TimeHistogram;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::labels::Labels;
use super::*;
use crate::exemplars::Exemplars;
use crate::export::MetricWriter as _;

/// The samples of a protobuf exposition: name, labels, value.
fn decoded(mut bytes: &[u8]) -> Vec<(String, BTreeMap<String, String>, proto::Value)> {
    let mut samples = Vec::new();
    while !bytes.is_empty() {
        let length = decode_varint(&mut bytes).unwrap() as usize;
        let (mut family, rest) = bytes.split_at(length);
        bytes = rest;
        // Unknown fields are skipped, so the head can be decoded from the whole family.
        let head = proto::FamilyHead::decode(family).unwrap();
        while !family.is_empty() {
            let (tag, wire) = decode_key(&mut family).unwrap();
            let length = decode_varint(&mut family).unwrap() as usize;
            if wire != WireType::LengthDelimited {
                continue;
            }
            let (field, rest) = family.split_at(length);
            family = rest;
            if tag == proto::FAMILY_METRIC {
                samples.push((
                    head.name.clone(),
                    labels_of(field),
                    proto::Value::decode(field).unwrap(),
                ));
            }
        }
    }
    samples
}

fn labels_of(mut metric: &[u8]) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !metric.is_empty() {
        let (tag, _) = decode_key(&mut metric).unwrap();
        let length = decode_varint(&mut metric).unwrap() as usize;
        let (field, rest) = metric.split_at(length);
        metric = rest;
        if tag == proto::METRIC_LABEL {
            let pair = proto::LabelPair::decode(field).unwrap();
            labels.insert(pair.name, pair.value);
        }
    }
    labels
}

#[test]
fn protobuf_has_the_samples_of_the_text() {
    let mut histogram = TimeHistogram::default();
    [0, 900, 1_000_000, 1_000_000, 90_000_000]
        .into_iter()
        .for_each(|micros| histogram.record(micros));
    let mut out = Families::new(Format::Protobuf);
    let labels =
        out.labels([("route", "a \"b\"\n"), ("backend", "b"), ("gen_ai_request_model", "m")]);
    out.counter("llm_lens_events_total", &labels, 7);
    out.number("llm_lens_stream_buffer_bytes", &Labels::none(), 0.0);
    out.histogram("llm_lens_gateway_seconds", &labels, Some(&histogram), Exemplars::default());
    out.histogram("llm_lens_queue_seconds", &labels, None::<&TimeHistogram>, Exemplars::default());
    let samples = decoded(&out.finish().concat());
    assert_eq!(
        samples.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["llm_lens_events_total", "llm_lens_gateway_seconds", "llm_lens_stream_buffer_bytes"]
    );
    assert_eq!(samples[0].2.counter, Some(proto::Number { value: 7.0 }));
    assert_eq!(samples[2].2.gauge, Some(proto::Number { value: 0.0 }));
    assert_eq!(samples[0].1["route"], "a \"b\"\n");
    let native = samples[1].2.histogram.clone().unwrap();
    assert_eq!(
        (native.sample_count, native.sample_sum, native.schema, native.zero_count),
        (5, 92.0009, 5, 1)
    );
    assert_eq!(
        buckets(&native),
        BTreeMap::from([(bucket_of(0.0009), 1), (0, 2), (bucket_of(90.0), 1)])
    );
}

/// Prometheus's definition: bucket `i` ends at `2^(i/32)` seconds.
fn bucket_of(seconds: f64) -> i32 {
    (seconds.log2() * 32.0).ceil() as i32
}

/// Counts by index, read as Prometheus reads them.
fn buckets(native: &proto::Histogram) -> BTreeMap<i32, i64> {
    let (mut index, mut count) = (0, 0);
    let mut deltas = native.positive_delta.iter();
    let mut buckets = BTreeMap::new();
    for span in &native.positive_span {
        index += span.offset;
        for delta in deltas.by_ref().take(span.length as usize) {
            count += delta;
            buckets.insert(index, count);
            index += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    buckets
}

#[test]
fn text_has_cumulative_buckets_and_the_exact_sum() {
    let mut histogram = TimeHistogram::default();
    [900, 20_000, 500_000_000].into_iter().for_each(|micros| histogram.record(micros));
    let mut out = Families::new(Format::Text);
    let none = Labels::none();
    out.histogram("llm_lens_gateway_seconds", &none, Some(&histogram), Exemplars::default());
    let text = String::from_utf8(out.finish().concat()).unwrap();
    for line in [
        "# TYPE llm_lens_gateway_seconds histogram",
        "llm_lens_gateway_seconds_bucket{le=\"0.0005\"} 0",
        "llm_lens_gateway_seconds_bucket{le=\"0.001\"} 1",
        "llm_lens_gateway_seconds_bucket{le=\"0.02\"} 2",
        "llm_lens_gateway_seconds_bucket{le=\"300\"} 2",
        "llm_lens_gateway_seconds_bucket{le=\"+Inf\"} 3",
        "llm_lens_gateway_seconds_sum 500.0209",
        "llm_lens_gateway_seconds_count 3",
    ] {
        assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
    }
}

/// Requests of 20 ms and 0.9 s with traces; the gateway exports no trace of the second.
fn traced() -> [lens::Record; 2] {
    let record = |trace_id: &str, gateway_us: u64, span_id: Option<&str>| -> lens::Record {
        let mut record = serde_json::json!({
            "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/",
            "stream": false, "outcome": "ok", "bytes_from_client": 0, "bytes_to_client": 0,
            "ledger_us": {"gateway": gateway_us}, "total_us": 600_000, "trace_id": trace_id,
        });
        if let Some(id) = span_id {
            // The trace part of a record is flat.
            for (name, value) in [("span_id", id), ("provider", "vllm"), ("server", "b:80")] {
                record[name] = value.into();
            }
        }
        serde_json::from_value(record).unwrap()
    };
    [
        record("0af7651916cd43dd8448eb211c80319c", 20_000, Some("00f067aa0ba902b7")),
        record("4bf92f3577b34da6a3ce929d0e0e4736", 900_000, None),
    ]
}

#[test]
fn open_metrics_has_units_canonical_bounds_exemplars_and_an_end() {
    let mut histogram = TimeHistogram::default();
    [20_000, 900_000].into_iter().for_each(|micros| histogram.record(micros));
    let records = traced();
    let records: Vec<&lens::Record> = records.iter().collect();
    let mut out = Families::new(Format::OpenMetrics);
    let none = Labels::none();
    let exemplars = Exemplars::new(&records, lens::Timing::Gateway);
    out.histogram("llm_lens_gateway_seconds", &none, Some(&histogram), exemplars);
    out.counter("llm_lens_events_total", &none, 7);
    let text = String::from_utf8(out.finish().concat()).unwrap();
    for line in [
        "# TYPE llm_lens_events counter",
        "llm_lens_events_total 7",
        "# UNIT llm_lens_gateway_seconds seconds",
        "llm_lens_gateway_seconds_bucket{le=\"0.02\"} 1 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\",span_id=\"00f067aa0ba902b7\"} 0.02 1767323045.600000",
        "llm_lens_gateway_seconds_bucket{le=\"1.0\"} 2 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 0.9 1767323045.600000",
        "llm_lens_gateway_seconds_bucket{le=\"+Inf\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n"));
}

#[test]
fn native_histograms_have_exemplars() {
    let mut histogram = TimeHistogram::default();
    histogram.record(20_000);
    let records = traced();
    let exemplars = [&records[0]];
    let native =
        proto::Histogram::new(&histogram, Exemplars::new(&exemplars, lens::Timing::Gateway));
    let [exemplar] = &*native.exemplars else { panic!("{native:?}") };
    assert_eq!(exemplar.value, 0.02);
    let at = exemplar.timestamp.unwrap();
    assert_eq!((at.seconds, at.nanos), (1_767_323_045, 600_000_000));
    let names: Vec<&str> = exemplar.label.iter().map(|label| label.name.as_str()).collect();
    assert_eq!(names, ["trace_id", "span_id"]);
}
