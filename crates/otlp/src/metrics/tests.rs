use std::collections::BTreeSet;
use std::sync::Arc;

use lens::Tick;
use lens::observe::Sample;
use lens::record::Outcome;
use observatory::{GroupId, Observatory, SeriesKey, TraceFilter};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, number_data_point};

use super::*;

const START: u64 = 1_000;

fn record(outcome: &str) -> lens::Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "backend": "b",
        "endpoint": "/v1/chat/completions", "dialect": "openai-chat", "stream": true, "model_requested": "m",
        "outcome": outcome, "bytes_from_client": 10, "bytes_to_client": 20,
        "engine_us": 90_000, "engine_ttft_us": 20_000, "client_ttft_us": 20_500, "tpot_us": 8_000.4,
        "sent_us": 300, "marks_us": {"first_event": {"arrival": 9_300}},
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "cached_tokens": 3, "cache_write_tokens": 1,
            "reasoning_tokens": 2, "estimated": false},
        "ledger_us": {"await_token": 80_000, "gateway": 20_000}, "total_us": 100_000,
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "00f067aa0ba902b7",
        "provider": "vllm", "server": "127.0.0.1:8000"
    }))
    .unwrap()
}

fn group(operation: &'static str) -> Group {
    Group {
        route: "r".into(),
        backend: "b".into(),
        provider: "vllm".into(),
        operation,
        models: ["m".to_owned()].into(),
        labels: Arc::from([("team".to_owned(), "search".to_owned())]),
        server: "127.0.0.1:8000".into(),
    }
}

fn finish(observatory: &Observatory, group: GroupId, outcome: Outcome) {
    let key = SeriesKey { group, model: 1, outcome };
    observatory.gaps(0, key, [1_000, 20_000].into_iter(), [1_000].into_iter());
    observatory.finished(0, key, record(outcome.name()), Tick(1));
}

fn observed(operation: &'static str) -> (Observatory, GroupId) {
    let observatory = Observatory::new(1, 1, Vec::new());
    let (id, _) = observatory.group(group(operation));
    [Outcome::Ok, Outcome::Ok, Outcome::Timeout]
        .into_iter()
        .for_each(|outcome| finish(&observatory, id, outcome));
    (observatory, id)
}

fn encoder(conventions: Conventions, temporality: Temporality, form: Aggregation) -> Encoder {
    Encoder::new(Resource::default(), conventions, (temporality, form), START)
}

fn export(encoder: &mut Encoder, observatory: &Observatory, now: u64) -> Vec<MetricsRequest> {
    let mut export = encoder.begin(now);
    let more =
        Sample { name: "llm_lens_canary_share", labels: vec![("route", "r".into())], value: 0.25 };
    observatory.export(&mut export, vec![more]);
    export.finish()
}

fn metrics(requests: &[MetricsRequest]) -> Vec<Metric> {
    let resources = requests.iter().flat_map(|request| &request.message.resource_metrics);
    resources.flat_map(|it| &it.scope_metrics).flat_map(|it| it.metrics.clone()).collect()
}

fn find(metrics: &[Metric], name: &str) -> Metric {
    let found: Vec<&Metric> = metrics.iter().filter(|metric| metric.name == name).collect();
    assert_eq!(found.len(), 1, "{name} once");
    found[0].clone()
}

/// Attributes as `key=value`, sorted; whole numbers with a `#`.
fn shown(attributes: &[KeyValue]) -> Vec<String> {
    let mut all: Vec<String> = attributes
        .iter()
        .map(|pair| match pair.value.as_ref().and_then(|value| value.value.clone()) {
            Some(any_value::Value::StringValue(text)) => format!("{}={text}", pair.key),
            Some(any_value::Value::IntValue(number)) => format!("{}=#{number}", pair.key),
            other => panic!("{}: {other:?}", pair.key),
        })
        .collect();
    all.sort();
    all
}

fn explicit(metric: &Metric) -> Vec<HistogramDataPoint> {
    match &metric.data {
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.clone(),
        other => panic!("{}: {other:?}", metric.name),
    }
}

fn counter(metric: &Metric) -> (i64, Vec<String>) {
    let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert!(sum.is_monotonic);
    let point = &sum.data_points[0];
    let Some(number_data_point::Value::AsInt(value)) = point.value else { panic!("{point:?}") };
    (value, shown(&point.attributes))
}

/// The attribute keys of all data points, by metric.
pub(crate) fn attribute_keys(
    conventions: Conventions,
    operation: &'static str,
) -> BTreeMap<String, BTreeSet<String>> {
    let (observatory, _) = observed(operation);
    let mut encoder = encoder(conventions, Temporality::Cumulative, Aggregation::Explicit);
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for metric in metrics(&export(&mut encoder, &observatory, 2_000)) {
        let points: Vec<Vec<KeyValue>> = match metric.data {
            Some(metric::Data::Gauge(it)) => {
                it.data_points.into_iter().map(|point| point.attributes).collect()
            }
            Some(metric::Data::Sum(it)) => {
                it.data_points.into_iter().map(|point| point.attributes).collect()
            }
            Some(metric::Data::Histogram(it)) => {
                it.data_points.into_iter().map(|point| point.attributes).collect()
            }
            other => panic!("{}: {other:?}", metric.name),
        };
        let all = points.into_iter().flatten().map(|pair| pair.key);
        keys.entry(metric.name).or_default().extend(all);
    }
    keys
}

/// The attributes that the conventions require or recommend, and our two.
const BASE: [&str; 7] = [
    "gen_ai.operation.name=chat",
    "gen_ai.provider.name=vllm",
    "gen_ai.request.model=m",
    "llm_lens.backend=b",
    "llm_lens.route=r",
    "server.address=127.0.0.1",
    "server.port=#8000",
];

fn with(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = BASE.iter().chain(more).map(|text| (*text).to_owned()).collect();
    all.sort();
    all
}

#[test]
fn every_gen_ai_metric_has_the_attributes_of_its_conventions() {
    let (observatory, _) = observed("chat");
    for conventions in [Conventions::V141, Conventions::Latest, Conventions::Both] {
        let mut encoder = encoder(conventions, Temporality::Cumulative, Aggregation::Explicit);
        let all = metrics(&export(&mut encoder, &observatory, 2_000));
        for metric in all.iter().filter(|metric| metric.name.starts_with("gen_ai.")) {
            let name = metric.name.as_str();
            if name.contains(".usage.") && name != "gen_ai.client.token.usage" {
                assert_eq!(counter(metric).1, with(&["gen_ai.token.modality=unknown"]), "{name}");
                continue;
            }
            let got: Vec<Vec<String>> =
                explicit(metric).iter().map(|point| shown(&point.attributes)).collect();
            let want = match name {
                "gen_ai.client.token.usage" => {
                    vec![with(&["gen_ai.token.type=input"]), with(&["gen_ai.token.type=output"])]
                }
                "gen_ai.client.operation.duration"
                | "gen_ai.client.inference.duration"
                | "gen_ai.server.request.duration" => {
                    vec![with(&[]), with(&["error.type=timeout"])]
                }
                _ => vec![with(&[])],
            };
            assert_eq!(got, want, "{name}");
        }
        for (name, value) in [
            ("gen_ai.client.inference.usage.input_tokens", 15),
            ("gen_ai.client.inference.usage.output_tokens", 27),
            ("gen_ai.client.inference.usage.cache_read.input_tokens", 9),
            ("gen_ai.client.inference.usage.cache_write.input_tokens", 3),
            ("gen_ai.client.inference.usage.reasoning.output_tokens", 6),
        ] {
            let is_there = all.iter().any(|metric| metric.name == name);
            assert_eq!(is_there, conventions.has_latest(), "{name}");
            if is_there {
                assert_eq!(counter(&find(&all, name)).0, value, "{name}");
            }
        }
    }
}

#[test]
fn values_and_other_metrics_are_those_of_the_series() {
    let (observatory, _) = observed("chat");
    let mut encoder = encoder(Conventions::V141, Temporality::Cumulative, Aggregation::Explicit);
    let all = metrics(&export(&mut encoder, &observatory, 2_000));
    let ttft = find(&all, "gen_ai.server.time_to_first_token");
    let point = &explicit(&ttft)[0];
    assert_eq!(
        (point.count, point.sum, point.min, point.max),
        (3, Some(0.06), Some(0.02), Some(0.02))
    );
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (START, 2_000));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    let at = point.explicit_bounds.iter().position(|bound| *bound == 0.02).unwrap();
    assert_eq!((point.bucket_counts[at], point.bucket_counts.iter().sum::<u64>()), (3, 3));
    let share = find(&all, "llm_lens.canary_share");
    let Some(metric::Data::Gauge(gauge)) = &share.data else { panic!("{share:?}") };
    assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(0.25)));
    let info = find(&all, "llm_lens.route_info");
    let Some(metric::Data::Gauge(gauge)) = &info.data else { panic!("{info:?}") };
    let attributes = shown(&gauge.data_points[0].attributes);
    for pair in ["team=search", "server.address=127.0.0.1", "server.port=#8000"] {
        assert!(attributes.contains(&pair.to_owned()), "{attributes:?}");
    }
    for metric in &all {
        assert!(
            metric.name.starts_with("gen_ai.") || metric.name.starts_with("llm_lens."),
            "{}",
            metric.name
        );
    }
}

#[test]
fn exponential_histograms_have_all_values() {
    let (observatory, _) = observed("chat");
    let mut encoder = encoder(Conventions::V141, Temporality::Cumulative, Aggregation::Exponential);
    let all = metrics(&export(&mut encoder, &observatory, 2_000));
    let gaps = find(&all, "gen_ai.client.operation.time_per_output_chunk");
    let Some(metric::Data::ExponentialHistogram(histogram)) = &gaps.data else {
        panic!("{gaps:?}")
    };
    let point = &histogram.data_points[0];
    let buckets = point.positive.clone().unwrap();
    assert_eq!((point.count, buckets.bucket_counts.iter().sum::<u64>()), (6, 6));
    assert!((point.sum.unwrap() - 0.063).abs() < 1e-9);
}

/// What the collector did not get is a part of the next export; what it got is not.
#[test]
fn deltas_begin_from_what_was_committed() {
    let (observatory, group) = observed("chat");
    let mut encoder = encoder(Conventions::V141, Temporality::Delta, Aggregation::Explicit);
    let of = |requests: &[MetricsRequest]| {
        let all = metrics(requests);
        let point = explicit(&find(&all, "gen_ai.server.time_to_first_token"))[0].clone();
        let events = counter(&find(&all, "llm_lens.client_sent")).0;
        (point.count, events, point.start_time_unix_nano, point.min)
    };
    assert_eq!(of(&export(&mut encoder, &observatory, 2_000)), (3, 60, START, Some(0.02)));
    // The first export was lost.
    let second = export(&mut encoder, &observatory, 3_000);
    assert_eq!(of(&second), (3, 60, START, Some(0.02)));
    second.into_iter().for_each(|request| encoder.commit(request.baseline));
    finish(&observatory, group, Outcome::Ok);
    assert_eq!(of(&export(&mut encoder, &observatory, 4_000)), (1, 20, 3_000, None));
}

/// A series that appears later did not count before.
#[test]
fn later_series_have_their_own_start() {
    let (observatory, _) = observed("chat");
    let mut encoder = encoder(Conventions::V141, Temporality::Cumulative, Aggregation::Explicit);
    export(&mut encoder, &observatory, 2_000);
    let (id, _) = observatory.group(group("embeddings"));
    finish(&observatory, id, Outcome::Ok);
    let all = metrics(&export(&mut encoder, &observatory, 3_000));
    let mut starts: Vec<u64> = explicit(&find(&all, "gen_ai.server.time_to_first_token"))
        .iter()
        .map(|point| point.start_time_unix_nano)
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, [START, 2_000]);
}

#[test]
fn large_exports_are_split_and_complete() {
    let observatory = Observatory::new(1, 1, Vec::new());
    for number in 0..120 {
        let group = Group { route: format!("route-{number}").into(), ..group("chat") };
        let (id, _) = observatory.group(group);
        finish(&observatory, id, Outcome::Ok);
    }
    let mut encoder = encoder(Conventions::Both, Temporality::Cumulative, Aggregation::Explicit);
    let requests = export(&mut encoder, &observatory, 2_000);
    assert!(requests.len() > 1, "{} requests", requests.len());
    use prost::Message as _;
    for request in &requests {
        assert!(request.message.encoded_len() <= MAX_REQUEST_BYTES + (64 << 10));
    }
    let all = metrics(&requests);
    let durations = all.iter().filter(|metric| metric.name == "llm_lens.request_duration");
    assert_eq!(durations.flat_map(explicit).count(), 120);
}

#[test]
fn exemplars_lead_to_exported_traces() {
    let observatory = Observatory::new(1, 10, Vec::new())
        .with_traces(TraceFilter::new(|record| record.outcome == Outcome::Ok));
    let (id, _) = observatory.group(group("chat"));
    [Outcome::Ok, Outcome::Timeout].iter().for_each(|outcome| finish(&observatory, id, *outcome));
    observatory.close();
    let mut encoder = encoder(Conventions::V141, Temporality::Cumulative, Aggregation::Explicit);
    let durations = |encoder: &mut Encoder| {
        let all = metrics(&export(encoder, &observatory, 2_000));
        explicit(&find(&all, "gen_ai.client.operation.duration"))
    };
    let points = durations(&mut encoder);
    let exemplars: Vec<usize> = points.iter().map(|point| point.exemplars.len()).collect();
    assert_eq!(exemplars, [1, 0], "none where requests timed out");
    let exemplar = &points[0].exemplars[0];
    assert_eq!(exemplar.span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    assert_eq!(exemplar.value, Some(exemplar::Value::AsDouble(0.09)));
    // 2026-01-02T03:04:05.1Z, when the request ended.
    assert_eq!(exemplar.time_unix_nano, 1_767_323_045_100_000_000);
    encoder.end(exemplar.time_unix_nano);
    assert!(durations(&mut encoder)[0].exemplars.is_empty(), "it was delivered");
}
